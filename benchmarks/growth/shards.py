"""Shards: the manifest, what a training looks at before its first step, the order of an epoch, and a split that is started again."""

from __future__ import annotations

import os
import random
from pathlib import Path

import numpy as np

from growth.probe import Found
from hpc_galaxy.config import load_config
from hpc_galaxy.shards.manifest import SHARD_SIZE, SPLITS, Manifest, Shard, Statistics, load_manifest
from hpc_galaxy.shards.numpy_shards import SplitReader, shard_names
from hpc_galaxy.shards.schema import CHANNELS, DEFAULT, LABELS, STAMP_SHAPE
from hpc_galaxy.splits.journal import merge_journals, read_journals
from hpc_galaxy.splits.outputs import Shards
from hpc_galaxy.splits.sources import SOURCE, Sources
from hpc_galaxy.training.data.order import Order, rank_examples
from hpc_galaxy.world import World

FULL = 117_188  # 60 million examples
RANKS, BATCH = 4096, 16
PLAN = "0" * 64  # the digest of the plan that the journal follows
SIZES = {"x": SHARD_SIZE * 4 * int(np.prod(STAMP_SHAPE)), "y": SHARD_SIZE, "table": SHARD_SIZE * DEFAULT.example_dtype.itemsize}


def grow(root: Path, start: int, stop: int) -> None:
    """Add shards to the training split: labels are real, stamps and tables files with a header and a hole behind it."""
    folder = root / "shards"
    folder.mkdir(exist_ok=True)
    headers = {kind: _header(folder, kind) for kind in SIZES}
    for split, first, last in (("train", start, stop - 2), ("valid", 0, 1), ("test", 0, 1)):
        for number in range(max(0, first - 2) if split == "train" else first, last):
            for kind, file in shard_names(split, number).items():
                with (folder / file).open("wb") as out:
                    out.write(headers[kind])
                    out.truncate(len(headers[kind]) + SIZES[kind])


def _header(folder: Path, kind: str) -> bytes:
    dtype = {"x": np.dtype("<f4"), "y": np.dtype("u1"), "table": DEFAULT.example_dtype}[kind]
    path = folder / f".header-{kind}.npy"
    array = np.lib.format.open_memmap(path, "w+", dtype, (SHARD_SIZE, *(STAMP_SHAPE if kind == "x" else ())))
    content = path.read_bytes()[: path.stat().st_size - array.nbytes]
    path.unlink()
    return content


def manifest(root: Path, size: int) -> Manifest:
    """Return the manifest of the first shards."""
    lengths = {kind: len(_header(root, kind)) + SIZES[kind] for kind in SIZES}
    digits = random.Random(1)

    def shard(split: str, number: int) -> Shard:
        names = shard_names(split, number)
        sums = {name: f"{digits.getrandbits(128):032x}" for name in names.values()}
        return Shard(**names, examples=SHARD_SIZE, bytes={name: lengths[kind] for kind, name in names.items()}, xxh128=sums)

    counts = {"train": size - 2, "valid": 1, "test": 1}
    return Manifest(
        code_version="0",
        fingerprint="made up",
        seed=1,
        channels=list(CHANNELS),
        stamp_shape=list(STAMP_SHAPE),
        labels=LABELS,
        statistics=Statistics(scale=[1.0] * 6, mean=[0.0] * 6, std=[1.0] * 6),
        provenance={label: {} for label in LABELS},
        splits={split: [shard(split, number) for number in range(counts[split])] for split in SPLITS},
        report={},
    )


def save(root: Path, size: int) -> dict[str, float]:
    """Measure the saving of the manifest, by rank 0 of a split."""
    found, whole = Found(), manifest(root, size)
    found.time("save the manifest", lambda: whole.save(root / "shards"))
    found.values["manifest.json [MB]"] = (root / "shards" / "manifest.json").stat().st_size / 1e6
    return found.values


def load(root: Path, size: int) -> dict[str, float]:
    """Measure what each rank of a training does with the manifest."""
    found = Found()
    whole = found.time("load the manifest", lambda: load_manifest(root / "shards"))
    reader = SplitReader(root / "shards", whole, "train")
    reader.stamps(np.random.default_rng(1).integers(0, len(reader), 4000))
    found.values["shards open at a time"] = sum(".npy" in line for line in Path("/proc/self/maps").read_text().splitlines())
    found.values["files in the directory"] = sum(1 for _ in os.scandir(root / "shards"))
    return found.values


def open_all(root: Path, size: int) -> dict[str, float]:
    """Measure what all ranks of a training together look at before they begin: every file is there, every label is read."""
    from hpc_galaxy.training.build import open_data

    found, settings = Found(), load_config(None, [f"paths.shards='{root}/shards'"])
    whole = load_manifest(root / "shards")
    data = found.time("look for all files, read labels", lambda: open_data(settings, whole, World()))
    assert len(data.examples) == (size - 2) * SHARD_SIZE
    return found.values


def order(root: Path, size: int) -> dict[str, float]:
    """Measure the order of a whole epoch, as rank 731 of `RANKS` asks for it."""
    found, world = Found(), World(rank=731, size=RANKS)

    def epoch() -> int:
        whole, step = Order(1, 1, [SHARD_SIZE] * size, 64), BATCH * RANKS
        return sum(len(rank_examples(whole, start, min(start + step, len(whole)), world)) for start in range(0, len(whole), step))

    seen = found.time("order of an epoch", epoch)
    assert abs(seen - size * SHARD_SIZE / RANKS) <= size * SHARD_SIZE / (BATCH * RANKS) + 1
    return found.values


def again(root: Path, size: int) -> dict[str, float]:
    """Measure a split that is started again when everything is done: its journal, and a look at each file."""
    found, folder = Found(), root / "shards"
    _write_journal(found, folder)
    none = np.empty((0, 0), np.float32)
    sources = Sources(np.empty(0, SOURCE), none, [], DEFAULT, {}, {}, 0, 0.0, {})
    output = Shards(load_config(None, [f"paths.shards='{folder}'"]), "made up", sources, np.ones(len(CHANNELS)))
    records = found.time("read the journal", lambda: read_journals(folder, PLAN))
    assert records is not None and len(records) == size - 2
    assert found.time("look for all shards", lambda: sum(output.is_whole(record) for record in records)) == size - 2
    (folder / ".journal-complete.jsonl").unlink()
    return found.values


def _write_journal(found: Found, folder: Path) -> None:
    moments = [[1234567.8901234567] * len(CHANNELS)] * 3
    shards = load_manifest(folder).splits["train"]
    records = [
        {"piece": f"train//{number}", "moments": moments, "shard": shard.model_dump(), "error": {}} for number, shard in enumerate(shards)
    ]
    found.time("write the journal", lambda: merge_journals(folder, PLAN, records))
