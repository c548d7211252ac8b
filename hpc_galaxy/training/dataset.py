"""Batches of a split: a global order that knows nothing of ranks, of which each rank takes its slice, read one batch ahead."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

from hpc_galaxy.errors import FormatError, InputError
from hpc_galaxy.shards.manifest import Statistics
from hpc_galaxy.shards.numpy_shards import SplitReader
from hpc_galaxy.world import World

A = TypeVar("A")
B = TypeVar("B")


@dataclass(frozen=True)
class Batch:
    """One rank's slice of a global batch.

    Attributes
    ----------
    images : Tensor, shape (n, channels, size, size), float32
        Normalised; in memory channels-last, as the shards are. n may be 0.
    labels : Tensor, shape (n,), int64
        0 real, 1 fake.
    examples : int
        Examples in the whole global batch, over all ranks.
    """

    images: torch.Tensor
    labels: torch.Tensor
    examples: int

    def to(self, device: torch.device) -> Batch:
        """Return this batch on `device`."""
        return Batch(self.images.to(device, non_blocking=True), self.labels.to(device, non_blocking=True), self.examples)


def epoch_order(seed: int, epoch: int, examples: int) -> np.ndarray:
    """Return the order in which an epoch visits its examples, shape (examples,): of seed and epoch alone."""
    return np.random.default_rng((seed, epoch)).permutation(examples)


def global_batches(order: np.ndarray, size: int) -> list[np.ndarray]:
    """Cut an order into global batches of `size`; the last one holds what is left, at least one example."""
    return [order[start : start + size] for start in range(0, len(order), size)]


def rank_part(items: int, world: World) -> slice:
    """Return which of `items` things in a row are this rank's; the ranks' parts differ by one at most, and may be empty."""
    return slice(items * world.rank // world.size, items * (world.rank + 1) // world.size)


def normalise(stamps: np.ndarray, statistics: Statistics) -> np.ndarray:
    """Return ``(arcsinh(stamps / scale) - mean) / std`` per channel, in place.

    numpy, not torch: it runs in the reading thread, where torch would start a second team of threads.

    Parameters
    ----------
    stamps : ndarray, shape (n, size, size, channels), float32
        As read; overwritten.
    statistics : Statistics
        Of the training split.
    """
    scale, mean, std = (np.asarray(values, stamps.dtype) for values in (statistics.scale, statistics.mean, statistics.std))
    stamps /= scale
    np.arcsinh(stamps, out=stamps)
    stamps -= mean
    stamps /= std
    return stamps


@dataclass(frozen=True)
class Dataset:
    """Normalised batches of one split of a directory of shards."""

    reader: SplitReader

    def __len__(self) -> int:
        return len(self.reader)

    def check(self) -> None:
        """Refuse a split that nothing can be computed from.

        Raises
        ------
        InputError
            There is no example.
        FormatError
            A label is neither 0 nor 1.
        """
        where = f"{self.reader.directory}, split '{self.reader.split}'"
        if not len(self):
            raise InputError(where, "holds no examples", "make the shards of more bricks, or raise this split's fraction")
        if self.reader.labels.max() > 1:
            raise FormatError(where, f"has a label {self.reader.labels.max()}, expected 0 or 1", "run 'hpc-galaxy split --overwrite'")

    def load(self, indices: np.ndarray, examples: int) -> Batch:
        """Read and normalise the examples at `indices`, part of a global batch of `examples`.

        Raises
        ------
        FormatError
            A stamp has a pixel that is not finite.
        """
        stamps = normalise(self.reader.stamps(indices), self.reader.manifest.statistics)
        if not np.isfinite(stamps).all():
            self._refuse(indices[~np.isfinite(stamps).all(axis=(1, 2, 3))])
        # Axes (n, y, x, channel) seen as (n, channel, y, x): torch's channels_last, without a copy.
        images = torch.from_numpy(stamps).permute(0, 3, 1, 2)
        return Batch(images, torch.from_numpy(self.reader.labels[indices].astype(np.int64)), examples)

    def steps(self, size: int) -> int:
        """Return the number of global batches of `size` in an epoch."""
        return -(-len(self) // size)

    def epoch(self, seed: int, epoch: int, size: int, world: World) -> Iterator[Batch]:
        """Yield this rank's slices of an epoch's global batches of `size` examples, the next one being read meanwhile."""
        batches = global_batches(epoch_order(seed, epoch, len(self)), size)
        return read_ahead(lambda batch: self.load(batch[rank_part(len(batch), world)], len(batch)), batches)

    def _refuse(self, bad: np.ndarray) -> None:
        where = f"{self.reader.directory}, split '{self.reader.split}', example {bad[0]} (id {self.reader.table['id'][bad[0]].decode()})"
        raise FormatError(where, "has pixels that are not finite after normalisation", "run 'hpc-galaxy check' on the shards")


def read_ahead(load: Callable[[A], B], items: Iterable[A]) -> Iterator[B]:
    """Yield ``load(item)`` for each item, the next one being loaded in one background thread.

    A thread, not processes: reading is a memory map and numpy, which leave the interpreter free, and threads survive MPI.
    """
    with ThreadPoolExecutor(1, "read_ahead") as thread:
        waiting = None
        for item in items:
            ready, waiting = waiting, thread.submit(load, item)
            if ready is not None:
                yield ready.result()
        if waiting is not None:
            yield waiting.result()
