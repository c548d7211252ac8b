"""Each deliberate defect, measured in pixels; without them an injection is honest to the last bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hpc_galaxy.bricks.conditions import EFFECTIVE_GAIN, Conditions
from hpc_galaxy.bricks.galaxies import GALAXY_DTYPE, draw, moffat
from hpc_galaxy.bricks.geometry import brick_wcs
from hpc_galaxy.bricks.images import BANDS
from hpc_galaxy.bricks.simcat import simcat_table
from hpc_galaxy.config import Defects, Injection
from hpc_galaxy.injection.add import Drawing, add_galaxies
from hpc_galaxy.injection.psf import catalog_psfs

FWHM, SKY = 1.2, 4e4
CONDITIONS = Conditions(dict.fromkeys(BANDS, FWHM), dict.fromkeys(BANDS, 0.005), dict.fromkeys(BANDS, 0.9))
SIZE, CENTER = 121, (60.3, 59.8)


def galaxy(**changes: float) -> np.ndarray:
    fakes = np.zeros(1, GALAXY_DTYPE)
    fakes["x"], fakes["y"] = CENTER
    fakes["rhalf"], fakes["sersic"], fakes["seed"] = 0.6, 1.0, 7
    for band in BANDS:
        fakes[f"flux_{band}"] = 40.0
    for name, value in changes.items():
        fakes[name] = value
    return fakes


def added(fakes: np.ndarray, key: int = 1, poisson: bool = False, update_invvar: bool = True, **defects: Any) -> dict[str, np.ndarray]:
    settings = Injection(poisson=poisson, update_invvar=update_invvar, defects=Defects(**defects))
    kinds = {"image": 0.0, "invvar": SKY}
    planes = {f"{plane}_{band}": np.full((SIZE, SIZE), value, np.float32) for plane, value in kinds.items() for band in BANDS}
    add_galaxies(planes, fakes, np.arange(len(fakes)), Drawing(settings, catalog_psfs(CONDITIONS, settings.defects)), [key])
    return planes


def light(fakes: np.ndarray, **defects: Any) -> np.ndarray:
    return added(fakes, **defects)["image_g"].astype(np.float64)


def centroid(pixels: np.ndarray) -> np.ndarray:
    y, x = np.mgrid[:SIZE, :SIZE]
    return np.array([(x * pixels).sum(), (y * pixels).sum()]) / pixels.sum()


def test_strength_0_is_the_honest_injection_to_the_last_bit() -> None:
    fakes = galaxy(bulge=0.2, knots=0.1)
    planes, psf, gain = added(fakes, poisson=True), moffat(FWHM), EFFECTIVE_GAIN["r"]
    stamp = draw(fakes[0], "r", psf, (SIZE, SIZE))  # as the survey draws its own
    image, invvar = np.zeros((SIZE, SIZE), np.float32), np.full((SIZE, SIZE), SKY, np.float32)
    here = (stamp.rows, stamp.columns)
    image[here] += np.random.default_rng([1, 0, 1]).poisson(stamp.pixels * gain) / gain
    invvar[here] /= 1 + invvar[here] * stamp.pixels / gain
    np.testing.assert_array_equal(planes["image_r"], image)
    np.testing.assert_array_equal(planes["invvar_r"], invvar)


@pytest.mark.parametrize(("across", "up"), [(0.25, 0.0), (0.0, -0.5), (1.0, 1.0)])
def test_centroid_moves_by_as_many_pixels(across: float, up: float) -> None:
    moved = centroid(light(galaxy(), centroid=across, centroid_y=up)) - centroid(light(galaxy()))
    np.testing.assert_allclose(moved, [across, up], atol=0.02)


def test_flux_grows_by_the_share() -> None:
    assert light(galaxy(), flux=0.05).sum() == pytest.approx(1.05 * light(galaxy()).sum(), rel=1e-3)


@pytest.mark.parametrize("share", [0.05, 0.3])
def test_psf_is_broader_by_the_share(share: float) -> None:
    point = galaxy(rhalf=0.0, sersic=0.0, x=60.0, y=60.0)  # on the middle of a pixel, where the profile is known
    assert light(point).max() / light(point, psf=share).max() == pytest.approx((1 + share) ** 2, rel=2e-3)
    wide = draw(point[0], "g", moffat(FWHM * (1 + share)), (SIZE, SIZE))
    middle = np.s_[40:80, 40:80]
    expected = np.zeros((SIZE, SIZE))
    expected[wide.rows, wide.columns] = wide.pixels
    np.testing.assert_allclose(light(point, psf=share)[middle], expected[middle], atol=2e-3 * expected.max())


def test_a_second_pixel_is_a_mean_over_a_pixel() -> None:
    star = galaxy(rhalf=0.0, sersic=0.0)
    steps = (np.arange(5) - 2) / 5  # the middles of fifths of a pixel
    moved = [light(galaxy(rhalf=0.0, sersic=0.0, x=CENTER[0] + dx, y=CENTER[1] + dy)) for dx in steps for dy in steps]
    honest, twice = light(star), light(star, pixel_twice=True)
    assert np.abs(twice - np.mean(moved, axis=0)).max() < 2e-3 * honest.max()
    assert twice.max() < 0.98 * honest.max()


@pytest.mark.parametrize("missing", [0.5, 1.0])
def test_this_share_of_the_photon_noise_is_missing(missing: float) -> None:
    fakes, gain = galaxy(), EFFECTIVE_GAIN["g"]
    honest = light(fakes)
    bright = honest > 0.05
    images = np.array([added(fakes, key, poisson=True, noise=missing)["image_g"] for key in range(100)])
    ratio = np.mean(images.var(axis=0, ddof=1)[bright] / (honest[bright] / gain))
    assert ratio == pytest.approx(1 - missing, abs=0.05)
    assert images.mean(axis=0)[bright].sum() == pytest.approx(honest[bright].sum(), rel=2e-3)
    # The inverse variance still says what it would.
    np.testing.assert_array_equal(added(fakes, poisson=True, noise=missing)["invvar_g"], added(fakes, poisson=True)["invvar_g"])


def test_index_is_larger_by_the_share_and_within_what_can_be_drawn() -> None:
    np.testing.assert_array_equal(light(galaxy(), index=0.5), light(galaxy(sersic=1.5)))
    np.testing.assert_array_equal(light(galaxy(sersic=5.0), index=0.9), light(galaxy(sersic=6.0)))
    # At the same half-light radius there is more light far out.
    y, x = np.mgrid[:SIZE, :SIZE]
    far = np.hypot(x - CENTER[0], y - CENTER[1]) > 12
    wider, honest = (pixels[far].sum() / pixels.sum() for pixels in (light(galaxy(), index=0.5), light(galaxy())))
    assert wider > 1.5 * honest


def test_smooth_takes_the_knots_away() -> None:
    lumpy = galaxy(rhalf=2.0, sersic=1.6, bulge=0.2, knots=0.2)
    plain = light(galaxy(rhalf=2.0, sersic=1.6))
    honest, half = light(lumpy), light(lumpy, smooth=0.5)
    np.testing.assert_allclose(half, (honest + plain) / 2, atol=2e-3 * honest.max())
    np.testing.assert_array_equal(light(lumpy, smooth=1.0), plain)
    np.testing.assert_array_equal(light(galaxy(), smooth=1.0), light(galaxy()))  # there is nothing to smooth


@pytest.mark.parametrize("update", [True, False])
def test_invvar_counts_the_photon_noise_once_more(update: bool) -> None:
    planes = added(galaxy(), update_invvar=update, invvar=2.0)
    extra = 1 / planes["invvar_z"].astype(np.float64) - 1 / SKY
    expected = (update + 2.0) * planes["image_z"] / EFFECTIVE_GAIN["z"]
    bright = planes["image_z"] > 0.05
    np.testing.assert_allclose(extra[bright], expected[bright], rtol=1e-3)


def test_no_table_says_what_is_wrong() -> None:
    fakes = galaxy()
    before = fakes.copy()
    added(fakes, centroid=1.0, centroid_y=1.0, flux=0.5, index=0.5, psf=0.2)
    np.testing.assert_array_equal(fakes, before)  # the truth table is made of them
    row = simcat_table(fakes, brick_wcs(120.0, 6.0, SIZE), dict.fromkeys(BANDS, 0.9))[0]
    assert (row["x"] - 1, row["y"] - 1, row["gflux"], row["n"]) == pytest.approx((*CENTER, 40.0, 1.0))
