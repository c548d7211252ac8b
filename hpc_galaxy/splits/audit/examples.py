"""Read a directory of shards once, one shard at a time, and keep of each example what the checks need: 56 bytes.

Of a sample the pixels are measured as well: galaxies are in it by a hash of their id, so that it is the same at any number of ranks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import xxhash

from hpc_galaxy.schedule import deal
from hpc_galaxy.shards.manifest import SPLITS, Manifest, Shard
from hpc_galaxy.shards.numpy_shards import SplitReader
from hpc_galaxy.shards.schema import STAMP_DTYPE
from hpc_galaxy.splits.audit.measure import Ruler, positions
from hpc_galaxy.tracing.spans import Stopwatch
from hpc_galaxy.world import World

SAMPLE = 200_000  # examples whose pixels are measured

KEY_DTYPE = np.dtype(
    [
        ("split", "u1"),  # its place in SPLITS
        ("label", "u1"),
        ("edge", "?"),
        ("own", "?"),  # cut from the survey's own coadds
        ("unnumbered", "<u4"),  # pixels that are no numbers
        ("ra", "<f8"),  # degrees
        ("dec", "<f8"),
        ("id", "<u8"),  # hashes
        ("group", "<u8"),
        ("injected", "<u8"),
        ("pixels", "<u8"),  # 0: every pixel is 0
    ]
)
"""What is kept of every example."""

Item = tuple[str, int]
"""A shard: its split, and its number in that."""


@dataclass(frozen=True)
class Examples:
    """All examples of a directory, in the order of splits and shards. Only rank 0 has them.

    Attributes
    ----------
    directory, manifest : Path, Manifest
        Where they are.
    keys : ndarray, shape (N,), `KEY_DTYPE`
        All of them.
    rows : ndarray, shape (M,), int
        Which of them are the sample.
    sample : ndarray, shape (M,), `Ruler.dtype`
        What was measured of those.
    hashes : ndarray, shape (M,), uint64
        Random numbers that depend on id and seed alone, for choosing fewer.
    """

    directory: Path
    manifest: Manifest
    keys: np.ndarray
    rows: np.ndarray
    sample: np.ndarray
    hashes: np.ndarray

    @cached_property
    def labels(self) -> np.ndarray:
        """Labels of the sample, shape (M,)."""
        return np.asarray(self.keys["label"][self.rows])

    @cached_property
    def groups(self) -> np.ndarray:
        """Sky groups of the sample, shape (M,), hashes."""
        return np.asarray(self.keys["group"][self.rows])

    @cached_property
    def control(self) -> str:
        """Which negative controls these are: ``real_real``, ``shuffled``, ``sky``; empty where the labels are what the galaxies are."""
        facts = [value for known in self.manifest.provenance.values() for value in known.get("control", [])]
        return " and ".join(sorted({str(value) for value in (self.manifest.report.get("control"), *facts)} - {"none", "None"}))

    def name(self, index: int) -> str:
        """Return the id of an example, and its split, as text."""
        for split in SPLITS:
            for shard in self.manifest.splits[split]:
                if index < shard.examples:
                    identifier = read_shard(self.directory, self.manifest, split, shard).table["id"][index]
                    return f"{identifier.decode(errors='replace')} ({split})"
                index -= shard.examples
        raise IndexError(index)


def read_shard(directory: Path, manifest: Manifest, split: str, shard: Shard) -> SplitReader:
    """Open one shard of a split by itself: the tables of all of them would not fit into every rank's memory."""
    return SplitReader(directory, manifest.model_copy(update={"splits": {split: [shard]}}), split)


def shard_items(manifest: Manifest) -> list[Item]:
    """Return all shards, in their order."""
    return [(split, number) for split in SPLITS for number in range(len(manifest.splits[split]))]


def gather_examples(directory: Path, manifest: Manifest, world: World, seed: int, watch: Stopwatch) -> Examples | None:
    """Read all shards, each on one rank; return what was found on rank 0, None elsewhere. Collective.

    Raises
    ------
    FormatError
        A shard is not as the manifest says.
    """
    reader = Reader(directory, manifest, seed, watch)
    items = shard_items(manifest)
    parts = {item: reader.read(number, item) for number, item in deal(world, "audit", "shards", list(enumerate(items)), watch)}
    ordered = [parts[item] for item in items if item in parts]
    keys = gather_rows(world, [part.keys for part in ordered], KEY_DTYPE)
    places = gather_rows(world, [part.places for part in ordered], PLACE_DTYPE)
    sample = gather_rows(world, [part.sample for part in ordered], reader.ruler.dtype)
    numbers = gather_rows(world, [np.full(len(part.keys), part.number) for part in ordered], np.dtype(np.int64))
    if not world.is_root:
        return None
    keys, first = keys[np.argsort(numbers, kind="stable")], np.cumsum([0, *(manifest.splits[s][n].examples for s, n in items)])
    rows = first[places["shard"]] + places["row"]
    order = np.argsort(rows)
    return Examples(directory, manifest, keys, rows[order], sample[order], places["hash"][order])


def gather_rows(world: World, parts: Iterable[np.ndarray], dtype: np.dtype) -> np.ndarray:
    """Return all ranks' arrays end to end on rank 0, an empty array elsewhere. Collective."""
    nothing = np.empty(0, dtype)
    return world.exchange([np.concatenate([nothing, *parts]), *[nothing] * (world.size - 1)])


PLACE_DTYPE = np.dtype([("shard", "<i8"), ("row", "<i8"), ("hash", "<u8")])


@dataclass(frozen=True)
class Part:
    """What was read of one shard: its place among all of them, `Examples.keys`, and the sample with where it comes from."""

    number: int
    keys: np.ndarray
    places: np.ndarray
    sample: np.ndarray


class Reader:
    """Reads shards into one buffer.

    Parameters
    ----------
    directory, manifest, seed, watch : Path, Manifest, int, Stopwatch
        What is read, the seed of the sample, and where the time goes.
    """

    def __init__(self, directory: Path, manifest: Manifest, seed: int, watch: Stopwatch) -> None:
        self._directory, self._manifest, self._seed, self._watch = directory, manifest, seed, watch
        stamps = manifest.stamps
        images = len(stamps.bands) if "image" in stamps.planes else 0
        self.ruler = Ruler(stamps, tuple(manifest.statistics.scale[:images]))
        self._below = np.uint64(min(SAMPLE / max(manifest.total_examples, 1), 1.0) * (2**64 - 2**11))
        largest = max((shard.examples for split in SPLITS for shard in manifest.splits[split]), default=0)
        self._buffer = np.empty((largest, *stamps.shape), STAMP_DTYPE)

    def read(self, number: int, item: Item) -> Part:
        """Read one shard."""
        split, place = item
        shard = self._manifest.splits[split][place]
        with self._watch.span("read"):
            reader = read_shard(self._directory, self._manifest, split, shard)
            x, table = self._buffer[: shard.examples], np.asarray(reader.table)
            reader.stamps(np.arange(shard.examples), x)
        with self._watch.span("hash"):
            keys = example_keys(split, table, x)
        hashes = hash_rows(table["id"], self._seed)
        rows = np.flatnonzero(hashes <= self._below)
        with self._watch.span("measure"):
            sample = self.ruler.measure(x[rows], positions(table[rows], self._manifest.stamps.size))
        places = np.empty(len(rows), PLACE_DTYPE)
        places["shard"], places["row"], places["hash"] = number, rows, hashes[rows]
        self._watch.count("examples", len(table))
        return Part(number, keys, places, sample)


def example_keys(split: str, table: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return what is kept of the examples of a shard, shape (n,), `KEY_DTYPE`."""
    keys = np.zeros(len(table), KEY_DTYPE)
    keys["split"] = SPLITS.index(split)
    for name in ("label", "edge", "ra", "dec", "injected"):
        keys[name] = table[name]
    keys["own"] = table["rs"] == b""
    keys["id"], keys["group"] = hash_rows(table["id"]), hash_rows(table["group"])
    keys["pixels"] = hash_rows(x) * x.reshape(len(x), -1).any(axis=1)
    finite = np.isfinite(x)
    if not finite.all():
        keys["unnumbered"] = np.count_nonzero(~finite.reshape(len(x), -1), axis=1)
    return keys


def hash_rows(rows: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return a 64-bit hash (XXH3) of each row's bytes, shape (n,), uint64. Two of 60 million agree by chance once in 10,000 times."""
    content = np.ascontiguousarray(rows).view(np.uint8).reshape(len(rows), -1)
    return np.fromiter((xxhash.xxh3_64_intdigest(row.data, seed) for row in content), np.uint64, len(rows))
