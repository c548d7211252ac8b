"""What simple classifiers are told of stamps: how the light is spread around the source, and how it scatters at the finest scale."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from hpc_galaxy.splits.audit.measure import rings

APERTURES = (1.5, 2.5, 4.0, 6.0, 9.0, 13.0)  # pixels, radii: from within the seeing to most of a galaxy's light
DIFFERENCE = (1.0, -4.0, 6.0, -4.0, 1.0)  # the fourth: of light that any seeing has blurred next to nothing is left


def light_profile(image: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Return how the light is spread: in each band the flux of every aperture over that of the next larger one, and the largest one's.

    Parameters
    ----------
    image : ndarray, shape (n, size, size, bands)
        Nanomaggies.
    position : ndarray, shape (n, 2)
        x, y of the source in its stamp, pixels.

    Returns
    -------
    ndarray, shape (n, bands x len(APERTURES)), float32
        NaN where the larger aperture has no light.
    """
    count, size, _, bands = image.shape
    along = np.arange(size) - position[..., None]
    squared = (along[:, 1, :, None] ** 2 + along[:, 0, None, :] ** 2).reshape(count, 1, -1)
    pixels = image.reshape(count, size * size, bands)
    fluxes = [np.matmul((squared < radius**2).astype(np.float32), pixels)[:, 0] for radius in APERTURES]
    ratios = [np.divide(inner, outer, out=np.full_like(outer, np.nan), where=outer > 0) for inner, outer in pairwise(fluxes)]
    return np.concatenate([*ratios, fluxes[-1]], axis=1).astype(np.float32)


def fine_scatter(image: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Return how much of the scatter that the variances promise there is at the finest scale, in rings around the middle.

    Light that the seeing has blurred hardly differs from pixel to pixel as noise does: the square of the fourth difference along both
    axes, over what it is for noise of this variance, is 1 on average where the variances are right.

    Parameters
    ----------
    image, variance : ndarray, shape (n, size, size, bands)
        Nanomaggies, and their square; where there are no data the variance is NaN.

    Returns
    -------
    ndarray, shape (n, bands x rings), float32
        The mean of each ring; NaN where there are no data.
    """
    count, size, _, bands = image.shape
    found = _both_axes(image, DIFFERENCE)
    expected = _both_axes(variance, [weight**2 for weight in DIFFERENCE])
    ratio = np.moveaxis(found**2 / expected, -1, 1).reshape(count * bands, -1)
    masks, known = rings(size - len(DIFFERENCE) + 1), np.isfinite(ratio)
    number = np.matmul(known.astype(np.float32), masks)
    total = np.matmul(np.where(known, ratio, 0).astype(np.float32), masks)
    return np.divide(total, number, out=np.full_like(total, np.nan), where=number > 0).reshape(count, -1)


def _both_axes(images: np.ndarray, weights: Sequence[float]) -> np.ndarray:
    """Return weighted sums of neighbours along y and x, shape (n, size - m + 1, size - m + 1, bands) for m weights."""
    factors = np.asarray(weights, images.dtype)
    for axis in (1, 2):
        images = sliding_window_view(images, len(factors), axis) @ factors
    return images
