"""What can be wrong with a directory of shards."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np

from hpc_galaxy.errors import FormatError
from hpc_galaxy.files import sha256
from hpc_galaxy.shards.manifest import SPLITS, Manifest, load_manifest
from hpc_galaxy.shards.numpy_shards import SplitReader

ROWS = 256  # stamps looked at at a time


@lru_cache(maxsize=4)
def manifest_of(directory: Path) -> Manifest:
    """Return the manifest of a directory, read once."""
    return load_manifest(directory)


def list_shards(directory: Path) -> list[tuple[str, int]]:
    """Return the shards of a directory: split and number."""
    return [(split, number) for split in SPLITS for number in range(len(manifest_of(directory).splits[split]))]


def check_manifest(directory: Path) -> tuple[str, list[str]]:
    """Check what the shards of a directory have in common; return what it holds, and all that is wrong."""
    manifest = manifest_of(directory)
    ids = [SplitReader(directory, manifest, split).table["id"] for split in SPLITS]
    everything, counts = np.unique(np.concatenate(ids), return_counts=True)
    problems = []
    if (counts > 1).any():
        first = everything[counts > 1][0].decode(errors="replace")
        problems.append(f"id {first} occurs {counts[counts > 1][0]} times ({(counts > 1).sum()} such), expected each in one split, once")
    return ", ".join(f"{manifest.examples(split)} {split}" for split in SPLITS), problems


def check_shard(directory: Path, split: str, number: int) -> list[str]:
    """Read every byte of one shard; return all that is wrong."""
    manifest = manifest_of(directory)
    shard = manifest.splits[split][number]
    single = manifest.model_copy(update={"splits": {split: [shard]}})
    problems = [f"{name}: {problem}" for name, problem in _check_sums(directory, shard.sha256)]
    try:
        problems += [f"{shard.x}: {problem}" for problem in _check_content(SplitReader(directory, single, split))]
    except FormatError as error:
        problems.append(f"{Path(error.where).name}: {error.problem}")
    return problems


def _check_sums(directory: Path, sums: dict[str, str]) -> Iterator[tuple[str, str]]:
    for name, expected in sums.items():
        try:
            got = sha256(directory / name)
        except OSError as error:
            yield name, f"cannot be read ({error.strerror})"
            continue
        if got != expected:
            yield name, f"SHA-256 is {got[:12]}..., expected {expected[:12]}..."


def _check_content(reader: SplitReader) -> Iterator[str]:
    if not np.array_equal(reader.labels, reader.table["label"]):
        yield "labels differ from those in its table"
    bad = 0
    for start in range(0, len(reader), ROWS):
        stamps = reader.stamps(np.arange(start, min(start + ROWS, len(reader))))
        bad += stamps.size - int(np.count_nonzero(np.isfinite(stamps)))
    if bad:
        yield f"has {bad} pixels that are no numbers, expected 0"
