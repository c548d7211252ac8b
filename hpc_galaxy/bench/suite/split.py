"""Splitting, and reading what comes out of it: examples a second, against copying the same bytes to disk, and in memory."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hpc_galaxy.bench.measuring import Log, interleaved
from hpc_galaxy.bench.suite.galaxies import Galaxies
from hpc_galaxy.bench.suite.question import LIMIT, OURS
from hpc_galaxy.config import load_config
from hpc_galaxy.shards.numpy_shards import SplitReader, open_split
from hpc_galaxy.shards.schema import STAMP_SHAPE
from hpc_galaxy.splits.split import split
from hpc_galaxy.training.data.batches import read_ahead
from hpc_galaxy.world import World

BRICKS, BATCH, BATCHES = 8, 256, 40
BUFFERS = 3  # one that is used, one that is full, one that is filled


def ours(galaxies: Galaxies, out: Path, **settings: str) -> str:
    """Split as the command does it, flushed to disk; return what the stage says."""
    with contextlib.redirect_stdout(io.StringIO()) as said:
        split(load_config(None, galaxies.settings(out, **settings)), World(), True)
    return said.getvalue()


def copy(galaxies: Galaxies, durable: bool = True) -> None:
    """Copy the bytes of the shards' stamps, and wait until they are on the disk if they have to be `durable`."""
    for path in galaxies.x_files:
        shutil.copyfile(path, galaxies.out / path.name)
    for path in galaxies.x_files if durable else ():
        with (galaxies.out / path.name).open("rb") as file:
            os.fsync(file.fileno())


def batches(count: int, number: int) -> list[np.ndarray]:
    """Return `number` random batches of `BATCH` of `count` examples."""
    rng = np.random.default_rng(7)
    return [rng.integers(0, count, BATCH) for _ in range(number)]


def load(reader: SplitReader, chosen: Sequence[np.ndarray], buffers: np.ndarray) -> int:
    """Read batches as the training does: ahead in a background thread, into `buffers` that are used in turn."""

    def fill(item: tuple[int, np.ndarray]) -> np.ndarray:
        return reader.stamps(item[1], out=buffers[item[0] % len(buffers)])

    return sum(len(x) for x in read_ahead(fill, enumerate(chosen), len(buffers) - 2))


def memcpy(everything: np.ndarray, number: int, buffer: np.ndarray) -> int:
    """Copy as many examples, in their order, from memory that holds all of them: it is not in the processor's cache either."""
    for first in range(0, number * BATCH, BATCH):
        start = first % (len(everything) - BATCH)
        np.copyto(buffer, everything[start : start + BATCH])
    return number * BATCH


def measure_split(log: Log, root: Path, repeats: int) -> None:
    """Time the split of some bricks. What it reads stays for `measure_load`."""
    galaxies = Galaxies(root, BRICKS)
    galaxies.write()
    ours(galaxies, galaxies.reference)
    sides = {LIMIT: lambda: copy(galaxies), OURS: lambda: ours(galaxies, galaxies.out / "shards")}
    seconds = interleaved(sides, repeats, galaxies.clear, warm_up=1)
    log.table("split", "examples", seconds, dict.fromkeys(sides, galaxies.count))


def measure_load(log: Log, root: Path, repeats: int) -> None:
    """Time random batches out of the shards of `measure_split`."""
    galaxies = Galaxies(root, BRICKS)
    reader = open_split(galaxies.reference, "train")
    chosen, buffers = batches(len(reader), BATCHES), np.zeros((BUFFERS, BATCH, *STAMP_SHAPE), np.float32)
    everything = reader.stamps(np.arange(len(reader)))
    sides = {LIMIT: lambda: memcpy(everything, BATCHES, buffers[0]), OURS: lambda: load(reader, chosen, buffers)}
    seconds = interleaved(sides, 2 * repeats, lambda: None, warm_up=1)
    log.table("load", "examples", seconds, dict.fromkeys(sides, BATCH * BATCHES))
