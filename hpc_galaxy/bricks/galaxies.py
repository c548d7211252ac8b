"""Galaxies as GalSim profiles, and their noiseless images. The synthetic survey and the injection draw with the same code."""

from __future__ import annotations

import math
from dataclasses import dataclass

import galsim
import numpy as np

from hpc_galaxy.bricks.geometry import PIXEL_SCALE

MOFFAT_BETA = 3.5
SERSIC_STEP = 0.1  # indices are rounded to this: GalSim tabulates each index once, at some cost
SERSIC_RANGE = (0.5, 6.0)  # inside what GalSim can draw (0.3 to 6.2)
BULGE_RADIUS, DISK_RADIUS = 0.35, 1.15  # half-light radii of the parts, in units of the whole galaxy's
MAX_STAMP = 512

GALAXY_DTYPE = np.dtype(
    [
        ("x", "<f8"),  # 0-indexed pixels
        ("y", "<f8"),
        ("flux_g", "<f8"),  # nanomaggies, dimmed by extinction
        ("flux_r", "<f8"),
        ("flux_z", "<f8"),
        ("sersic", "<f8"),
        ("rhalf", "<f8"),  # circularised half-light radius, arcsec; 0 for a star
        ("g1", "<f8"),  # GalSim's reduced shear (a - b) / (a + b), on the pixel axes
        ("g2", "<f8"),
        ("bulge", "<f8"),  # share of the flux; bulge + knots is 0 for a plain Sersic profile
        ("knots", "<f8"),
        ("seed", "<i8"),  # places the knots
    ]
)


def moffat(fwhm: float) -> galsim.GSObject:
    """Return the delivered PSF, pixel response included (so it is drawn with ``no_pixel``); `fwhm` in arcsec."""
    return galsim.Moffat(beta=MOFFAT_BETA, fwhm=fwhm)


def effective_area(fwhm: float) -> float:
    """Return 1 / sum(psf^2), the number of pixels whose sky noise a fitted point-source flux carries."""
    pixels = moffat(fwhm).drawImage(nx=65, ny=65, scale=PIXEL_SCALE, method="no_pixel").array
    return float(1 / np.sum(pixels.astype(np.float64) ** 2))


def sersic_index(index: float) -> float:
    """Return the index as it is drawn: within GalSim's range and on the grid of `SERSIC_STEP`."""
    low, high = SERSIC_RANGE
    return round(min(max(index, low), high) / SERSIC_STEP) * SERSIC_STEP


def profile(galaxy: np.void) -> galsim.GSObject:
    """Return the intrinsic profile of one row of `GALAXY_DTYPE`, of unit flux."""
    if galaxy["rhalf"] == 0:
        return galsim.DeltaFunction()
    shear = galsim.Shear(g1=galaxy["g1"], g2=galaxy["g2"])
    if galaxy["bulge"] + galaxy["knots"] == 0:
        return galsim.Sersic(sersic_index(galaxy["sersic"]), half_light_radius=galaxy["rhalf"]).shear(shear)
    return _with_substructure(galaxy, shear)


def _with_substructure(galaxy: np.void, shear: galsim.Shear) -> galsim.GSObject:
    """Return a round bulge (n = 4), an exponential disk, and knots of star formation scattered over the disk."""
    random = galsim.BaseDeviate(int(galaxy["seed"]))
    count = galsim.UniformDeviate(random)() * 16 + 8
    bulge = galsim.Sersic(4.0, half_light_radius=BULGE_RADIUS * galaxy["rhalf"], flux=galaxy["bulge"])
    disk = galsim.Exponential(half_light_radius=DISK_RADIUS * galaxy["rhalf"], flux=1 - galaxy["bulge"] - galaxy["knots"])
    parts = [bulge, disk.shear(shear)]
    if galaxy["knots"] > 0:
        knots = galsim.RandomKnots(int(count), half_light_radius=galaxy["rhalf"], flux=galaxy["knots"], rng=random)
        parts.append(knots.shear(shear))
    return galsim.Sum(parts)


@dataclass(frozen=True)
class Stamp:
    """A small noiseless image and where it lies on the coadd.

    Attributes
    ----------
    pixels : ndarray, shape (ny, nx), float32
        Nanomaggies.
    rows, columns : slice
        Its place on the coadd.
    """

    pixels: np.ndarray
    rows: slice
    columns: slice


def draw(galaxy: np.void, band: str, psf: galsim.GSObject, shape: tuple[int, int]) -> Stamp:
    """Draw one galaxy or star, centred at its (x, y), on the part of the coadd that it covers.

    Parameters
    ----------
    galaxy : row of `GALAXY_DTYPE`
        What to draw.
    band : str
        Chooses the flux.
    psf : galsim.GSObject
        Delivered PSF of this band, pixel response included.
    shape : (int, int)
        Rows and columns of the coadd; what falls outside is not drawn.
    """
    side = stamp_size(galaxy["rhalf"], galaxy["sersic"], psf.fwhm)
    source = galsim.Convolve(profile(galaxy), psf) * float(galaxy[f"flux_{band}"])
    return draw_source(source, (galaxy["x"], galaxy["y"]), side, shape)


def draw_source(source: galsim.GSObject, center: tuple[float, float], side: int, shape: tuple[int, int]) -> Stamp:
    """Draw a profile as it is, flux and PSF included.

    Parameters
    ----------
    source : galsim.GSObject
        What reaches the detector, nanomaggies.
    center : (float, float)
        x, y, 0-indexed pixels of the coadd.
    side : int
        Odd, pixels.
    shape : (int, int)
        Rows and columns of the coadd; what falls outside is not drawn.
    """
    half = side // 2
    x, y = round(center[0]), round(center[1])
    left, right = max(0, x - half), min(shape[1], x + half + 1)
    bottom, top = max(0, y - half), min(shape[0], y + half + 1)
    if right <= left or top <= bottom:
        return Stamp(np.zeros((0, 0), np.float32), slice(0, 0), slice(0, 0))
    image = galsim.ImageF(galsim.BoundsI(left, right - 1, bottom, top - 1), scale=PIXEL_SCALE)
    source.drawImage(image, center=galsim.PositionD(*center), method="no_pixel")
    # The Fourier transform rings a little below zero, which no photon count can.
    return Stamp(np.maximum(image.array, 0), slice(bottom, top), slice(left, right))


def stamp_size(rhalf: float, sersic: float, fwhm: float) -> int:
    """Return an odd side, in pixels, that holds nearly all of a galaxy's light."""
    radius = 4 * fwhm + (4 + 2 * sersic) * rhalf
    return int(min(MAX_STAMP, 2 * math.ceil(radius / PIXEL_SCALE) + 1))


def sky_ellipticity(galaxies: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return Tractor's (shape_e1, shape_e2) of shears on the pixel axes.

    Tractor measures position angles from north through east. On a coadd north is +y and east is -x, so an angle on the
    sky is 90 degrees less than the angle from +x, and both components change sign.
    """
    return -galaxies["g1"], -galaxies["g2"]
