"""``hpc-galaxy check``: read every byte of cutout files and shards, and name every problem."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from hpc_galaxy.errors import FormatError, HpcGalaxyError, InputError, StageError
from hpc_galaxy.files import sha256
from hpc_galaxy.shards.cutout_file import open_cutouts
from hpc_galaxy.shards.manifest import NAME, SPLITS, load_manifest
from hpc_galaxy.shards.numpy_shards import SplitReader

ROWS = 256  # stamps read at a time


def check(paths: Sequence[Path]) -> None:
    """Verify cutout files (``.h5``), shard directories (with ``manifest.json``), and whatever of both lies in folders.

    Raises
    ------
    InputError
        A path is not there, or holds neither.
    StageError
        Something is wrong; every problem has been printed.
    """
    found = [item for path in paths for item in _find(path)]
    problems = 0
    for path in found:
        try:
            print(f"ok: {path}: {_check_shards(path.parent) if path.name == NAME else _check_cutouts(path)}", flush=True)
        except HpcGalaxyError as error:
            problems += 1
            print(f"FAILED: {error}", flush=True)
    if problems:
        raise StageError("check", f"{problems} of {len(found)} failed", "see the lines above")


def _find(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
        return
    # What a killed job was writing has a name that begins with a dot, and nobody reads it.
    found = [file for pattern in ("*.h5", NAME) for file in sorted(path.rglob(pattern)) if not file.name.startswith(".")]
    if not found:
        raise InputError(path, f"no .h5 file and no {NAME} here", "give a cutout file, a shard directory, or a folder of them")
    yield from found


def _check_cutouts(path: Path) -> str:
    with open_cutouts(path) as cutouts:
        sources = cutouts.sources()
        for start in range(0, len(cutouts), ROWS):
            _check_pixels(path, cutouts.images(slice(start, start + ROWS)))
        if len(np.unique(sources["id"])) != len(sources):
            raise FormatError(path, "an id occurs twice, expected unique ids", "run 'hpc-galaxy extract --overwrite'")
        return f"{len(cutouts)} cutouts"


def _check_pixels(path: Path, images: np.ndarray) -> None:
    bad = images.size - int(np.isfinite(images).sum())
    if bad:
        raise FormatError(path, f"'images' has {bad} pixels that are no numbers, expected 0", "run 'hpc-galaxy extract --overwrite'")


def _check_shards(directory: Path) -> str:
    manifest = load_manifest(directory)
    remedy = "run 'hpc-galaxy split --overwrite'"
    ids = []
    for split in SPLITS:
        reader = SplitReader(directory, manifest, split)
        if not np.array_equal(reader.labels, reader.table["label"]):
            raise FormatError(directory, f"labels of '{split}' differ from those in its table", remedy)
        for shard in reader.shards:
            for name, expected in shard.sha256.items():
                if (got := sha256(directory / name)) != expected:
                    raise FormatError(directory / name, f"SHA-256 is {got[:12]}..., expected {expected[:12]}...", remedy)
        ids.append(reader.table["id"])
    everything = np.concatenate(ids)
    if len(np.unique(everything)) != len(everything):
        raise FormatError(directory, "an id occurs twice, expected each in one split only", remedy)
    return ", ".join(f"{manifest.examples(split)} {split}" for split in SPLITS)
