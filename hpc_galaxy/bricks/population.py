"""The galaxies and stars of the synthetic survey: a plain parametric model of what a 24th-magnitude survey sees.

Rough agreement with published counts and sizes is enough here: the model's purpose is to have realistic *spreads* (blue and
red galaxies, sizes that shrink with magnitude, any ellipticity) so that every stage meets the cases real data has.
"""

from __future__ import annotations

import numpy as np

from hpc_galaxy.bricks.galaxies import GALAXY_DTYPE
from hpc_galaxy.bricks.geometry import PIXEL_SCALE
from hpc_galaxy.config import Survey

STAR_SLOPE = 0.33  # d log10 N / dm
STAR_RMAG = (16.0, 23.5)
BLUE_FRACTION = 0.8
# (mean, scatter) of g-r and r-z, AB
COLORS = {"blue": ((0.45, 0.22), (0.70, 0.25)), "red": ((1.30, 0.25), (0.95, 0.22)), "star": ((0.9, 0.4), (0.6, 0.35))}
# As many scatters redder than blue galaxies as bluer than red ones.
BLUE_BELOW = (COLORS["blue"][0][0] * COLORS["red"][0][1] + COLORS["red"][0][0] * COLORS["blue"][0][1]) / (
    COLORS["blue"][0][1] + COLORS["red"][0][1]
)
BULGE_SHARE, KNOTS_SHARE = (0.05, 0.35), (0.05, 0.2)  # of the flux of a galaxy with substructure
ELLIPTICITY_SCATTER, MAX_ELLIPTICITY = 0.2, 0.7
RADIUS_AT_22, RADIUS_SLOPE, RADIUS_SCATTER = 0.55, -0.09, 0.18  # arcsec, dex a magnitude, dex


def draw_population(rng: np.random.Generator, survey: Survey, transmission: dict[str, float]) -> np.ndarray:
    """Draw the stars and galaxies of one brick, at uniformly random places.

    Parameters
    ----------
    rng : Generator
        This brick's own.
    survey : Survey
        Densities, how numbers grow with magnitude, and the brightness above which galaxies have substructure.
    transmission : dict
        Galactic transmission in g, r, z.

    Returns
    -------
    ndarray, shape (N,), `GALAXY_DTYPE`
        Stars first.
    """
    arcmin2 = (survey.npix * PIXEL_SCALE / 60) ** 2
    stars = _stars(rng, rng.poisson(survey.stars_per_arcmin2 * arcmin2))
    galaxies = _galaxies(rng, rng.poisson(survey.galaxies_per_arcmin2 * arcmin2), survey)
    sources = np.concatenate([stars, galaxies])
    sources["x"], sources["y"] = rng.uniform(-0.5, survey.npix - 0.5, size=(2, len(sources)))
    for band, value in transmission.items():
        sources[f"flux_{band}"] *= value
    return sources


def substructure(rng: np.random.Generator, count: int, knots: tuple[float, float] = KNOTS_SHARE) -> tuple[np.ndarray, np.ndarray]:
    """Draw which shares of their flux bright blue galaxies have in the bulge and, within limits, in the knots, each of shape (count,)."""
    return rng.uniform(*BULGE_SHARE, count), rng.uniform(*knots, count)


def as_concentrated(bulge: np.ndarray) -> np.ndarray:
    """Return the Sersic index of one profile that is about as concentrated as bulge and disk together."""
    return 1 + 3 * bulge


def _magnitudes(rng: np.random.Generator, count: int, limits: tuple[float, float], slope: float) -> np.ndarray:
    """Draw magnitudes whose numbers grow as 10^(slope m)."""
    if slope == 0:
        return rng.uniform(*limits, count)
    low, high = sorted(10 ** (slope * limit) for limit in limits)
    return np.log10(rng.uniform(low, high, count)) / slope


def _set_fluxes(rng: np.random.Generator, sources: np.ndarray, rmag: np.ndarray, kinds: np.ndarray) -> None:
    color = np.zeros((2, len(sources)))
    for kind, parameters in COLORS.items():
        for row, (mean, scatter) in enumerate(parameters):
            color[row] = np.where(kinds == kind, rng.normal(mean, scatter, len(sources)), color[row])
    for band, magnitude in (("g", rmag + color[0]), ("r", rmag), ("z", rmag - color[1])):
        sources[f"flux_{band}"] = 10 ** ((22.5 - magnitude) / 2.5)


def _stars(rng: np.random.Generator, count: int) -> np.ndarray:
    stars = np.zeros(count, GALAXY_DTYPE)
    _set_fluxes(rng, stars, _magnitudes(rng, count, STAR_RMAG, STAR_SLOPE), np.full(count, "star"))
    return stars


def _galaxies(rng: np.random.Generator, count: int, survey: Survey) -> np.ndarray:
    galaxies = np.zeros(count, GALAXY_DTYPE)
    rmag = _magnitudes(rng, count, survey.rmag, survey.count_slope)
    blue = rng.random(count) < BLUE_FRACTION
    _set_fluxes(rng, galaxies, rmag, np.where(blue, "blue", "red"))
    galaxies["sersic"] = np.where(blue, 1.1, 3.2) * 10 ** rng.normal(0, 0.12, count)
    galaxies["rhalf"] = RADIUS_AT_22 * 10 ** (RADIUS_SLOPE * (rmag - 22) + rng.normal(0, RADIUS_SCATTER, count))
    g1, g2 = rng.normal(0, ELLIPTICITY_SCATTER, (2, count))
    shrink = np.minimum(1, MAX_ELLIPTICITY / np.maximum(np.hypot(g1, g2), 1e-9))
    galaxies["g1"], galaxies["g2"] = g1 * shrink, g2 * shrink
    bright = blue & (rmag < survey.substructure_rmag)
    bulge, knots = substructure(rng, count, survey.knots)
    galaxies["bulge"], galaxies["knots"] = np.where(bright, bulge, 0), np.where(bright, knots, 0)
    galaxies["sersic"] = np.where(bright, as_concentrated(galaxies["bulge"]), galaxies["sersic"])
    galaxies["seed"] = rng.integers(1, 2**31 - 1, count)
    return galaxies
