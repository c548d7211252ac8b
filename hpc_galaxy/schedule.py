"""Who does which item: rank 0 deals them out one by one, the heaviest first, to whichever rank is free.

A slow node takes fewer items, and what is begun last is light, so that all ranks end at nearly the same time. Up to
`DEALING_ALONGSIDE` ranks, rank 0 works too and deals from a thread; in a larger job it does nothing but deal, because a
request must not wait for Python's interpreter lock while a thousand others queue behind it.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from hpc_galaxy.errors import ConfigError
from hpc_galaxy.tracing.progress import Progress
from hpc_galaxy.tracing.recorder import WAIT
from hpc_galaxy.tracing.spans import Stopwatch
from hpc_galaxy.world import World, guard

T = TypeVar("T")
PART = re.compile(r"([1-9]\d*)/([1-9]\d*)")
DEALING_ALONGSIDE = 64
POLL_SECONDS = 0.0005  # a blocking receive would spin, on the core that rank 0 works on
ASK, GIVE = 1, 2  # message tags


@dataclass(frozen=True)
class Part:
    """One of several jobs that share a stage's work list; `number` of `of`, counted from 1."""

    number: int
    of: int

    def share(self, items: Sequence[T]) -> list[T]:
        """Return this part of `items`: every of-th, beginning at its number."""
        return list(items[self.number - 1 :: self.of])


def parse_part(text: str) -> Part:
    """Read ``NUMBER/OF``.

    Raises
    ------
    ConfigError
        It is something else, or there is no such part.
    """
    match = PART.fullmatch(text)
    part = Part(int(match[1]), int(match[2])) if match else None
    if part is None or part.number > part.of:
        raise ConfigError("--part", f"got '{text}', expected NUMBER/OF with NUMBER from 1 to OF", "for example --part 3/16")
    return part


def deal(world: World, stage: str, unit: str, items: Sequence[T], watch: Stopwatch, costs: Sequence[float] | None = None) -> Iterator[T]:
    """Yield the items of the job's work list that fall to this rank; each goes to exactly one rank. Collective.

    Parameters
    ----------
    world : World
        Every rank must iterate to the end.
    stage, unit : str
        What rank 0 says of the progress: ``extract: 12 of 480 bricks, ...``.
    items : sequence
        The work of the whole job; only rank 0's is looked at. No item is None.
    watch : Stopwatch
        This rank's; its counts are shown with the progress.
    costs : sequence of float, optional
        How heavy each item is, in any unit; without it all weigh the same and keep their order. Only rank 0's is looked at.
    """
    queue = _Queue(Progress(world, stage, unit), items, costs) if world.is_root else None
    if world.comm is None:
        assert queue is not None
        yield from _take(queue, watch)
        return
    comm = world.comm.Dup()
    if queue is None:
        yield from _ask(comm, world.rank, watch)
    elif world.size > DEALING_ALONGSIDE or not world.threads:
        _serve(comm, queue, world.size - 1)
    else:
        dealer = threading.Thread(target=_serve_guarded, args=(world, comm, queue), name="dealer", daemon=True)
        dealer.start()
        yield from _take(queue, watch)
        dealer.join()
    comm.Free()


class _Queue(Generic[T]):
    """What is still to be done, on rank 0."""

    def __init__(self, progress: Progress, items: Sequence[T], costs: Sequence[float] | None) -> None:
        weights = [1.0] * len(items) if costs is None else list(costs)
        order = sorted(range(len(items)), key=lambda number: -weights[number])  # stable
        self._waiting = iter([(items[number], weights[number]) for number in order])
        self._progress = progress
        progress.expect(len(items), sum(weights))
        self._underway: dict[int, float] = {}
        self._counts: dict[int, Mapping[str, int]] = {}
        self._lock = threading.Lock()

    def take(self, rank: int, counts: Mapping[str, int]) -> T | None:
        """Return the next item for `rank`, which has finished the one before and counted `counts` so far; None at the end."""
        with self._lock:
            self._counts[rank] = counts
            if rank in self._underway:
                self._progress.done(self._underway.pop(rank), self._counts.values())
            item, weight = next(self._waiting, (None, 0.0))
            if item is not None:
                self._underway[rank] = weight
            return item


def _take(queue: _Queue[T], watch: Stopwatch) -> Iterator[T]:
    while (item := queue.take(0, dict(watch.counts))) is not None:
        yield item


def _ask(comm: Any, rank: int, watch: Stopwatch) -> Iterator[Any]:
    while True:
        with watch.span(WAIT):
            comm.send((rank, dict(watch.counts)), dest=0, tag=ASK)
            item = comm.recv(source=0, tag=GIVE)
        if item is None:
            return
        yield item


def _serve(comm: Any, queue: _Queue[T], workers: int) -> None:
    """Answer requests until every worker has been told that nothing is left."""
    while workers:
        if not comm.iprobe(tag=ASK):
            time.sleep(POLL_SECONDS)
            continue
        rank, counts = comm.recv(tag=ASK)
        item = queue.take(rank, counts)
        comm.send(item, dest=rank, tag=GIVE)
        workers -= item is None


def _serve_guarded(world: World, comm: Any, queue: _Queue[T]) -> None:
    with guard(world):
        _serve(comm, queue, world.size - 1)
