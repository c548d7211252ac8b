"""What can be wrong with a directory of shards."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from hpc_galaxy.errors import FormatError
from hpc_galaxy.shards.manifest import SHARD_SIZE, SPLITS, Manifest, Shard, load_manifest
from hpc_galaxy.shards.numpy_shards import SplitReader, xxh128
from hpc_galaxy.shards.schema import LABELS

ROWS = 64  # stamps looked at at a time
KEPT = ("id", "group", "label")  # columns that the shards have in common


@lru_cache(maxsize=4)
def manifest_of(directory: Path) -> Manifest:
    """Return the manifest of a directory, read once."""
    return load_manifest(directory)


def list_shards(directory: Path) -> list[tuple[str, int]]:
    """Return the shards of a directory: split and number."""
    return [(split, number) for split in SPLITS for number in range(len(manifest_of(directory).splits[split]))]


def check_manifest(directory: Path) -> tuple[str, list[str]]:
    """Check what the shards of a directory have in common; return what it holds, and all that is wrong.

    Ids occur once, no sky group is in two splits, and the splits have as many examples of each class as the manifest's report says.
    """
    manifest = manifest_of(directory)
    tables = {split: _columns(SplitReader(directory, manifest, split)) for split in SPLITS}
    problems = [*_check_ids(tables), *_check_groups(tables)]
    for split, table in tables.items():
        problems += _check_counts(split, table, manifest.report.get(split))
    return ", ".join(f"{manifest.examples(split)} {split}" for split in SPLITS), problems


def _columns(reader: SplitReader) -> np.ndarray:
    """Return the columns that are compared of a split's table: a quarter of its bytes."""
    dtype = np.dtype([(name, reader.stamp_format.example_dtype[name]) for name in KEPT])
    table = np.empty(len(reader), dtype)
    for number in range(len(reader.shards)):
        part = reader.shard_table(number)
        rows = table[number * SHARD_SIZE : number * SHARD_SIZE + len(part)]
        for name in KEPT:
            rows[name] = part[name]
    return table


def _check_ids(tables: dict[str, np.ndarray]) -> Iterator[str]:
    ids, counts = np.unique(np.concatenate([table["id"] for table in tables.values()]), return_counts=True)
    twice = counts > 1
    if twice.any():
        first = ids[twice][0].decode(errors="replace")
        yield f"id {first} occurs {counts[twice][0]} times ({twice.sum()} such), expected each in one split, once"


def _check_groups(tables: dict[str, np.ndarray]) -> Iterator[str]:
    for split, table in tables.items():
        without = int((table["group"] == b"").sum())
        if without:
            yield f"{without} {split} sources have no group, expected 0"
    groups = [np.unique(table["group"][table["group"] != b""]) for table in tables.values()]
    names, counts = np.unique(np.concatenate(groups), return_counts=True)
    if (counts > 1).any():
        first = names[counts > 1][0]
        where = " and ".join(split for split, own in zip(tables, groups, strict=True) if first in own)
        yield f"group {first.decode(errors='replace')} is in {where} ({(counts > 1).sum()} such), expected each in one split"


def _check_counts(split: str, table: np.ndarray, report: object) -> Iterator[str]:
    """Compare a split with what the manifest's report says of it, as far as it says something."""
    found: dict[str, Any] = {"examples": len(table)}
    found |= {label: int((table["label"] == value).sum()) for label, value in LABELS.items()}
    for name, count in found.items():
        said = report.get(name, count) if isinstance(report, dict) else count
        if said != count:
            yield f"'report.{split}.{name}' is {said}, expected {count}, as in the tables"


def check_shard(directory: Path, split: str, number: int) -> list[str]:
    """Read every byte of one shard; return all that is wrong."""
    manifest = manifest_of(directory)
    shard = manifest.splits[split][number]
    problems = [f"{name}: {problem}" for name, problem in _check_bytes(directory, shard)]
    try:
        problems += [f"{shard.x}: {problem}" for problem in _check_content(SplitReader(directory, manifest, split), number)]
    except FormatError as error:
        problems.append(f"{Path(error.where).name}: {error.problem}")
    return problems


def _check_bytes(directory: Path, shard: Shard) -> Iterator[tuple[str, str]]:
    for name in shard.files:
        try:
            size = (directory / name).stat().st_size
            if size != shard.bytes[name]:
                yield name, f"has {size} bytes, expected {shard.bytes[name]}"
            elif (got := xxh128(directory / name)) != shard.xxh128[name]:
                yield name, f"XXH128 is {got[:12]}..., expected {shard.xxh128[name][:12]}..."
        except OSError as error:
            yield name, f"cannot be read ({error.strerror})"


def _check_content(reader: SplitReader, number: int) -> Iterator[str]:
    labels = reader.shard_labels(number)
    if not np.array_equal(labels, reader.shard_table(number)["label"]):
        yield "labels differ from those in its table"
    if len(unknown := np.setdiff1d(labels, list(LABELS.values()))):
        yield f"has labels {unknown.tolist()}, expected {' and '.join(map(str, LABELS.values()))}"
    bad, first = 0, number * SHARD_SIZE
    for start in range(first, first + len(labels), ROWS):
        stamps = reader.stamps(np.arange(start, min(start + ROWS, first + len(labels))))
        bad += stamps.size - int(np.count_nonzero(np.isfinite(stamps)))
    if bad:
        yield f"has {bad} pixels that are no numbers, expected 0"
