"""Extraction of real DECam pixels, where a piece of real sky lies beside the checkout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.nddata import Cutout2D

from hpc_galaxy.bricks.layout import coadd_path, tractor_path
from hpc_galaxy.config import load_config
from hpc_galaxy.cutouts.extract import extract
from hpc_galaxy.shards.cutout_file import cutout_path, open_cutouts
from hpc_galaxy.shards.schema import CHANNELS
from hpc_galaxy.world import World

REALSKY = Path(__file__).parents[3] / "shared" / "realsky"
BRICK = "0285m165"

pytestmark = pytest.mark.skipif(not REALSKY.exists(), reason="no ../shared/realsky beside this checkout")


def test_every_stamp_is_cutout2d_of_the_same_planes(tmp_path: Path) -> None:
    overrides = ["extract.classes=['real']", "extract.real_from='survey'", "extract.selection='all'"]
    config = load_config(None, [f"paths.survey='{REALSKY}'", f"paths.cutouts='{tmp_path}'", *overrides])
    extract(config, World())
    with open_cutouts(cutout_path(tmp_path, "real", BRICK)) as cutouts:
        images, table = cutouts.images(), cutouts.sources()
    catalog = np.asarray(fits.getdata(tractor_path(REALSKY, BRICK)))  # an independent reader
    assert len(images) == len(catalog) == 14
    assert table["id"].tolist() == [f"{r['release']}-{r['brickid']}-{r['objid']}".encode() for r in catalog]
    for channel, name in enumerate(CHANNELS):
        plane = np.asarray(fits.getdata(coadd_path(REALSKY, BRICK, *name.split("_")), 1))
        if name.startswith("invvar"):
            plane = np.maximum(plane, 0)
        for stamp, row in zip(images, catalog, strict=True):
            reference = Cutout2D(plane, (float(row["bx"]), float(row["by"])), 64, mode="partial", fill_value=0)
            np.testing.assert_array_equal(stamp[:, :, channel], reference.data)
    assert 0 < table["edge"].sum() < 14
    assert images[..., :3].std() > 0
    assert np.isnan(table["mag_g"]).any()  # faint sources with a negative flux
