"""Work in small steps under the watchdog, and let a function below happen: ``_watchdog_program.py FUNCTION SILENT STALLED``."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

from hpc_galaxy.config.training import Watchdog as Settings
from hpc_galaxy.errors import PreemptedError
from hpc_galaxy.guarding.signals import Signals
from hpc_galaxy.guarding.watchdog import Watchdog
from hpc_galaxy.world import World, detect, guard

STEPS, EVENT = 200, 5


def stop_rank_0(world: World) -> None:
    _send(world.rank == 0, os.getpid(), signal.SIGSTOP)


def stop_rank_1(world: World) -> None:
    _send(world.rank == 1, os.getpid(), signal.SIGSTOP)


def pause_all(world: World) -> None:
    """What ``scancel --signal=STOP`` and later CONT do: nobody is to blame."""
    subprocess.Popen(["sh", "-c", f"sleep 9; kill -CONT {os.getpid()}"], start_new_session=True)
    _send(True, os.getpid(), signal.SIGSTOP)
    print(f"rank {world.rank} goes on", flush=True)


def busy_rank_1(world: World) -> None:
    while world.rank == 1:
        time.sleep(0.01)


def slow_step(world: World) -> None:
    """One of rank 1's takes longer than a silent rank is given."""
    time.sleep(5 * world.rank)


def usr1_to_rank_1(world: World) -> None:
    _send(world.rank == 1, os.getpid(), signal.SIGUSR1)


def usr2_to_mpirun(world: World) -> None:
    _send(world.rank == 1, os.getppid(), signal.SIGUSR2)


def term_to_rank_0(world: World) -> None:
    _send(world.rank == 0, os.getpid(), signal.SIGTERM)


def term_to_mpirun(world: World) -> None:
    _send(world.rank == 0, os.getppid(), signal.SIGTERM)


def _send(who: bool, process: int, number: signal.Signals) -> None:
    if who:
        os.kill(process, number)


def work(world: World, settings: Settings, happens: Callable[[World], None]) -> None:
    with Signals() as signals, Watchdog(world, settings) as watchdog:
        if world.is_root:
            print(f"AT {time.time()}", flush=True)
        for step in range(STEPS if happens.__name__ not in ("pause_all", "slow_step") else 2 * EVENT):
            watchdog.beat(f"step {step}")
            if step == EVENT:
                happens(world)
            time.sleep(0.05)
            if number := world.max(signals.received or 0):
                raise PreemptedError("work", f"stopped by {signal.Signals(number).name} after step {step}", "start it again")
        # One writes the last checkpoint while the others have nothing more to do.
        time.sleep(0 if world.rank else 5)
    world.say("finished")


def main(what: str, silent: str, stalled: str) -> None:
    world = detect()
    with guard(world):
        work(world, Settings(silent_seconds=float(silent), stalled_seconds=float(stalled)), globals()[what])


main(*sys.argv[1:])
