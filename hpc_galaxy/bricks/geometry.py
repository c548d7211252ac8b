"""Where bricks lie on the sky, and where the sky lies on a brick.

One pixel convention inside this package: **0-indexed**, the centre of the first pixel is (0, 0), x runs along the last array
axis. FITS headers and obiwan's ``simcat`` tables count from 1; they are converted where they are read and written.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from astropy.wcs import WCS

PIXEL_SCALE = 0.262  # arcsec
TAN = ("RA---TAN", "DEC--TAN")
BRICK_DEGREES = 0.25
SURVEY_COLUMNS = 12  # bricks in a row of a synthetic survey


@dataclass(frozen=True)
class Brick:
    """A cell of the Legacy Surveys' tiling of the sky.

    Attributes
    ----------
    name : str
        ``RRRRsDDD``: right ascension and declination of the centre in tenths of a degree.
    row, column : int
        Counted from the south pole, and along right ascension.
    ra, dec : float
        Centre, degrees.
    ra1, ra2, dec1, dec2 : float
        Edges, degrees. Sources inside them are the brick's own ("primary").
    brickid : int
        Counted along the rows from the south pole.
    """

    name: str
    row: int
    column: int
    ra: float
    dec: float
    ra1: float
    ra2: float
    dec1: float
    dec2: float
    brickid: int


def _columns(row: int) -> int:
    """Return the number of bricks in a row: the smallest even number whose bricks are at most 0.25 degrees wide."""
    nearest_equator = max(0.0, abs(-90 + row * BRICK_DEGREES) - BRICK_DEGREES / 2)
    return 2 * math.ceil(360 / BRICK_DEGREES * math.cos(math.radians(nearest_equator)) / 2)


@cache
def _first_brickid(row: int) -> int:
    # The polar caps (row 0) are single bricks.
    return 1 + sum(1 if south == 0 else _columns(south) for south in range(row))


def grid_brick(row: int, column: int) -> Brick:
    """Return the brick in a row and column of the grid."""
    columns = _columns(row)
    width = 360 / columns
    column %= columns
    ra, dec = (column + 0.5) * width, -90 + row * BRICK_DEGREES
    half = BRICK_DEGREES / 2
    name = f"{int(ra * 10):04d}{'m' if dec < 0 else 'p'}{int(abs(dec) * 10):03d}"
    brickid = _first_brickid(row) + column
    return Brick(name, row, column, ra, dec, column * width, (column + 1) * width, dec - half, dec + half, brickid)


def survey_bricks(count: int, ra: float, dec: float) -> list[Brick]:
    """Return `count` bricks from (`ra`, `dec`) on, no two of which share sky.

    Every second row and column of the grid is left out, because 3600-pixel coadds reach into the neighbouring bricks. The
    first n bricks of a larger survey are those of a smaller one.
    """
    first_row = round((dec + 90) / BRICK_DEGREES)
    bricks = []
    for number in range(count):
        row = first_row + 2 * (number // SURVEY_COLUMNS)
        first_column = int(ra / 360 * _columns(row))
        bricks.append(grid_brick(row, first_column + 2 * (number % SURVEY_COLUMNS)))
    return bricks


def brick_wcs(ra: float, dec: float, npix: int) -> WCS:
    """Return the TAN projection of a brick of `npix` x `npix` pixels, north up, east left."""
    return projection(TAN, [ra, dec], [(npix + 1) / 2] * 2, np.diag([-PIXEL_SCALE, PIXEL_SCALE]) / 3600)


def projection(ctype: Sequence[str], crval: Sequence[float], crpix: Sequence[float], cd: np.ndarray) -> WCS:
    """Return the projection that FITS keywords of these names describe; `cd` of shape (2, 2), degrees a pixel."""
    from astropy.wcs import WCS  # and coordinates, and units: a third of what a stage reads before it begins

    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval, wcs.wcs.crpix, wcs.wcs.cd = list(ctype), list(crval), list(crpix), cd
    return wcs


def unit_vectors(ra: np.ndarray, dec: np.ndarray) -> np.ndarray:
    """Return points on the unit sphere, shape (..., 3), of right ascension and declination in degrees."""
    alpha, delta = np.radians(ra), np.radians(dec)
    return np.stack([np.cos(delta) * np.cos(alpha), np.cos(delta) * np.sin(alpha), np.sin(delta)], axis=-1)


def chord(arcsec: float) -> float:
    """Return the length of the chord, on the unit sphere, of an angle in arcsec."""
    return 2 * math.sin(math.radians(arcsec / 3600) / 2)
