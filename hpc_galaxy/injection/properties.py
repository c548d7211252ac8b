"""What the fake galaxies are like and where they go: a smoothed bootstrap of the real galaxies of the same brick."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from hpc_galaxy.bricks.catalog import magnitudes
from hpc_galaxy.bricks.galaxies import GALAXY_DTYPE, sersic_index
from hpc_galaxy.bricks.geometry import PIXEL_SCALE
from hpc_galaxy.bricks.images import BANDS
from hpc_galaxy.errors import InputError

NOT_GALAXIES = (b"PSF", b"DUP")
ELLIPTICITY_SCATTER, MAX_ELLIPTICITY = 0.2, 0.7  # of one component; round fits (REX) do not tell theirs
MIN_TEMPLATES = 5


def templates(catalog: np.ndarray, where: str) -> np.ndarray:
    """Return the catalog's galaxies that have a size and a positive flux in every band.

    Raises
    ------
    InputError
        There are fewer than five to draw from.
    """
    good = ~np.isin(catalog["type"], NOT_GALAXIES) & (catalog["shape_r"] > 0)
    for band in BANDS:
        good &= catalog[f"flux_{band}"] > 0
    if good.sum() < MIN_TEMPLATES:
        raise InputError(
            where, f"has {good.sum()} galaxies with positive fluxes, expected at least {MIN_TEMPLATES}", "leave this brick out"
        )
    return catalog[good]


def draw_galaxies(rng: np.random.Generator, real: np.ndarray, count: int, jitter: float, shape: tuple[int, ...]) -> np.ndarray:
    """Draw `count` Sersic galaxies with the magnitudes, colours, sizes and indices of real ones, at uniform places.

    Parameters
    ----------
    rng : Generator
        This brick's and realisation's own.
    real : ndarray, `hpc_galaxy.bricks.catalog.CATALOG_DTYPE`
        From `templates`.
    count : int
        How many.
    jitter : float
        Kernel width, in units of each property's scatter, applied to r, g-r, r-z and log radius.
    shape : tuple of int
        Rows and columns of the coadd.

    Returns
    -------
    ndarray, shape (count,), `hpc_galaxy.bricks.galaxies.GALAXY_DTYPE`
    """
    chosen = rng.integers(0, len(real), count)
    mag = {band: magnitudes(real, band) for band in BANDS}
    ellipticity = np.hypot(real["shape_e1"], real["shape_e2"]).clip(0, MAX_ELLIPTICITY)
    circularised = real["shape_r"] * np.sqrt((1 - ellipticity) / (1 + ellipticity))
    smooth = _smoothed(rng, np.stack([mag["r"], mag["g"] - mag["r"], mag["r"] - mag["z"], np.log(circularised)]), chosen, jitter)
    fakes = np.zeros(count, GALAXY_DTYPE)
    for band, drawn in (("r", smooth[0]), ("g", smooth[0] + smooth[1]), ("z", smooth[0] - smooth[2])):
        dust = np.median(real[f"mw_transmission_{band}"])
        fakes[f"flux_{band}"] = 10 ** ((22.5 - drawn) / 2.5) * dust
    fakes["rhalf"] = np.exp(smooth[3])
    fakes["sersic"] = [sersic_index(index) for index in real["sersic"][chosen]]
    fakes["g1"], fakes["g2"] = _shear(rng, real[chosen])
    fakes["x"], fakes["y"] = rng.uniform(-0.5, shape[1] - 0.5, count), rng.uniform(-0.5, shape[0] - 0.5, count)
    return fakes


def _smoothed(rng: np.random.Generator, values: np.ndarray, chosen: np.ndarray, jitter: float) -> np.ndarray:
    """Return the chosen columns of `values`, shape (properties, N), each moved by a Gaussian kernel."""
    width = jitter * values.std(axis=1, keepdims=True)
    return values[:, chosen] + rng.standard_normal((len(values), len(chosen))) * width


def _shear(rng: np.random.Generator, real: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return reduced shears on the pixel axes: the real galaxies' ellipticities, turned at random."""
    g1, g2 = rng.normal(0, ELLIPTICITY_SCATTER, (2, len(real)))
    size = np.where(real["type"] == b"REX", np.hypot(g1, g2), np.hypot(real["shape_e1"], real["shape_e2"])).clip(0, MAX_ELLIPTICITY)
    angle = np.arctan2(g2, g1)
    return size * np.cos(angle), size * np.sin(angle)


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
