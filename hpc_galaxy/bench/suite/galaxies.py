"""Galaxies to split: stamps of noise in cutout files, real and fake ones in equal number."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hpc_galaxy.files import write_json
from hpc_galaxy.shards.cutout_file import cutout_path, write_cutouts
from hpc_galaxy.shards.schema import LABELS, SOURCE_DTYPE, STAMP_SHAPE

EACH = 300  # real galaxies a brick, and fake ones
BYTES = int(np.prod(STAMP_SHAPE)) * 4
IMAGE_NOISE, INVVAR = 0.01, 1e4  # nanomaggies, 1/nanomaggies^2
SETTINGS = {"match": "'none'", "train": "1.0", "valid": "0.0", "test": "0.0"}
"""Of [split]: everything in one split, which needs no luck with few bricks."""


@dataclass(frozen=True)
class Galaxies:
    """The galaxies that all sides repackage.

    Attributes
    ----------
    root : Path
        Holds ``cutouts``.
    bricks : int
        How many there are, a degree apart.
    """

    root: Path
    bricks: int

    @property
    def out(self) -> Path:
        """Where a side writes."""
        return self.root / "out"

    @property
    def reference(self) -> Path:
        """Shards of all examples, which copies are made from and which are read."""
        return self.root / "reference"

    @property
    def count(self) -> int:
        """How many galaxies."""
        return self.bricks * len(LABELS) * EACH

    @property
    def names(self) -> list[str]:
        """The bricks' names."""
        return [f"{number:04d}p060" for number in range(self.bricks)]

    @property
    def x_files(self) -> list[Path]:
        """The files of stamps in the reference."""
        return sorted(self.reference.glob("x*.npy"))

    def clear(self) -> None:
        """Remove what the side before has left, and let the disk come to rest."""
        shutil.rmtree(self.out, ignore_errors=True)
        self.out.mkdir()
        os.sync()

    def write(self) -> None:
        """Write the cutout files, with the ledger of the extraction that could have made them."""
        for number, brick in enumerate(self.names):
            for label, value in LABELS.items():
                path = cutout_path(self.root / "cutouts", label, brick)
                write_cutouts(path, stamps(number, value), sources(number, brick, value), {"brick": brick, "label": label})
        items = [{"brick": brick, **dict.fromkeys(LABELS, EACH)} for brick in self.names]
        write_json(self.root / "cutouts" / "stage.json", {"stage": "extract", "fingerprint": "benchmark"})
        write_json(self.root / "cutouts" / "ledger.json", {"items": items})

    def settings(self, out: Path, **settings: str) -> list[str]:
        """Return the overrides of a split into `out`, as the command line takes them."""
        chosen = [f"split.{name}={value}" for name, value in (SETTINGS | settings).items()]
        return [f"paths.cutouts='{self.root}/cutouts'", f"paths.shards='{out}'", *chosen]


def stamps(number: int, label: int) -> np.ndarray:
    """Return the stamps of a class in a brick, shape (EACH, 64, 64, 6)."""
    rng = np.random.default_rng([number, label])
    images = rng.standard_normal((EACH, *STAMP_SHAPE), np.float32)
    images *= np.repeat(np.array([IMAGE_NOISE, INVVAR / 100], np.float32), 3)
    images[..., 3:] += np.float32(INVVAR)
    return images


def sources(number: int, brick: str, label: int) -> np.ndarray:
    """Return their source table; a fake galaxy is 0.2 mag fainter, so that there is something to match."""
    rng = np.random.default_rng([number, label, 1])
    table = np.zeros(EACH, SOURCE_DTYPE)
    table["id"] = [f"{label}-{brick}-{row}".encode() for row in range(EACH)]
    table["brick"], table["label"] = brick.encode(), label
    table["ra"], table["dec"] = number + rng.uniform(0, 0.25, EACH), rng.uniform(5.875, 6.125, EACH)
    for band in "grz":
        table[f"mag_{band}"] = rng.normal(21 + 0.2 * label, 0.8, EACH)
        table[f"psfsize_{band}"], table[f"psfdepth_{band}"] = rng.normal(1.2, 0.1, EACH), rng.normal(1000, 100, EACH)
        table[f"mw_transmission_{band}"] = 0.95
    table["shape_r"] = rng.gamma(4, 0.25, EACH)
    table["shape_e1"], table["shape_e2"] = rng.normal(0, 0.2, (2, EACH))
    table["injected"] = label * (number * EACH + np.arange(EACH) + 1)
    return table
