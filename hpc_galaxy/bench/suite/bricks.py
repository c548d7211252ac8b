"""A brick to cut: full-size coadds of noise, which compress as real ones do, and a catalog of galaxies anywhere on it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hpc_galaxy.bricks.catalog import CATALOG_DTYPE, tractor_columns
from hpc_galaxy.bricks.geometry import brick_wcs, survey_bricks
from hpc_galaxy.bricks.images import BANDS, PLANES, wcs_header, write_plane
from hpc_galaxy.bricks.layout import coadd_path, tractor_path, write_table
from hpc_galaxy.shards.schema import CHANNELS

NPIX = 3600
RA, DEC = 120.0, 6.0
# Nanomaggies and 1/nanomaggies^2, about 25 steps of quantisation: the files are as large as those of the Legacy Surveys.
IMAGE_NOISE, INVVAR, INVVAR_NOISE = 0.0025, 1000, 0.25
EDGE = 40  # pixels that galaxies keep from a brick's edge
SETTINGS = {"classes": "['real']", "real_from": "'survey'", "selection": "'all'", "match_arcsec": "1e-6"}
"""Of [extract]: every source of the survey's own catalog."""


def brick_name() -> str:
    """Return the name of the brick."""
    return survey_bricks(1, RA, DEC)[0].name


def aliases(count: int) -> list[str]:
    """Return names under which `Brick.link` makes the same files known."""
    return [other.name for other in survey_bricks(count, RA + 30, DEC)]


@dataclass(frozen=True)
class Brick:
    """The brick that all sides cut, and where they write.

    Attributes
    ----------
    root : Path
        A survey in the layout of the Legacy Surveys.
    name : str
        The brick's.
    npix : int
        Side of its coadds, pixels.
    """

    root: Path
    name: str
    npix: int = NPIX

    @property
    def out(self) -> Path:
        """Where a side writes."""
        return self.root / "out"

    @property
    def coadds(self) -> list[Path]:
        """The six coadds, in the order of the channels."""
        return [coadd_path(self.root, self.name, *name.split("_")) for name in CHANNELS]

    def clear(self) -> None:
        """Remove what the side before has left, and let the disk come to rest."""
        shutil.rmtree(self.out, ignore_errors=True)
        self.out.mkdir()
        os.sync()

    def make_pixels(self) -> None:
        """Write the six coadds."""
        rng = np.random.default_rng(1)
        wcs = brick_wcs(RA, DEC, self.npix)
        for band in BANDS:
            invvar = rng.normal(INVVAR, INVVAR_NOISE, (self.npix, self.npix)).astype(np.float32)
            image = rng.normal(0, IMAGE_NOISE, (self.npix, self.npix)).astype(np.float32)
            for plane, pixels in zip(PLANES, (image, invvar), strict=True):
                write_plane(self.root, self.name, plane, band, pixels, wcs_header(wcs, self.name, plane, band))

    def write_catalog(self, count: int) -> None:
        """Write a catalog of `count` galaxies anywhere on the brick."""
        rng = np.random.default_rng(count)
        catalog = np.zeros(count, CATALOG_DTYPE)
        catalog["bx"], catalog["by"] = rng.uniform(EDGE, self.npix - EDGE, (2, count))
        places = catalog["bx"].astype(float), catalog["by"].astype(float)
        catalog["ra"], catalog["dec"] = brick_wcs(RA, DEC, self.npix).all_pix2world(*places, 0)
        catalog["type"], catalog["objid"], catalog["brick_primary"] = b"EXP", np.arange(count), True
        for band in BANDS:
            catalog[f"flux_{band}"] = catalog[f"mw_transmission_{band}"] = 1
        path = tractor_path(self.root, self.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        write_table(path, tractor_columns(catalog, self.name), "CATALOG")

    def link(self, root: Path, names: Sequence[str]) -> None:
        """Make the brick known under further names in a tree: a list of bricks, whose files are then in memory after the first."""
        for name in names:
            pairs = [(tractor_path(root, name), tractor_path(self.root, self.name))]
            pairs += [(coadd_path(root, name, *channel.split("_")), path) for channel, path in zip(CHANNELS, self.coadds, strict=True)]
            for alias, path in pairs:
                alias.parent.mkdir(parents=True, exist_ok=True)
                alias.unlink(missing_ok=True)
                alias.symlink_to(path.resolve())
