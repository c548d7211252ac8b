"""Cut stamps out of coadd planes.

The convention, the same for every class and every stage: positions are 0-indexed; a stamp begins at
``ceil(position - size / 2)``, so the source lies within half a pixel of the stamp's geometric centre, (size - 1) / 2. This is
`astropy.nddata.Cutout2D`'s convention. Nothing is resampled.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hpc_galaxy.shards.schema import STAMP_DTYPE

try:
    from hpc_galaxy.cutouts import _cut

    COMPILED = True
except ImportError:
    COMPILED = False  # numpy cuts the same stamps, slower


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


def cut_stamps(
    planes: Sequence[np.ndarray], outlines: np.ndarray, clamped: Sequence[bool] | None = None, bad: np.ndarray | None = None
) -> np.ndarray:
    """Cut stamps.

    Parameters
    ----------
    planes : sequence of ndarray, each of shape (ny, nx), float32
        The coadd's planes, one a channel.
    outlines : ndarray, shape (N, 4), int
        `boxes`, all of one size.
    clamped : sequence of bool, optional
        Of which channels negative pixels become 0. By default of none.
    bad : ndarray, shape (channels,), int64, optional
        To it are added the numbers of pixels in the stamps that are not finite, after clamping.

    Returns
    -------
    ndarray, shape (N, size, size, channels), float32
        Axes (source, y, x, channel). Outside the coadd every channel is 0.

    Raises
    ------
    ValueError
        The outlines are not all squares of one size, or the planes not all of one shape.
    """
    size = int(outlines[0, 2] - outlines[0, 0]) if len(outlines) else 0
    if np.any(outlines[:, 2:] - outlines[:, :2] != size) or any(plane.shape != planes[0].shape for plane in planes):
        raise ValueError(f"expected outlines of {size} x {size} pixels in planes of shape {planes[0].shape}")
    clamped = [False] * len(planes) if clamped is None else clamped
    bad = np.zeros(len(planes), np.int64) if bad is None else bad
    plain = all(plane.dtype == STAMP_DTYPE and plane.flags.c_contiguous for plane in planes)
    if not COMPILED or not plain or not size:
        return _cut_with_numpy(planes, outlines, size, clamped, bad)
    stamps = np.empty((len(outlines), size, size, len(planes)), STAMP_DTYPE)
    first = np.ascontiguousarray(outlines[:, :2], np.int64)
    _cut.cut(tuple(planes), planes[0].shape, bytes(map(bool, clamped)), first, size, stamps, bad)
    return stamps


def _cut_with_numpy(planes: Sequence[np.ndarray], outlines: np.ndarray, size: int, clamped: Sequence[bool], bad: np.ndarray) -> np.ndarray:
    ny, nx = planes[0].shape
    stamps = np.zeros((len(outlines), size, size, len(planes)), STAMP_DTYPE)
    for stamp, (x0, y0, x1, y1) in zip(stamps, outlines.tolist(), strict=True):
        xs, ys, xe, ye = max(x0, 0), max(y0, 0), min(x1, nx), min(y1, ny)
        if xe > xs and ye > ys:
            part = stamp[ys - y0 : ye - y0, xs - x0 : xe - x0]
            for channel, plane in enumerate(planes):
                part[..., channel] = plane[ys:ye, xs:xe]
    for number in np.flatnonzero(clamped):
        np.maximum(stamps[..., number], 0, out=stamps[..., number])
    finite = np.isfinite(stamps)
    if not finite.all():  # counting by channel takes longer
        bad += np.count_nonzero(~finite, axis=(0, 1, 2))
    return stamps
