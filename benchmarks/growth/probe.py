"""Measure one size in a process of its own, and stand in for the ranks that do not fit here."""

from __future__ import annotations

import json
import os
import pickle
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hpc_galaxy.world import World

ENOUGH_SECONDS, MOST_REPEATS = 3.0, 3
SCRIPT = Path(__file__).resolve().parents[1] / "bench_growth.py"
MEGABYTES = " [MB]"  # ends the name of a value in megabytes; all others are seconds, or plain numbers that nothing is fitted to


def run(probe: str, size: int, root: Path) -> dict[str, float]:
    """Run a probe, such as ``bricks.start``, at one size in a new process; return what it found, by name."""
    command = [sys.executable, str(SCRIPT), "--probe", probe, str(size), str(root)]
    done = subprocess.run(command, text=True, stdout=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if done.returncode:
        raise SystemExit(f"{probe} at {size} ended with exit code {done.returncode}, see above")
    return dict(json.loads(done.stdout.splitlines()[-1]))


@dataclass
class Found:
    """What a probe finds, by name."""

    values: dict[str, float] = field(default_factory=dict)

    def time(self, name: str, work: Callable[[], Any]) -> Any:
        """Note the median seconds of `work`, repeated where it is short, and the process's peak memory while it ran; return its result."""
        seconds: list[float] = []
        with peak(self, name):
            while len(seconds) < MOST_REPEATS and sum(seconds) < ENOUGH_SECONDS:
                result = None  # what the repeat before has made must not count in this one's memory
                start = time.perf_counter()
                result = work()
                seconds.append(time.perf_counter() - start)
        self.values[name] = statistics.median(seconds)
        return result


@contextmanager
def peak(found: Found, name: str) -> Iterator[None]:
    """Note the largest memory that this process holds while the block runs, MB, where the system (Linux) tells it."""
    reset = Path("/proc/self/clear_refs")
    if reset.exists():
        reset.write_text("5")  # begin anew (proc(5)); ru_maxrss would still know of everything before
    yield
    if reset.exists():
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        found.values[name + MEGABYTES] = int(status["VmHWM"].split()[0]) * 1024 / 1e6


def resident() -> float:
    """Return the memory that this process holds now, MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


@dataclass(frozen=True)
class Crowd(World):
    """Rank 0 of many, with made-up others: each of them sends what `other` says, by default the same as rank 0 itself.

    What is gathered goes through pickle, as it does on its way through MPI, so that rank 0 holds as much as it would.
    """

    other: Callable[[Any, int], Any] = lambda value, rank: value

    def bcast(self, value: Any) -> Any:
        """Return `value` as the ranks get it."""
        return value

    def gather(self, value: Any) -> list[Any]:
        """Return what every rank would send."""
        return [value, *(_sent(self.other(value, rank)) for rank in range(1, self.size))]

    def allgather(self, value: Any) -> list[Any]:
        """Return what every rank would send."""
        return self.gather(value)

    def exchange(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        """Return as much as was sent: what the others have for this rank is like what it has for them."""
        return np.concatenate(parts)

    def sum(self, values: np.ndarray) -> np.ndarray:
        """Return the sum over ranks that all have the same."""
        return np.asarray(values) * self.size

    def max(self, value: int) -> int:
        """Return the largest of equal values."""
        return value


def _sent(value: Any) -> Any:
    """Return what arrives: MPI's Python pickles and unpickles."""
    return pickle.loads(pickle.dumps(value, 5))  # noqa: S301


@contextmanager
def counted(module: Any, *names: str) -> Iterator[dict[str, int]]:
    """Count the calls of functions of a module, such as ``os.stat``, while the block runs."""
    counts, kept = dict.fromkeys(names, 0), {name: getattr(module, name) for name in names}

    def counting(name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            counts[name] += 1
            return kept[name](*arguments, **options)

        return call

    for name in names:
        setattr(module, name, counting(name))
    try:
        yield counts
    finally:
        for name, function in kept.items():
            setattr(module, name, function)
