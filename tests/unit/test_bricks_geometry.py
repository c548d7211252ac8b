"""The grid of bricks and the projection of a coadd."""

from __future__ import annotations

import numpy as np
import pytest

from hpc_galaxy.bricks.geometry import brick_wcs, chord, grid_brick, survey_bricks, unit_vectors


def test_grid_is_that_of_the_legacy_surveys() -> None:
    # The row of brick 0285m165 in the survey-bricks table of the Legacy Surveys.
    brick = grid_brick(294, 109)
    assert (brick.name, brick.brickid) == ("0285m165", 236687)
    edges = (brick.ra, brick.dec, brick.ra1, brick.ra2, brick.dec1, brick.dec2)
    assert edges == pytest.approx((28.52387844, -16.5, 28.39363242, 28.65412446, -16.625, -16.375), abs=1e-8)


def test_bricks_of_a_survey_share_no_sky() -> None:
    bricks = survey_bricks(30, 120.0, 6.0)
    assert len({brick.name for brick in bricks}) == 30
    half = 1800 * 0.262 / 3600
    for number, one in enumerate(bricks):
        for other in bricks[:number]:
            apart_ra = abs(one.ra - other.ra) * np.cos(np.radians(max(abs(one.dec), abs(other.dec)) + half))
            assert max(apart_ra, abs(one.dec - other.dec)) > 2 * half


def test_a_larger_survey_begins_with_the_smaller_one() -> None:
    assert survey_bricks(40, 10.0, -20.0)[:15] == survey_bricks(15, 10.0, -20.0)


def test_coadd_is_north_up_east_left_and_centred() -> None:
    wcs = brick_wcs(120.0, 6.0, 3600)
    assert wcs.wcs.crpix.tolist() == [1800.5, 1800.5]
    assert wcs.all_pix2world(1799.5, 1799.5, 0) == pytest.approx((120.0, 6.0))
    right = wcs.all_pix2world(1899.5, 1799.5, 0)
    up = wcs.all_pix2world(1799.5, 1899.5, 0)
    assert right[0] < 120.0
    assert up[1] - 6.0 == pytest.approx(100 * 0.262 / 3600, rel=1e-6)


def test_chord_is_the_distance_of_unit_vectors() -> None:
    one, other = unit_vectors(np.array([10.0]), np.array([60.0])), unit_vectors(np.array([10.0]), np.array([60.0 + 5 / 3600]))
    assert np.linalg.norm(one - other) == pytest.approx(chord(5.0), rel=1e-6)
