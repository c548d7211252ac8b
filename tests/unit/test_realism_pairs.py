"""Which galaxies a mosaic shows, and on what scale."""

from __future__ import annotations

import numpy as np
import pytest

from hpc_galaxy.realism.mosaic import colour_pictures, noise, scale_images, scale_invvar
from hpc_galaxy.realism.pairs import choose_pairs, magnitude_at
from hpc_galaxy.realism.pixels import pixel_scatter
from hpc_galaxy.shards.schema import SOURCE_DTYPE, STAMP_SHAPE


def make_table(size: int, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    table = np.zeros(size, SOURCE_DTYPE)
    table["id"] = np.arange(size).astype("S")
    table["label"] = rng.integers(0, 2, size)
    table["mag_g"] = rng.uniform(19, 24, size)
    return table


def test_the_99th_percentile_is_bright() -> None:
    magnitudes = np.array([*np.linspace(19, 24, 101), np.nan])
    assert magnitude_at(magnitudes, 99) == pytest.approx(19.05)
    assert magnitude_at(magnitudes, 1) == pytest.approx(23.95)


@pytest.mark.parametrize("target", [19.0, 21.5, 24.0])
def test_pairs_are_alike_near_the_target_and_without_repeats(target: float) -> None:
    table = make_table(400)
    table["mag_g"][:100] = np.nan
    rows = choose_pairs(table, target, 4)
    assert rows.shape == (4, 2)
    assert len(np.unique(rows)) == 8
    assert (table["label"][rows] == [0, 1]).all()
    magnitudes = table["mag_g"][rows]
    assert np.abs(magnitudes - target).max() < 0.3
    assert np.abs(magnitudes[:, 0] - magnitudes[:, 1]).max() < 0.1
    assert (np.diff(magnitudes[:, 0]) >= 0).all()


def test_one_galaxy_in_two_realisations_is_shown_once() -> None:
    table = make_table(6)
    table["label"] = [0, 0, 0, 1, 1, 1]
    table["mag_g"] = [20, 20, 21, 20, 21, 22]
    table["id"][1] = table["id"][0]
    rows = choose_pairs(table, 20.0, 3)
    assert len(np.unique(table["id"][rows])) == rows.size == 4


def test_fewer_pairs_than_wanted() -> None:
    table = make_table(5)
    table["label"] = [0, 1, 1, 1, 1]
    assert choose_pairs(table, 20.0, 4).shape == (1, 2)
    table["label"] = 1
    assert choose_pairs(table, 20.0, 4).shape == (0, 2)


def test_missing_pixels_are_black_and_the_scale_is_common() -> None:
    rng = np.random.default_rng(1)
    stamps = np.empty((4, *STAMP_SHAPE), np.float32)
    stamps[..., :3] = rng.normal(0, 0.1, (4, 64, 64, 3))
    stamps[..., 3:] = 100
    stamps[1, ..., 3:] = 50
    stamps[2, :10] = 0
    assert noise(stamps) == pytest.approx([0.1] * 3)
    invvar = scale_invvar(stamps)
    assert (invvar[2, :10] == 0).all() and (invvar[0] == 1).all()
    assert invvar[1] == pytest.approx(0.5)
    assert (colour_pictures(stamps)[2, :10] == 0).all()
    grey = scale_images(stamps)
    assert grey.min() >= 0 and grey.max() <= 1
    brighter = stamps.copy()
    brighter[3, 28:36, 28:36, :3] = 5
    assert scale_images(brighter)[0].mean() < grey[0].mean(), "a bright galaxy changes the scale of every row"
    assert np.isfinite(scale_images(np.zeros_like(stamps))).all(), "a picture without any good pixel"


def test_pixels_without_data_do_not_count_in_their_scatter() -> None:
    images = np.random.default_rng(1).normal(5, [0.5, 2.0], (40, 16, 16, 2))
    whole = pixel_scatter(images)
    assert whole == pytest.approx([0.5, 2.0], rel=0.03)
    images[:, :12] = 0
    assert pixel_scatter(images) == pytest.approx(pixel_scatter(images[:, 12:])) and pixel_scatter(images) == pytest.approx(whole, rel=0.05)
    assert pixel_scatter(np.zeros((2, 4, 4, 3))).tolist() == [1, 1, 1] and pixel_scatter(np.full((2, 4, 4, 1), 7.0)).tolist() == [1]
