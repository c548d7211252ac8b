"""How far a job is, said by rank 0 now and then."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

from hpc_galaxy.world import World

T = TypeVar("T")
FIRST_SECONDS, LONGEST_SECONDS = 5.0, 60.0  # the waits double, so that a long job's log stays short
FAILED = "failed"  # what a stage counts its failures as


class Pace:
    """When it is time to say something."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._wait = FIRST_SECONDS
        self._due = self._start + self._wait

    @property
    def elapsed(self) -> float:
        """Seconds since this was made."""
        return time.monotonic() - self._start

    def due(self) -> bool:
        """Return whether the wait is over, and begin the next one if it is."""
        now = time.monotonic()
        if now <= self._due:
            return False
        self._wait = min(2 * self._wait, LONGEST_SECONDS)
        self._due = now + self._wait
        return True


class Progress:
    """The progress of a work list.

    Parameters
    ----------
    world : World
        Rank 0 speaks.
    stage, unit : str
        ``extract`` and ``bricks`` make ``extract: 12 of 480 bricks, ...``.
    """

    def __init__(self, world: World, stage: str, unit: str) -> None:
        self._world, self._stage, self._unit = world, stage, unit
        self._pace = Pace()
        self._items = self._finished = 0
        self._cost = self._spent = 0.0

    def expect(self, items: int, cost: float) -> None:
        """Say how many items there are, and what all of them cost together, in any unit."""
        self._items, self._cost = items, cost

    def done(self, cost: float, counts: Iterable[Mapping[str, int]]) -> None:
        """Note that an item is finished; `counts` are what every rank has counted so far."""
        self._finished += 1
        self._spent += cost
        if self._pace.due():
            self._world.say(f"{self._stage}: {self._finished:,} of {self._items:,} {self._unit}{self._totals(counts)}{self._left()}")

    def _totals(self, counts: Iterable[Mapping[str, int]]) -> str:
        total: Counter[str] = Counter()
        for part in counts:
            total.update(part)
        return "".join(f", {amount:,} {name}{self._rate(name, amount)}" for name, amount in total.items() if amount and name != self._unit)

    def _rate(self, name: str, amount: int) -> str:
        return "" if name == FAILED else f" ({amount / self._pace.elapsed:,.0f}/s)"

    def _left(self) -> str:
        return f", {self._pace.elapsed / self._spent * (self._cost - self._spent):.0f} s to go" if self._spent > 0 else ""


def announce(world: World, stage: str, unit: str, items: Iterable[T], total: int) -> Iterator[T]:
    """Yield `items`, of which there are `total`; rank 0 shows how many are done and how long the rest will take.

    On a terminal that is a bar; in a log, where a bar would be thousands of lines, it is a line now and then.
    """
    if world.is_root and sys.stdout.isatty():
        from tqdm import tqdm

        yield from tqdm(items, stage, total, leave=False, unit=f" {unit}", file=sys.stdout)
        return
    progress = Progress(world, stage, unit)
    progress.expect(total, total)
    for number, item in enumerate(items):
        if number:
            progress.done(1, ())
        yield item
