"""Cut stamps out of coadd planes.

The convention, the same for every class and every stage: positions are 0-indexed; a stamp begins at
``ceil(position - size / 2)``, so the source lies within half a pixel of the stamp's geometric centre, (size - 1) / 2 = 31.5. This
is `astropy.nddata.Cutout2D`'s convention. Nothing is resampled.
"""

from __future__ import annotations

import numpy as np

from hpc_galaxy.shards.schema import CHANNELS, STAMP_DTYPE, STAMP_SHAPE, STAMP_SIZE


def corners(positions: np.ndarray) -> np.ndarray:
    """Return the first pixel of the stamps around 0-indexed `positions` along one axis, shape (N,), int."""
    return np.ceil(np.asarray(positions, dtype=np.float64) - STAMP_SIZE / 2).astype(np.int64)


def inside(bx: np.ndarray, by: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return which positions lie on the coadd, shape (N,), bool."""
    return (bx >= -0.5) & (bx < shape[1] - 0.5) & (by >= -0.5) & (by < shape[0] - 0.5)


def cut_stamps(planes: dict[str, np.ndarray], bx: np.ndarray, by: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cut a stamp around each position.

    Parameters
    ----------
    planes : dict of ndarray, each of shape (ny, nx), float32
        The coadd's planes, named as in `CHANNELS`.
    bx, by : ndarray, shape (N,)
        0-indexed pixel positions.

    Returns
    -------
    images : ndarray, shape (N, 64, 64, 6), float32
        Axes (source, y, x, channel). Outside the coadd image and invvar are 0.
    edge : ndarray, shape (N,), bool
        Whether part of the stamp is outside the coadd.
    """
    ny, nx = planes[CHANNELS[0]].shape
    left, bottom = corners(bx), corners(by)
    edge = (left < 0) | (bottom < 0) | (left + STAMP_SIZE > nx) | (bottom + STAMP_SIZE > ny)
    images = np.zeros((len(left), *STAMP_SHAPE), STAMP_DTYPE)
    for stamp, x0, y0 in zip(images, left, bottom, strict=True):
        x1, y1 = max(x0, 0), max(y0, 0)
        x2, y2 = min(x0 + STAMP_SIZE, nx), min(y0 + STAMP_SIZE, ny)
        if x2 > x1 and y2 > y1:
            for channel, name in enumerate(CHANNELS):
                stamp[y1 - y0 : y2 - y0, x1 - x0 : x2 - x0, channel] = planes[name][y1:y2, x1:x2]
    return images, edge
