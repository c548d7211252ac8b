"""What is made wrong with fakes on purpose (``injection.defects``), and said in no table. With all strengths 0 nothing is touched."""

from __future__ import annotations

import galsim
import numpy as np

from hpc_galaxy.bricks.galaxies import SERSIC_RANGE, profile
from hpc_galaxy.bricks.images import BANDS
from hpc_galaxy.config import Defects


def as_drawn(fakes: np.ndarray, defects: Defects) -> np.ndarray:
    """Return a copy of the fakes with the places, fluxes and indices that they are drawn with.

    Parameters
    ----------
    fakes : ndarray, `hpc_galaxy.bricks.galaxies.GALAXY_DTYPE`
        As the truth table has them.
    defects : Defects
        An index is drawn in steps and within the range of `hpc_galaxy.bricks.galaxies.sersic_index`.
    """
    drawn = fakes.copy()
    drawn["x"] += defects.centroid
    drawn["y"] += defects.centroid_y
    if defects.index:
        drawn["sersic"] = np.clip(drawn["sersic"] * (1 + defects.index), *SERSIC_RANGE)
    if defects.flux:
        for band in BANDS:
            drawn[f"flux_{band}"] *= 1 + defects.flux
    return drawn


def smoothed(galaxy: np.void, share: float) -> galsim.GSObject:
    """Return a galaxy's profile, of unit flux, in which a share of the light of bulge and knots is smooth.

    Parameters
    ----------
    galaxy : row of `hpc_galaxy.bricks.galaxies.GALAXY_DTYPE`
        A plain Sersic profile stays as it is.
    share : float
        How much of bulge, disk and knots is replaced by the one Sersic profile that is about as concentrated: with 1 the galaxy is what
        ``injection.profile = "sersic"`` makes of it.
    """
    if share == 0 or galaxy["bulge"] + galaxy["knots"] == 0:
        return profile(galaxy)
    plain = galaxy.copy()
    plain["bulge"] = plain["knots"] = 0
    return profile(plain) if share == 1 else galsim.Sum([profile(galaxy) * (1 - share), profile(plain) * share])


def photons(rng: np.random.Generator, light: np.ndarray, gain: float, missing: float) -> np.ndarray:
    """Return noisy light, in its own units.

    Parameters
    ----------
    rng : Generator
        Behind the noise.
    light : ndarray
        Nanomaggies.
    gain : float
        Electrons a nanomaggy.
    missing : float
        The variance of the noise is 1 - `missing` times that of counting photons.
    """
    counted = rng.poisson(light * gain) / gain
    return np.asarray(counted if missing == 0 else light + np.sqrt(1 - missing) * (counted - light))
