"""Planes of stamps, and what pixels by themselves tell of their noise."""

from __future__ import annotations

import numpy as np

from hpc_galaxy.shards.schema import StampFormat

TO_SIGMA = 1.4826  # the standard deviation of normal numbers over their median distance from the median


def plane_of(stamps: np.ndarray, plane: str, made_of: StampFormat) -> np.ndarray:
    """Return the channels of one plane, shape (n, size, size, bands)."""
    first = made_of.planes.index(plane) * len(made_of.bands)
    return stamps[..., first : first + len(made_of.bands)]


def pixel_scatter(images: np.ndarray) -> np.ndarray:
    """Return how much the pixels of each band scatter, shape (bands,): 1.4826 times the median distance from the median.

    Parameters
    ----------
    images : ndarray, shape (n, size, size, bands)
        Pixels that are exactly 0 have no data, and do not count.

    Returns
    -------
    ndarray
        In the images' unit; 1 where no pixel has data, or all are equal.
    """
    return np.array([_scatter(band[band != 0]) for band in np.moveaxis(images, -1, 0)])


def _scatter(pixels: np.ndarray) -> float:
    found = TO_SIGMA * float(np.median(np.abs(pixels - np.median(pixels)))) if pixels.size else 0.0
    return found or 1.0
