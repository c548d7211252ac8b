"""The pixel statistics that normalise a network's input, from the training split alone."""

from __future__ import annotations

import numpy as np

from hpc_galaxy.errors import InputError
from hpc_galaxy.shards.manifest import Statistics
from hpc_galaxy.shards.schema import DEFAULT, StampFormat

try:
    from hpc_galaxy.splits import _moments

    COMPILED = True
except ImportError:
    COMPILED = False  # numpy computes the moments, slower (benchmarks/bench_pieces.py) and with other rounding

MOST_CHANNELS = 64  # that the compiled part has room for
BLOCK = 1 << 16  # pixels a channel that numpy takes at a time

SAMPLE = 16  # stamps a brick and class that the typical noise is taken from


def typical_invvar(images: np.ndarray, stamps: StampFormat = DEFAULT) -> list[float]:
    """Return the median inverse variance of each band over the pixels with data; NaN where there are none.

    Of stamps without inverse variances, that which the scatter of the pixels tells: 1.4826 times their median distance from
    the median is the standard deviation, as most pixels are sky.

    Parameters
    ----------
    images : ndarray, shape (n, size, size, channels)
        Stamps.
    stamps : StampFormat
        What they are made of.
    """
    bands = len(stamps.bands)
    plane = "invvar" if "invvar" in stamps.planes else "image"
    first = stamps.planes.index(plane) * bands
    pixels = images[..., first : first + bands].reshape(-1, bands)
    return [_typical(band[band > 0]) if plane == "invvar" else _scatter(band[band != 0]) ** -2 for band in pixels.T]


def _typical(pixels: np.ndarray) -> float:
    return float(np.median(pixels)) if len(pixels) else float("nan")


def _scatter(pixels: np.ndarray) -> float:
    sigma = 1.4826 * _typical(np.abs(pixels - _typical(pixels)))
    return sigma if sigma > 0 else float("nan")


def scales(medians: list[list[float]], stamps: StampFormat = DEFAULT) -> np.ndarray:
    """Return what each channel is divided by, shape (channels,): typical sky noise for images, typical value for inverse variances.

    Parameters
    ----------
    medians : list of lists of floats, one a band
        `typical_invvar` of parts of the training split.
    stamps : StampFormat
        What they are made of.

    Raises
    ------
    InputError
        A band has no data at all.
    """
    table = np.array(medians).reshape(-1, len(stamps.bands))
    typical = np.array([np.median(column[np.isfinite(column)]) if np.isfinite(column).any() else 0.0 for column in table.T])
    for band, value in zip(stamps.bands, typical, strict=True):
        if not value > 0:
            raise InputError(f"cutouts, band {band}", "no training stamp has a pixel with data, expected some", "check the coadds")
    return np.concatenate([1 / np.sqrt(typical) if plane == "image" else typical for plane in stamps.planes])


def moments(x: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Return number, sum and sum of squares of arcsinh(x / scale) by channel.

    Parameters
    ----------
    x : ndarray, shape (..., channels), float32
        Pixels. One that is not finite makes its channel's sums NaN.
    scale : ndarray, shape (channels,)
        What each channel is divided by.

    Returns
    -------
    ndarray, shape (3, channels), float64
        The same bits on every processor for which the package was compiled; without, the same to about 1e-8.
    """
    if not COMPILED or len(scale) > MOST_CHANNELS:
        return _moments_numpy(x, scale)
    out = np.empty((3, len(scale)))
    _moments.moments(np.ascontiguousarray(x, np.float32), np.ascontiguousarray(scale, np.float32), out)
    return out


def _moments_numpy(x: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Return what `moments` does, a block of pixels at a time: float64 takes its room."""
    pixels = np.asarray(x, np.float32).reshape(-1, len(scale))
    sums = np.zeros((2, len(scale)))
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, len(pixels), BLOCK):
            block = np.arcsinh(pixels[start : start + BLOCK] / scale.astype(np.float32)).astype(np.float64)
            sums += block.sum(axis=0), (block**2).sum(axis=0)
    return np.stack([np.full(len(scale), float(len(pixels))), *np.where(np.isfinite(sums), sums, np.nan)])


def finish(scale: np.ndarray, parts: list[np.ndarray]) -> Statistics:
    """Combine `moments` of all training shards, in their order, so that the result does not depend on who computed which."""
    number, total, squares = np.sum(parts, axis=0)
    mean = total / number
    std = np.sqrt(np.maximum(squares / number - mean**2, 0))
    # A constant plane carries no information; dividing by its zero scatter would only make NaNs.
    return Statistics(scale=scale.tolist(), mean=mean.tolist(), std=np.where(std > 1e-6, std, 1.0).tolist())
