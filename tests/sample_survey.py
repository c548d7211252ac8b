"""Cutout files of a made-up extraction: small stamps, real sky positions, as `hpc-galaxy extract` would leave them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from hpc_galaxy.config import Config, load_config
from hpc_galaxy.files import write_json
from hpc_galaxy.shards.cutout_file import cutout_path, write_cutouts
from hpc_galaxy.shards.manifest import SPLITS
from hpc_galaxy.shards.numpy_shards import SplitReader, open_split
from hpc_galaxy.shards.schema import LABELS, StampFormat

TINY = StampFormat(("g",), ("image", "invvar"), 8)
THIRDS = ("split.train=0.5", "split.valid=0.25", "split.test=0.25")


def make_sources(rng: np.random.Generator, brick: str, label: int, count: int, stamps: StampFormat = TINY) -> np.ndarray:
    """Return `count` sources at one place, with measurements alike in both classes."""
    table = np.zeros(count, stamps.source_dtype)
    name = "rs0" if label else "9010"
    table["id"] = [f"{name}-{brick}-{number}".encode() for number in range(count)]
    table["brick"], table["label"], table["rs"] = brick.encode(), label, b"rs0"
    for column in table.dtype.names or ():
        if column.startswith("mag"):
            table[column] = rng.normal(22, 1, count)
    table["shape_r"], table["shape_e1"], table["shape_e2"] = rng.lognormal(-0.7, 0.4, count), *rng.normal(0, 0.2, (2, count))
    for band in stamps.bands:
        table[f"psfsize_{band}"], table[f"psfdepth_{band}"] = 1.3, 2000.0
    return table


def stamps_of(table: np.ndarray, stamps: StampFormat = TINY) -> np.ndarray:
    """Return stamps that tell whose they are: the first pixel is the class, the second a number made from the id."""
    rng = np.random.default_rng(len(table))
    images = rng.normal(0, 0.01, (len(table), *stamps.shape)).astype(np.float32)
    bands = len(stamps.bands)
    images[..., bands:] = 1e4
    images[:, 0, 0, 0] = table["label"]
    images[:, 0, 1, 0] = mark(table["id"])
    return images


def mark(ids: np.ndarray) -> np.ndarray:
    """Return a number below 512 for each id, which float32 holds exactly."""
    return np.array([sum(7**k * byte for k, byte in enumerate(identifier)) % 32749 for identifier in ids], np.float32) / 64


def write_survey(root: Path, bricks: Mapping[str, Sequence[np.ndarray]], stamps: StampFormat = TINY, **how: object) -> None:
    """Write a complete extraction below ``root/cutouts``: of each brick the tables of real and fake."""
    items = []
    for brick, tables in bricks.items():
        item: dict[str, object] = {"brick": brick}
        for (label, _), table in zip(LABELS.items(), tables, strict=True):
            attributes = {"brick": brick, "label": label, "code_version": "0.1.0", "fingerprint": "x", "release": [9010]}
            write_cutouts(cutout_path(root / "cutouts", label, brick), stamps_of(table, stamps), table, attributes, stamps, **how)
            item[label] = len(table)
        items.append(item)
    write_json(root / "cutouts" / "stage.json", {"stage": "extract", "fingerprint": "x"})
    write_json(root / "cutouts" / "ledger.json", {"items": items})


def survey_config(root: Path, *overrides: str) -> Config:
    """Return a configuration for what `write_survey` wrote; nothing is matched unless asked for."""
    paths = [f"paths.cutouts='{root}/cutouts'", f"paths.shards='{root}/shards'"]
    return load_config(None, [*paths, "split.match='none'", *overrides])


def bricks(count: int, real: int, fake: int, stamps: StampFormat = TINY) -> dict[str, list[np.ndarray]]:
    """Return the sources of bricks a degree apart, spread over 0.1 degrees."""
    rng = np.random.default_rng(4)
    survey = {}
    for number in range(count):
        name = f"{number:04d}p060"
        survey[name] = [make_sources(rng, name, label, each, stamps) for label, each in enumerate((real, fake))]
        for table in survey[name]:
            table["ra"], table["dec"] = number + rng.uniform(0, 0.1, len(table)), rng.uniform(6, 6.1, len(table))
    return survey


def survey(root: Path, count: int, each: int, *overrides: str, stamps: StampFormat = TINY) -> Config:
    write_survey(root, bricks(count, each, each, stamps), stamps)
    return survey_config(root, *THIRDS, *overrides)


def readers(root: Path) -> list[SplitReader]:
    return [open_split(root / "shards", name) for name in SPLITS]


def content(root: Path) -> dict[str, bytes]:
    folder = root / "shards"
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}
