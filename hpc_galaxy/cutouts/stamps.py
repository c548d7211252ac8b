"""Cut stamps out of coadd planes.

The convention, the same for every class and every stage: positions are 0-indexed; a stamp begins at
``ceil(position - size / 2)``, so the source lies within half a pixel of the stamp's geometric centre, (size - 1) / 2. This is
`astropy.nddata.Cutout2D`'s convention. Nothing is resampled.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hpc_galaxy.shards.schema import STAMP_DTYPE


def corners(positions: np.ndarray, size: int) -> np.ndarray:
    """Return the first pixel of the stamps around 0-indexed `positions` along one axis, shape (N,), int."""
    return np.ceil(np.asarray(positions, dtype=np.float64) - size / 2).astype(np.int64)


def boxes(bx: np.ndarray, by: np.ndarray, size: int) -> np.ndarray:
    """Return the stamps' outlines, shape (N, 4), int: x0, y0, x1, y1, half-open; they may reach over the coadd's edge."""
    left, bottom = corners(bx, size), corners(by, size)
    return np.stack([left, bottom, left + size, bottom + size], axis=-1)


def inside(bx: np.ndarray, by: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return which positions lie on the coadd, shape (N,), bool."""
    return (bx >= -0.5) & (bx < shape[1] - 0.5) & (by >= -0.5) & (by < shape[0] - 0.5)


def on_edge(outlines: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return which of the `boxes` reach over the edge of a coadd of `shape` (ny, nx), shape (N,), bool."""
    return np.any((outlines[:, :2] < 0) | (outlines[:, 2:] > (shape[1], shape[0])), axis=1)


def cut_stamps(planes: Sequence[np.ndarray], outlines: np.ndarray) -> np.ndarray:
    """Cut stamps.

    Parameters
    ----------
    planes : sequence of ndarray, each of shape (ny, nx), float32
        The coadd's planes, one a channel.
    outlines : ndarray, shape (N, 4), int
        `boxes`, all of one size.

    Returns
    -------
    ndarray, shape (N, size, size, channels), float32
        Axes (source, y, x, channel). Outside the coadd every channel is 0.
    """
    ny, nx = planes[0].shape
    size = int(outlines[0, 2] - outlines[0, 0]) if len(outlines) else 0
    stamps = np.zeros((len(outlines), size, size, len(planes)), STAMP_DTYPE)
    for stamp, (x0, y0, x1, y1) in zip(stamps, outlines.tolist(), strict=True):
        xs, ys, xe, ye = max(x0, 0), max(y0, 0), min(x1, nx), min(y1, ny)
        if xe > xs and ye > ys:
            part = stamp[ys - y0 : ye - y0, xs - x0 : xe - x0]
            for channel, plane in enumerate(planes):
                part[..., channel] = plane[ys:ye, xs:xe]
    return stamps
