"""Batches of a split: each rank's slice of a global order, read ahead in the background."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
import torch

from hpc_galaxy.config.training import Data
from hpc_galaxy.errors import FormatError, InputError
from hpc_galaxy.shards.numpy_shards import SplitReader
from hpc_galaxy.training.data.augment import Augmentation
from hpc_galaxy.training.data.inputs import Inputs
from hpc_galaxy.training.data.order import Order, rank_examples, rank_part
from hpc_galaxy.world import World

A = TypeVar("A")
B = TypeVar("B")


@dataclass(frozen=True)
class Batch:
    """One rank's slice of a global batch. It is valid until the next one is asked for, which may use its memory again.

    Attributes
    ----------
    images : Tensor, shape (n, channels, size, size), float32
        What the network sees; in memory channels-last, as the shards are. n may be 0.
    labels : Tensor, shape (n,), int64
        0 real, 1 fake.
    indices : ndarray, shape (n,), int64
        The examples' numbers in their split.
    examples : int
        Examples in the whole global batch, over all ranks.
    """

    images: torch.Tensor
    labels: torch.Tensor
    indices: np.ndarray
    examples: int

    def to(self, device: torch.device) -> Batch:
        """Return this batch on `device`."""
        images, labels = (tensor.to(device, non_blocking=True) for tensor in (self.images, self.labels))
        return Batch(images, labels, self.indices, self.examples)

    def pieces(self, size: int) -> Iterator[Batch]:
        """Yield this batch in pieces of at most `size` examples; an empty batch in one empty piece."""
        for start in range(0, max(len(self.labels), 1), size):
            part = slice(start, start + size)
            yield Batch(self.images[part], self.labels[part], self.indices[part], self.examples)


@dataclass(frozen=True)
class Dataset:
    """Batches of one split of a directory of shards.

    Attributes
    ----------
    reader : SplitReader
        The split.
    inputs : Inputs
        What the network sees.
    settings : Data
        The section [train.data].
    augment : bool
        Whether its augmentation is applied.
    """

    reader: SplitReader
    inputs: Inputs
    settings: Data
    augment: bool = False

    def __len__(self) -> int:
        return len(self.reader)

    @property
    def labels(self) -> np.ndarray:
        """Labels, shape (N,), uint8: 0 real, 1 fake."""
        return self.reader.labels

    def ids(self, indices: np.ndarray) -> list[str]:
        """Return the examples' ids."""
        return [identity.decode() for identity in self.reader.table["id"][indices]]

    def check(self) -> None:
        """Refuse a split that nothing can be computed from.

        Raises
        ------
        InputError
            There is no example.
        FormatError
            A label is neither 0 nor 1, or the stamps are not those that the network sees.
        """
        where = f"{self.reader.directory}, split '{self.reader.split}'"
        if not len(self):
            raise InputError(where, "holds no examples", "make the shards of more bricks, or raise this split's fraction")
        if self.labels.max() > 1:
            raise FormatError(where, f"has a label {self.labels.max()}, expected 0 or 1", "run 'hpc-galaxy split --overwrite'")
        found, expected = self.reader.stamp_format, self.inputs.stamps
        if found != expected:
            got = f"has stamps {found.shape} of {', '.join(found.channels)}"
            raise FormatError(where, f"{got}, expected {expected.shape} of {', '.join(expected.channels)}", "train on these shards anew")

    def epoch(self, seed: int, epoch: int, global_batch: int, world: World, start: int = 0) -> Iterator[Batch]:
        """Yield this rank's slices of an epoch's global batches, the next ones being read meanwhile.

        Parameters
        ----------
        seed, epoch : int
            They decide order and augmentation.
        global_batch : int
            Examples a step, over all ranks; the last one of an epoch holds what is left.
        world : World
            Whose slices.
        start : int
            Examples of the epoch that have been seen already.
        """
        order = Order(seed, epoch, [shard.examples for shard in self.reader.shards], self.settings.window)
        augmentation = Augmentation(self.settings, seed, epoch) if self.augment and self.settings.augment else None

        def load(begin: int, room: Room) -> Batch:
            stop = min(begin + global_batch, len(order))
            return self._load(rank_examples(order, begin, stop, world), stop - begin, room, augmentation)

        most = -(-global_batch // world.size)
        return self._read_ahead(load, range(start, len(order), global_batch), most)

    def blocks(self, size: int, world: World) -> Iterator[Batch]:
        """Yield this rank's share of the split in its own order, in blocks of `size` examples that do not depend on the ranks."""
        starts = range(0, len(self), size)

        def load(begin: int, room: Room) -> Batch:
            indices = np.arange(begin, min(begin + size, len(self)))
            return self._load(indices, len(indices), room, None)

        return self._read_ahead(load, starts[rank_part(len(starts), world)], size)

    def _read_ahead(self, load: Callable[[int, Room], Batch], items: Iterable[int], most: int) -> Iterator[Batch]:
        depth = self.settings.prefetch
        rooms = [Room(most, self.inputs) for _ in range(depth + 2)]
        return read_ahead(lambda item: load(item[1], rooms[item[0] % len(rooms)]), enumerate(items), depth)

    def _load(self, indices: np.ndarray, examples: int, room: Room, augmentation: Augmentation | None) -> Batch:
        """Read the examples at `indices`, part of a global batch of `examples`."""
        seen = room.seen[: len(indices)]
        # Straight to where the network reads, where nothing but the units change.
        raw = seen if self.inputs.in_place and augmentation is None else None
        stamps = self.reader.stamps(indices, out=raw)
        if augmentation is not None:
            turned = seen if self.inputs.in_place else np.empty_like(stamps)
            augmentation.apply(stamps, indices, turned)
            stamps = turned
        self.inputs.apply(stamps, seen)
        with np.errstate(over="ignore", invalid="ignore"):
            finite = np.isfinite(seen.reshape(len(seen), math.prod(seen.shape[1:])).sum(axis=1))
        if not finite.all():
            self._refuse(indices[~finite])
        labels = torch.from_numpy(self.labels[indices].astype(np.int64))
        return Batch(room.images[: len(indices)], labels, indices, examples)

    def _refuse(self, bad: np.ndarray) -> None:
        where = f"{self.reader.directory}, split '{self.reader.split}', example {bad[0]} (id {self.ids(bad[:1])[0]})"
        raise FormatError(where, "has pixels that are not finite after normalisation", "run 'hpc-galaxy check' on the shards")


class Room:
    """Memory for one batch, used again and again; page-locked where there is a GPU to copy to.

    Parameters
    ----------
    most : int
        Examples.
    inputs : Inputs
        What they look like.
    """

    def __init__(self, most: int, inputs: Inputs) -> None:
        self._shape = (most, inputs.size, inputs.size, len(inputs.channels))

    @cached_property
    def _tensor(self) -> torch.Tensor:
        return torch.empty(self._shape, dtype=torch.float32, pin_memory=torch.cuda.is_available())

    @cached_property
    def seen(self) -> np.ndarray:
        """The pixels, shape (most, size, size, channels), float32."""
        return np.asarray(self._tensor.numpy())

    @cached_property
    def images(self) -> torch.Tensor:
        """The same memory as a tensor, shape (most, channels, size, size): torch's channels_last, without a copy."""
        return self._tensor.permute(0, 3, 1, 2)


def read_ahead(load: Callable[[A], B], items: Iterable[A], depth: int) -> Iterator[B]:
    """Yield ``load(item)`` for each item, up to `depth` next ones being loaded in one background thread.

    A thread, not processes: reading is a memory map and numpy, which leave the interpreter free, and threads survive MPI. When the
    iterator is closed the thread ends with what it is doing.
    """
    thread, waiting, left = ThreadPoolExecutor(1, "read_ahead"), deque[Future[B]](), iter(items)
    try:
        while True:
            while len(waiting) <= depth and (item := next(left, None)) is not None:
                waiting.append(thread.submit(load, item))
            if not waiting:
                return
            yield waiting.popleft().result()
    finally:
        thread.shutdown(wait=True, cancel_futures=True)
