"""Train in one job, and then score: ``_training_program.py ROOT STOP_AFTER [OVERRIDE...]``.

With STOP_AFTER > 0 rank 1 sends itself USR1 after so many steps. The run ROOT/run, made by one process, is scored into ROOT/report-RANKS.
At the very end it says which of gloo's threads still run.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
from pathlib import Path

from hpc_galaxy.config import load_config
from hpc_galaxy.training.torchrun import join_torchrun, launched_by_torchrun
from hpc_galaxy.training.train import train
from hpc_galaxy.world import World, detect, guard


def say_threads() -> None:
    """Print the names of gloo's threads."""
    names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    print("threads of gloo's:", sorted(name for name in names if "gloo" in name))


def stop_after(steps: int, world: World) -> None:
    """Let the last rank have a signal in the middle of a step."""
    from hpc_galaxy.training.loop import Trainer

    average = Trainer.step

    def step(trainer: Trainer, batch: object, state: object) -> None:
        if state.steps == steps - 1 and world.rank == world.size - 1:
            os.kill(os.getpid(), signal.SIGUSR1)
        average(trainer, batch, state)

    Trainer.step = step


def main(root: Path, stop: int, *overrides: str) -> None:
    """Train with the overrides on top of ROOT/config.toml; score."""
    world = join_torchrun(os.environ) if launched_by_torchrun(os.environ) else detect()
    with guard(world):
        if stop:
            stop_after(stop, world)
        train(load_config(root / "config.toml", overrides), world, False)
        from hpc_galaxy.realism.report import report

        report(load_config(root / "config.toml", [f'paths.report="{root}/report-{world.size}"']), world, False)


atexit.register(say_threads)  # the first to be registered is the last to be called
main(Path(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
