"""Real and fake galaxies are centred by the same convention: the whole way from the sky to the stamp.

In 2018 they were not, by one pixel, and a centroid told them apart.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hpc_galaxy.bricks import survey as survey_module
from hpc_galaxy.bricks.galaxies import GALAXY_DTYPE
from hpc_galaxy.bricks.images import BANDS
from hpc_galaxy.config import Config, load_config
from hpc_galaxy.cutouts.extract import extract
from hpc_galaxy.cutouts.stamps import corners
from hpc_galaxy.injection import inject as inject_module
from hpc_galaxy.shards.cutout_file import cutout_path, open_cutouts
from hpc_galaxy.world import World

NPIX, STEP = 1000, 80
APERTURE = 12
SUBPIXEL = np.random.default_rng(7).uniform(-0.5, 0.5, (2, 144))


def points(first: float) -> np.ndarray:
    """Return a grid of bright point-like galaxies that begins at pixel `first`, each moved by the same sub-pixel step."""
    cells = np.stack(np.meshgrid(np.arange(12) * STEP, np.arange(12) * STEP)).reshape(2, -1)
    sources = np.zeros(cells.shape[1], GALAXY_DTYPE)
    sources["x"], sources["y"] = cells + first + SUBPIXEL
    sources["rhalf"], sources["sersic"] = 0.06, 1.0
    for band in BANDS:
        sources[f"flux_{band}"] = 300.0
    return sources


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    paths = [f"paths.{name}='{tmp_path}/{name}'" for name in ("survey", "obiwan", "cutouts")]
    made = load_config(None, [*paths, "survey.bricks=1", f"survey.npix={NPIX}", "extract.selection='all'"])
    monkeypatch.setattr(survey_module, "BAD_COLUMNS", 0)
    monkeypatch.setattr(survey_module, "draw_population", lambda *_: points(40.0))
    monkeypatch.setattr(inject_module, "draw_galaxies", lambda *_: points(80.0))
    survey_module.make_survey(made, World())
    inject_module.inject(made, World())
    extract(made, World())
    return made


def centroids(images: np.ndarray) -> np.ndarray:
    """Return the flux-weighted centroids (x, y) of the r-band stamps in an aperture around their brightest pixel, shape (N, 2)."""
    y, x = np.mgrid[:64, :64]
    found = []
    for stamp in images[..., 1].astype(float):
        peak = np.unravel_index(np.argmax(stamp), stamp.shape)
        weight = stamp * (np.hypot(y - peak[0], x - peak[1]) < APERTURE)
        found.append([(x * weight).sum() / weight.sum(), (y * weight).sum() / weight.sum()])
    return np.array(found)


def test_real_and_fake_are_centred_alike(config: Config) -> None:
    truth = {"real": points(40.0), "fake": points(80.0)}
    mean = {}
    for label, sources in truth.items():
        with open_cutouts(cutout_path(config.paths.cutouts, label, "1201p060")) as cutouts:
            table, images = cutouts.sources(), cutouts.images()
        assert len(table) == len(sources) == 144
        near = np.hypot(table["bx"][:, None] - sources["x"], table["by"][:, None] - sources["y"]).argmin(axis=1)
        assert len(set(near)) == 144
        expected = np.column_stack([sources[axis][near] - corners(table[column], 64) for axis, column in (("x", "bx"), ("y", "by"))])
        measured = centroids(images)
        # No source lies elsewhere than the truth says, once the stamp's corner is taken off ...
        np.testing.assert_allclose((measured - expected).mean(axis=0), 0, atol=0.02)
        # ... and all lie within half a pixel of the stamp's centre.
        assert np.abs(measured - 31.5).max() < 0.6
        mean[label] = measured.mean(axis=0)
    np.testing.assert_allclose(mean["real"], mean["fake"], atol=0.02)
