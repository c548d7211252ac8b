"""The pixel statistics that normalise a network's input, from the training split alone."""

from __future__ import annotations

import numpy as np

from hpc_galaxy.errors import InputError
from hpc_galaxy.shards.manifest import Statistics
from hpc_galaxy.shards.schema import BANDS, STAMP_SHAPE

SAMPLE = 16  # stamps a brick and class that the typical noise is taken from


def typical_invvar(images: np.ndarray) -> list[float]:
    """Return the median inverse variance of each band over the pixels with data; NaN where there are none.

    Parameters
    ----------
    images : ndarray, shape (n, 64, 64, 6)
        Stamps.
    """
    planes = images[..., len(BANDS) :].reshape(-1, len(BANDS))
    return [float(np.median(band[band > 0])) if np.any(band > 0) else float("nan") for band in planes.T]


def scales(medians: list[list[float]]) -> np.ndarray:
    """Return what each channel is divided by, shape (6,): typical sky noise for images, typical value for inverse variances.

    Parameters
    ----------
    medians : list of lists of 3 floats
        `typical_invvar` of parts of the training split.

    Raises
    ------
    InputError
        A band has no data at all.
    """
    table = np.array(medians).reshape(-1, len(BANDS))
    typical = np.array([np.median(column[np.isfinite(column)]) if np.isfinite(column).any() else 0.0 for column in table.T])
    for band, value in zip(BANDS, typical, strict=True):
        if not value > 0:
            raise InputError(
                f"cutouts, band {band}", "no training stamp has an inverse variance above 0, expected some", "check the coadds"
            )
    return np.concatenate([1 / np.sqrt(typical), typical])


def moments(x: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Return number, sum and sum of squares of arcsinh(x / scale) by channel, shape (3, 6), float64."""
    pixels = np.arcsinh(x.reshape(-1, STAMP_SHAPE[-1]) / scale.astype(np.float32)).astype(np.float64)
    return np.stack([np.full(len(scale), float(len(pixels))), pixels.sum(axis=0), (pixels**2).sum(axis=0)])


def finish(scale: np.ndarray, parts: list[np.ndarray]) -> Statistics:
    """Combine `moments` of all training shards, in their order, so that the result does not depend on who computed which."""
    number, total, squares = np.sum(parts, axis=0)
    mean = total / number
    std = np.sqrt(np.maximum(squares / number - mean**2, 0))
    # A constant plane carries no information; dividing by its zero scatter would only make NaNs.
    return Statistics(scale=scale.tolist(), mean=mean.tolist(), std=np.where(std > 1e-6, std, 1.0).tolist())
