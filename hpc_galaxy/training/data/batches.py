"""Batches of a split: each rank's slice of a global order, read ahead in the background."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
import torch

from hpc_galaxy.config.training import Data
from hpc_galaxy.errors import FormatError, InputError
from hpc_galaxy.shards.manifest import SHARD_SIZE
from hpc_galaxy.shards.numpy_shards import SplitReader
from hpc_galaxy.tracing.recorder import READER
from hpc_galaxy.tracing.spans import Stopwatch
from hpc_galaxy.training.data.augment import Augmentation
from hpc_galaxy.training.data.inputs import Inputs, require_finite
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
        """Return the examples' ids; of their shards alone are the tables read."""
        places = [divmod(int(index), SHARD_SIZE) for index in indices]
        tables = {shard: self.reader.shard_table(shard)["id"] for shard in {shard for shard, _ in places}}
        return [tables[shard][row].decode(errors="replace") for shard, row in places]

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

    def epoch(
        self, seed: int, epoch: int, global_batch: int, world: World, start: int = 0, watch: Stopwatch | None = None
    ) -> Iterator[Batch]:
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
        watch : Stopwatch, optional
            Times the reading, which goes on in a thread.
        """
        order = Order(seed, epoch, [shard.examples for shard in self.reader.shards], self.settings.window)
        augmentation = Augmentation(self.settings, seed, epoch) if self.augment and self.settings.augment else None

        def load(begin: int, room: Room) -> Batch:
            stop = min(begin + global_batch, len(order))
            with watch.span("read", READER) if watch else nullcontext():
                return self._load(rank_examples(order, begin, stop, world), stop - begin, room, augmentation)

        most = -(-min(global_batch, len(order)) // world.size)
        return self._read_ahead(load, range(start, len(order), global_batch), most)

    def blocks(self, size: int, world: World) -> Iterator[Batch]:
        """Yield this rank's share of the split in its own order, in blocks of `size` examples that do not depend on the ranks."""
        starts = range(0, len(self), size)

        def load(begin: int, room: Room) -> Batch:
            indices = np.arange(begin, min(begin + size, len(self)))
            return self._load(indices, len(indices), room, None)

        return self._read_ahead(load, starts[rank_part(len(starts), world)], min(size, len(self)))

    def _read_ahead(self, load: Callable[[int, Room], Batch], items: Iterable[int], most: int) -> Iterator[Batch]:
        """Load batches of at most so many examples ahead, into a ring of rooms.

        While one batch is in use, `prefetch` others are waiting or being loaded. One room more than these need: copying to a GPU may
        still go on when the next batch is asked for.
        """
        depth, pixels = self.settings.prefetch, Memory((most, *self.inputs.stamps.shape))
        shape = most, self.inputs.size, self.inputs.size, len(self.inputs.channels)
        rooms = [Room(Memory(shape, pinned=torch.cuda.is_available()), pixels) for _ in range(depth + 2)]
        return read_ahead(lambda item: load(item[1], rooms[item[0] % len(rooms)]), enumerate(items), depth)

    def _load(self, indices: np.ndarray, examples: int, room: Room, augmentation: Augmentation | None) -> Batch:
        """Read the examples at `indices`, part of a global batch of `examples`."""
        seen = room.seen.array[: len(indices)]
        moves = None if augmentation is None else augmentation.moves(indices)
        # Straight to where the network reads, where nothing but the units change.
        raw = seen if self.inputs.in_place and moves is None else room.pixels.array[: len(indices)]
        finite = self.inputs.apply(self.reader.stamps(indices, out=raw), seen, moves)
        require_finite(self.reader, indices, finite)
        labels = torch.from_numpy(self.labels[indices].astype(np.int64))
        images = room.seen.tensor[: len(indices)].permute(0, 3, 1, 2)  # torch's channels_last, without a copy
        return Batch(images, labels, indices, examples)


class Memory:
    """Room for float32 numbers, as an array and as a tensor; it is taken when it is first used.

    Parameters
    ----------
    shape : tuple of int
        Of both.
    pinned : bool
        Whether it is page-locked, from which a GPU copies faster, and while the computation goes on.
    """

    def __init__(self, shape: tuple[int, ...], pinned: bool = False) -> None:
        self._shape, self._pinned = shape, pinned

    @cached_property
    def tensor(self) -> torch.Tensor:
        """The memory."""
        return torch.empty(self._shape, dtype=torch.float32, pin_memory=self._pinned)

    @cached_property
    def array(self) -> np.ndarray:
        """The same memory."""
        return np.asarray(self.tensor.numpy())


@dataclass(frozen=True)
class Room:
    """Where a batch is put.

    Attributes
    ----------
    seen : Memory, shape (most, size, size, channels)
        What the network sees.
    pixels : Memory, shape (most, size, size, channels of the stamps)
        The stamps as they are read, where they cannot be changed in place. All rooms share it: batches are loaded one after the other.
    """

    seen: Memory
    pixels: Memory


def read_ahead(load: Callable[[A], B], items: Iterable[A], depth: int, threads: int = 1) -> Iterator[B]:
    """Yield ``load(item)`` for each item, in their order, up to `depth` next ones being loaded in one background thread, or in several.

    A thread, not processes: reading is a memory map and numpy, which leave the interpreter free, and threads survive MPI. When the
    iterator is closed the thread ends with what it is doing.
    """
    thread, waiting, left = ThreadPoolExecutor(threads, "read_ahead"), deque[Future[B]](), iter(items)
    try:
        while True:
            while len(waiting) <= depth and (item := next(left, None)) is not None:
                waiting.append(thread.submit(load, item))
            if not waiting:
                return
            yield waiting.popleft().result()
    finally:
        thread.shutdown(wait=True, cancel_futures=True)
