"""The order of an epoch: of seed and epoch alone, whatever the number of ranks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from hpc_galaxy.world import World

OPEN_WINDOWS = 2  # a batch may reach from one into the next


class Order:
    """The order in which an epoch visits its examples.

    The shards are shuffled, and dealt into windows; within a window the examples are shuffled. So all that is read at a time comes from
    few shards, and only the windows in use are held in memory: for 60 million examples that is 2 x 262 kB and 2 MB, not 480 MB.

    Parameters
    ----------
    seed, epoch : int
        They decide the order.
    shards : sequence of int
        Examples in each shard; example numbers count through the shards as they stand.
    window : int
        Shards in a window.
    """

    def __init__(self, seed: int, epoch: int, shards: Sequence[int], window: int) -> None:
        sizes = np.asarray(shards, np.int64)
        self._key = (seed, epoch)
        self._sizes, self._first = sizes, np.append(0, np.cumsum(sizes))
        shuffled = np.random.default_rng(self._key).permutation(len(sizes))
        self._windows = [shuffled[start : start + window] for start in range(0, len(sizes), window)]
        self._borders = np.append(0, np.cumsum([int(sizes[shards_in].sum()) for shards_in in self._windows])).astype(np.int64)
        self._window = lru_cache(OPEN_WINDOWS)(self._shuffle)

    def __len__(self) -> int:
        return int(self._borders[-1])

    def part(self, start: int, stop: int) -> np.ndarray:
        """Return the examples at the positions from `start` to before `stop`, shape (stop - start,), int64."""
        parts = [np.empty(0, np.int64)]
        first, last = np.searchsorted(self._borders, (start, stop - 1), "right") - 1 if stop > start else (0, -1)
        for number in range(first, last + 1):
            begin = self._borders[number]
            parts.append(self._window(number)[max(start - begin, 0) : stop - begin])
        return np.concatenate(parts)

    def _shuffle(self, number: int) -> np.ndarray:
        shards = self._windows[number]
        examples = np.concatenate([np.arange(self._first[shard], self._first[shard + 1]) for shard in shards])
        return np.random.default_rng((*self._key, number)).permutation(examples)


def rank_part(items: int, world: World) -> slice:
    """Return which of `items` things in a row are this rank's; the ranks' parts differ by one at most, and may be empty."""
    return slice(items * world.rank // world.size, items * (world.rank + 1) // world.size)


def rank_examples(order: Order, start: int, stop: int, world: World) -> np.ndarray:
    """Return this rank's examples of the global batch from `start` to before `stop`, shape (n,), int64.

    Which examples a global batch has is the order's; who holds which changes no sum over it. Sorted, each rank's are neighbours: it
    reads from few shards.
    """
    batch = np.sort(order.part(start, stop))
    return batch[rank_part(len(batch), world)]
