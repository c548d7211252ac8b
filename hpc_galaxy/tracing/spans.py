"""Named spans of time, added up per rank and summed over the job."""

from __future__ import annotations

import resource
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from hpc_galaxy.world import World


class Stopwatch:
    """Seconds spent in named spans, and counts of what was done.

    Attributes
    ----------
    seconds : dict of str to float
        Wall time by span name.
    counts : dict of str to int
        What `count` added up.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.counts: dict[str, int] = defaultdict(int)
        self._start = time.perf_counter()

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """Add the time of the block to span `name`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - start

    def count(self, name: str, amount: int = 1) -> None:
        """Add `amount` to the count `name`."""
        self.counts[name] += amount

    @property
    def elapsed(self) -> float:
        """Wall time since this stopwatch was made, seconds."""
        return time.perf_counter() - self._start

    def summary(self, world: World, stage: str, unit: str) -> str:
        """Return one line for the whole job: what was done, how fast, and where the time went. Collective.

        Parameters
        ----------
        world : World
            Every rank must call this.
        stage : str
            Name of the stage, the line's beginning.
        unit : str
            The count that the rate is given in (for example ``cutouts``).
        """
        ranks = world.allgather((self.elapsed, dict(self.counts), dict(self.seconds), peak_memory()))
        wall, memory = max(elapsed for elapsed, *_ in ranks), max(peak for *_, peak in ranks)
        counts, seconds = _add(counts for _, counts, _, _ in ranks), _add(seconds for _, _, seconds, _ in ranks)
        done = ", ".join(f"{amount:,.0f} {name}" for name, amount in counts.items()) or f"0 {unit}"
        rate = counts.get(unit, 0) / wall
        where = ", ".join(f"{name} {value:.1f} s" for name, value in seconds.items())
        ranks_and_memory = f"{world.size} rank{'s' * (world.size > 1)}, each of at most {memory / 1e6:,.0f} MB"
        line = f"{stage}: {done} in {wall:.1f} s on {ranks_and_memory} ({rate:,.1f} {unit}/s)"
        return f"{line}; summed over ranks: {where}" if where else line


def peak_memory() -> int:
    """Return the largest resident memory that this process has had, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _add(tables: Iterator[dict[str, float]] | Iterator[dict[str, int]]) -> dict[str, float]:
    total: dict[str, float] = defaultdict(float)
    for table in tables:
        for name, value in table.items():
            total[name] += value
    return dict(total)
