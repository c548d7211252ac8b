"""A side in a process of its own, one thread on one core.

In one process the sides would share what the C library makes of freed memory, which is worth thousands of page faults a step
(`benchmarks/bench_train.py` shows them), and torch's settings. One core, so that a side that reads ahead is not given a second one for
nothing.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from multiprocessing.connection import Connection
from typing import Any

import torch

from hpc_galaxy.bench.suite.clock import Cost, Side

Start = Callable[..., AbstractContextManager[Side]]


def use_one_core() -> None:
    """Bind this process, and the threads that it will start, to one core."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    torch.set_num_threads(1)


class Worker:
    """Starts a side elsewhere, and is that side.

    Parameters
    ----------
    start, arguments
        ``start(*arguments)`` is the context in which the side is.
    """

    def __init__(self, start: Start, *arguments: Any) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._pipe, theirs = spawn.Pipe()
        self._process = spawn.Process(target=_serve, args=(theirs, start, arguments), daemon=True)
        self._process.start()
        theirs.close()  # so that the end of the process is the end of the pipe

    def __call__(self, steps: int) -> Cost:
        """Train for so many steps."""
        self._pipe.send(steps)
        cost = self._pipe.recv()
        assert isinstance(cost, Cost)
        return cost

    def close(self) -> None:
        """End the process."""
        self._pipe.send(None)
        self._process.join()


def _serve(pipe: Connection, start: Start, arguments: tuple[Any, ...]) -> None:
    use_one_core()
    with start(*arguments) as side:
        while (steps := pipe.recv()) is not None:
            pipe.send(side(steps))
