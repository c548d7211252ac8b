"""How far rank 0 is, said now and then."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from hpc_galaxy.world import World

T = TypeVar("T")
FIRST_SECONDS, LONGEST_SECONDS = 5.0, 60.0  # the waits double, so that a long job's log stays short


def track(world: World, stage: str, items: Sequence[T]) -> Iterator[T]:
    """Yield this rank's share of `items`; rank 0 says now and then how far it is.

    Parameters
    ----------
    world : World
        Decides the share.
    stage : str
        Name printed with the progress.
    items : sequence
        The work of the whole job.
    """
    mine = world.share(items)
    yield from announce(world, stage, "items", mine, len(mine))


def announce(world: World, stage: str, unit: str, items: Iterable[T], total: int) -> Iterator[T]:
    """Yield `items`, of which there are `total`; rank 0 says now and then how many are done and how long the rest will take."""
    start = time.monotonic()
    wait, due = FIRST_SECONDS, start + FIRST_SECONDS
    for done, item in enumerate(items):
        now = time.monotonic()
        if done and now > due:
            left = (now - start) / done * (total - done)
            world.say(f"{stage}: rank 0 of {world.size} did {done:,} of its {total:,} {unit}, {left:.0f} s to go")
            wait = min(2 * wait, LONGEST_SECONDS)
            due = now + wait
        yield item
