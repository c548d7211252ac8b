"""Where fakes go: places drawn again where there are no data or masks, and collisions."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from hpc_galaxy.bricks.geometry import PIXEL_SCALE
from hpc_galaxy.bricks.images import BANDS

TRIES = 100  # places drawn for one fake before it is given up


def draw_places(rng: np.random.Generator, count: int, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return x and y, each of shape (count,), 0-indexed pixels, uniform over a coadd of `shape` (ny, nx)."""
    return rng.uniform(-0.5, shape[1] - 0.5, count), rng.uniform(-0.5, shape[0] - 0.5, count)


def forbidden(planes: dict[str, np.ndarray], bits: np.ndarray | None, mask: int) -> np.ndarray:
    """Return the pixels, shape (ny, nx), bool, on which no fake may be centred.

    Parameters
    ----------
    planes : dict of ndarray
        With ``invvar_<band>``; 0 is no data.
    bits, mask : ndarray or None, int
        The brick's ``maskbits``, and which of them forbid a pixel.
    """
    bad = np.zeros(planes[f"invvar_{BANDS[0]}"].shape, bool)
    for band in BANDS:
        bad |= planes[f"invvar_{band}"] <= 0
    return bad if bits is None else bad | ((bits & mask) != 0)


def draw_again(rng: np.random.Generator, fakes: np.ndarray, bad: np.ndarray) -> np.ndarray:
    """Draw other places, in place, for fakes on forbidden pixels.

    Parameters
    ----------
    rng : Generator
        Behind the new places alone: the others stay where they are.
    fakes : ndarray, `hpc_galaxy.bricks.galaxies.GALAXY_DTYPE`
        Their x and y change.
    bad : ndarray, shape (ny, nx), bool
        From `forbidden`.

    Returns
    -------
    ndarray, shape (N,), bool
        Fakes that have found no place in `TRIES` tries, as on a brick without data.
    """
    lost = _on(fakes, bad)
    for _ in range(TRIES):
        if not lost.any():
            break
        fakes["x"][lost], fakes["y"][lost] = draw_places(rng, int(lost.sum()), bad.shape)
        lost = _on(fakes, bad)
    return lost


def _on(fakes: np.ndarray, bad: np.ndarray) -> np.ndarray:
    y, x = (np.clip(np.rint(fakes[name]).astype(int), 0, size - 1) for name, size in zip("yx", bad.shape, strict=True))
    return np.asarray(bad[y, x])


def collisions(x: np.ndarray, y: np.ndarray, arcsec: float) -> np.ndarray:
    """Return which galaxies lie within `arcsec` of an earlier one that stays, shape (N,), bool.

    Parameters
    ----------
    x, y : ndarray, shape (N,)
        Pixels; the order decides who stays.
    """
    skipped = np.zeros(len(x), bool)
    if arcsec == 0 or len(x) == 0:
        return skipped
    pairs = cKDTree(np.column_stack([x, y])).query_pairs(arcsec / PIXEL_SCALE, output_type="ndarray")
    for first, second in pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]:
        skipped[second] |= not skipped[first]
    return skipped
