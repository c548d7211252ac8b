"""Named spans of time, added up per rank and summed over the job."""

from __future__ import annotations

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
        ranks = world.allgather((self.elapsed, dict(self.counts), dict(self.seconds)))
        wall = max(elapsed for elapsed, _, _ in ranks)
        counts, seconds = _add(c for _, c, _ in ranks), _add(s for _, _, s in ranks)
        done = ", ".join(f"{amount:,.0f} {name}" for name, amount in counts.items()) or f"0 {unit}"
        rate = counts.get(unit, 0) / wall
        where = ", ".join(f"{name} {value:.1f} s" for name, value in seconds.items())
        line = f"{stage}: {done} in {wall:.1f} s on {world.size} rank{'s' * (world.size > 1)} ({rate:,.1f} {unit}/s)"
        return f"{line}; summed over ranks: {where}" if where else line


def _add(tables: Iterator[dict[str, float]] | Iterator[dict[str, int]]) -> dict[str, float]:
    total: dict[str, float] = defaultdict(float)
    for table in tables:
        for name, value in table.items():
            total[name] += value
    return dict(total)
