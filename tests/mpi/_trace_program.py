"""Train under a trace with something wrong: ``_trace_program.py ROOT CAUSE...``, into ROOT/CAUSE, one after the other.

``disk`` has rank 1's reads take $SLOW_READ more seconds. ``killed`` kills rank 1 in its sixth step;
``clock`` trains nothing, but says what is measured of a clock of rank 1's that is 5 s ahead.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hpc_galaxy.config import load_config
from hpc_galaxy.shards.numpy_shards import SplitReader
from hpc_galaxy.tracing import clock, recorder
from hpc_galaxy.training import build
from hpc_galaxy.training.model import GalaxyCNN
from hpc_galaxy.training.train import train
from hpc_galaxy.world import World, detect, guard

HUGE = 2 * 10**7  # parameters
SECONDS = 0.25
CALLS = count(1)
AHEAD = 5 * 10**9  # nanoseconds


class HugeGradient(GalaxyCNN):
    """A network most of which nothing goes through: little to compute and much to send."""

    def __init__(self, channels: int, size: int) -> None:
        super().__init__(channels, size)
        self.idle = nn.Parameter(torch.zeros(HUGE))

    def state_dict(self, *arguments: Any, **options: Any) -> dict[str, Any]:
        """Leave out what is idle: on a slow disk it would make checkpoints the worst of the two."""
        return {name: value for name, value in super().state_dict(*arguments, **options).items() if name != "idle"}

    def load_state_dict(self, state: Any, *arguments: Any, **options: Any) -> Any:
        """Do without it as well."""
        return super().load_state_dict(state, strict=False)


def on_rank_1(world: World, owner: Any, name: str, before: Callable[[], None]) -> None:
    """Let rank 1 do something more in a function."""
    inner = getattr(owner, name)

    def slower(*arguments: Any, **options: Any) -> Any:
        before()
        return inner(*arguments, **options)

    if world.rank == 1:
        setattr(owner, name, slower)


def compute() -> None:
    """Compute for a while."""
    end, matrix = time.monotonic() + SECONDS, torch.ones(300, 300)
    while time.monotonic() < end:
        matrix = matrix @ matrix / 300


def die() -> None:
    """End this process at once, after some calls."""
    if next(CALLS) == 6:
        time.sleep(1.5)  # what was recorded is handed over each second
        os.kill(os.getpid(), signal.SIGKILL)


def say_offset(world: World) -> None:
    """Let rank 1 have a node and a clock of its own, and print what is measured of it."""
    if world.rank == 1:
        clock.socket.gethostname = lambda: "elsewhere"
        recorder.now = lambda: time.perf_counter_ns() + AHEAD
    offsets = world.gather(clock.measure_offset(world))
    world.say(f"offsets {[(offset.nanoseconds, offset.error) for offset in offsets]}")


def plant(cause: str, world: World) -> list[str]:
    """Let something be wrong; return what has to be configured for it."""
    if cause == "disk":
        on_rank_1(world, SplitReader, "stamps", lambda: time.sleep(float(os.environ["SLOW_READ"])))
    elif cause == "rank":
        on_rank_1(world, GalaxyCNN, "forward", compute)
    elif cause == "killed":
        on_rank_1(world, GalaxyCNN, "forward", die)
    elif cause == "messages":
        build.make_model = lambda name, channels, size: HugeGradient(channels, size)
        return ["train.epochs=1", "train.batch_size=1", "train.optimizer.name='sgd'", "train.optimizer.momentum=0.0"]
    elif cause == "checkpoints":
        return ["train.batch_size=1", "train.saving.every_steps=1"]
    return []


def main(root: Path, *causes: str) -> None:
    """Train once for each cause."""
    world = detect()
    with guard(world):
        if causes == ("clock",):
            say_offset(world)
            return
        for cause in causes:
            kept = [
                (owner, name, getattr(owner, name))
                for owner, name in ((SplitReader, "stamps"), (GalaxyCNN, "forward"), (build, "make_model"))
            ]
            settings = [f"paths.run='{root}/{cause}'", "trace.spans=true", *plant(cause, world)]
            train(load_config(root / "config.toml", settings), world, False)
            for owner, name, function in kept:
                setattr(owner, name, function)


main(Path(sys.argv[1]), *sys.argv[2:])
