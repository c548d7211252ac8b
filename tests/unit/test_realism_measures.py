"""Light profiles and the scatter at the finest scale, on stamps whose light and noise are known."""

from __future__ import annotations

import numpy as np
import pytest

from hpc_galaxy.realism.measures import APERTURES, fine_scatter, light_profile

SIZE, SIGMA = 32, 2.0
PLACES = np.array([[15.5, 15.5], [15.2, 16.1], [14.9, 15.8]])


def gaussians(flux: float = 100.0) -> np.ndarray:
    """Gaussian galaxies at PLACES, shape (3, SIZE, SIZE, 2); the second band is twice as bright."""
    x, y = (np.exp(-((np.arange(SIZE) - PLACES[:, axis, None]) ** 2) / (2 * SIGMA**2)) for axis in (0, 1))
    light = flux / (2 * np.pi * SIGMA**2) * y[:, :, None] * x[:, None, :]
    return np.stack([light, 2 * light], axis=-1).astype(np.float32)


def test_fluxes_of_apertures_are_those_of_a_gaussian() -> None:
    found = light_profile(gaussians(), PLACES).reshape(len(PLACES), len(APERTURES), 2)
    inside = 1 - np.exp(-np.square(APERTURES) / (2 * SIGMA**2))
    np.testing.assert_allclose(found[:, -1], [[100, 200]] * 3, rtol=1e-3)
    # The smallest apertures hold some ten pixels, whose edges count whole or not at all.
    np.testing.assert_allclose(found[:, 2:-1, 0], np.broadcast_to(inside[2:-1] / inside[3:], (3, 3)), rtol=0.03)
    np.testing.assert_allclose(found[..., :-1, 0], found[..., :-1, 1], rtol=1e-5)


def test_an_aperture_without_light_has_no_ratio() -> None:
    found = light_profile(np.zeros((1, SIZE, SIZE, 2), np.float32), PLACES[:1])
    assert np.isnan(found[0, :-2]).all() and (found[0, -2:] == 0).all()


@pytest.mark.parametrize("level", [0.25, 1.0])
def test_noise_scatters_as_its_variance_promises(level: float) -> None:
    """Also where the variance changes from pixel to pixel, and where there is light of a thousand times the noise."""
    rng = np.random.default_rng(3)
    variance = np.broadcast_to(rng.uniform(0.5, 2.0, (1, SIZE, SIZE, 1)), (600, SIZE, SIZE, 1)).astype(np.float32)
    light = np.repeat(gaussians(2.5e4)[:1, ..., :1], 600, axis=0)
    noise = rng.standard_normal(variance.shape).astype(np.float32) * np.sqrt(level * variance)
    assert light.max() > 900
    np.testing.assert_allclose(fine_scatter(noise, variance).mean(axis=0), level, rtol=0.1)
    np.testing.assert_allclose(fine_scatter(light * 1e-3 + noise, variance).mean(axis=0), level, rtol=0.1)


def test_of_light_that_the_seeing_has_blurred_little_is_left() -> None:
    light = gaussians(1e4)  # a peak of 400 in noise of 1
    assert fine_scatter(light, np.ones_like(light)).max() < 40**2 / 100


def test_pixels_without_data_do_not_count() -> None:
    rng = np.random.default_rng(4)
    image, variance = rng.standard_normal((300, SIZE, SIZE, 1)).astype(np.float32), np.ones((300, SIZE, SIZE, 1), np.float32)
    image[:, :, 10], variance[:, :, 10] = 1e6, np.nan
    np.testing.assert_allclose(fine_scatter(image, variance).mean(axis=0)[-1], 1, rtol=0.1)
    assert np.isnan(fine_scatter(image, np.full_like(variance, np.nan))).all()
