"""Train once with each backend, in one job: ``_training_program.py ROOT RUN STOP_AFTER BACKEND[,BACKEND...] [OVERRIDE...]``.

Into ROOT/RUN/BACKEND. With STOP_AFTER > 0 the last rank sends itself USR1 in so many steps of each training, counted over all its
networks. ``_training_program.py ROOT report`` scores the run ROOT/run, made by one process, into ROOT/report-RANKS.
At the very end it says which of gloo's threads still run.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
from pathlib import Path

from hpc_galaxy.config import load_config
from hpc_galaxy.errors import PreemptedError
from hpc_galaxy.training.torchrun import join_torchrun, launched_by_torchrun
from hpc_galaxy.training.train import train
from hpc_galaxy.world import World, detect, guard


def say_threads() -> None:
    """Print the names of gloo's threads."""
    names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    print(f"threads of gloo's: {sorted(name for name in names if 'gloo' in name)}\n", end="", flush=True)  # in one piece


class Stop:
    """Lets the last rank have a signal in the middle of a step."""

    def __init__(self, after: int, world: World) -> None:
        from hpc_galaxy.training.loop import Trainer

        self.after, self.steps, average = after, 0, Trainer.step

        def step(trainer: Trainer, batch: object, state: object) -> None:
            self.steps += 1
            if self.steps == self.after and world.rank == world.size - 1:
                os.kill(os.getpid(), signal.SIGUSR1)
            average(trainer, batch, state)

        Trainer.step = step


def score(root: Path, world: World) -> None:
    """Score ROOT/run."""
    from hpc_galaxy.realism.report import report

    report(load_config(root / "config.toml", [f'paths.report="{root}/report-{world.size}"']), world, False)


def train_all(root: Path, run: str, stop: Stop, backends: list[str], overrides: tuple[str, ...], world: World) -> None:
    """Train with one backend after another; in the end, fail as the last one that was stopped."""
    stopped = None
    for backend in backends:
        stop.steps = 0
        where = [f"train.backend='{backend}'", f"paths.run='{root}/{run}/{backend}'"]
        try:
            train(load_config(root / "config.toml", [*where, *overrides]), world, False)
        except PreemptedError as error:
            stopped = error
    if stopped is not None:
        raise stopped


def main(root: Path, what: str, stop: str = "0", backends: str = "", *overrides: str) -> None:
    """Do what the command says."""
    world = join_torchrun(os.environ) if launched_by_torchrun(os.environ) else detect()
    with guard(world):
        if what == "report":
            score(root, world)
        else:
            train_all(root, what, Stop(int(stop), world), backends.split(","), overrides, world)


atexit.register(say_threads)  # the first to be registered is the last to be called
main(Path(sys.argv[1]), *sys.argv[2:])
