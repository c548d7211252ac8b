"""How fakes are drawn: the shapes that ``injection.profile`` gives to them, whatever their properties come from."""

from __future__ import annotations

import numpy as np

from hpc_galaxy.bricks.images import BANDS
from hpc_galaxy.bricks.population import BLUE_BELOW, as_concentrated, substructure
from hpc_galaxy.config import Injection
from hpc_galaxy.injection.pictures import Pictures


def give_profiles(
    rng: np.random.Generator, fakes: np.ndarray, settings: Injection, transmission: dict[str, float], pictures: Pictures | None
) -> None:
    """Give fakes their shapes, in place.

    Parameters
    ----------
    rng : Generator
        Behind shares, knots and pictures alone: without them nothing is drawn from it.
    fakes : ndarray, `hpc_galaxy.bricks.galaxies.GALAXY_DTYPE`
        Their radii, indices, shears, shares and seeds may change; ``auto`` leaves them as they are.
    settings : Injection
        Which profile, and which galaxies have substructure.
    transmission : dict
        Galactic transmission of the brick, by band.
    pictures : Pictures or None
        Of the profile ``stamp``.
    """
    if settings.profile in ("sersic", "stamp", "star"):
        fakes["bulge"] = fakes["knots"] = 0
    if settings.profile in ("bulge_disk", "knots"):
        _give_substructure(rng, fakes, settings, transmission)
    elif settings.profile == "star":
        for name in ("rhalf", "sersic", "g1", "g2"):
            fakes[name] = 0
    elif pictures is not None:
        _give_pictures(rng, fakes, pictures)


def _give_substructure(rng: np.random.Generator, fakes: np.ndarray, settings: Injection, transmission: dict[str, float]) -> None:
    """Give bulges, and perhaps knots, to bright blue galaxies, as the synthetic survey does."""
    mag = {band: 22.5 - 2.5 * np.log10(fakes[f"flux_{band}"] / transmission[band]) for band in BANDS}
    chosen = (mag["r"] < settings.substructure_rmag) & (mag["g"] - mag["r"] < BLUE_BELOW)
    bulge, knots = substructure(rng, len(fakes))
    fakes["bulge"] = np.where(chosen, bulge, 0)
    fakes["knots"] = np.where(chosen, knots, 0) if settings.profile == "knots" else 0
    fakes["sersic"] = np.where(chosen, as_concentrated(bulge), fakes["sersic"])
    fakes["seed"] = rng.integers(1, 2**31 - 1, len(fakes))


def _give_pictures(rng: np.random.Generator, fakes: np.ndarray, pictures: Pictures) -> None:
    """Choose a picture for each fake. How elongated it is only the picture knows; so it is with the radius of one that is not scaled."""
    fakes["seed"] = rng.integers(1, 2**31 - 1, len(fakes))
    fakes["g1"] = fakes["g2"] = 0
    for fake in fakes:
        picture = pictures.of(fake)
        if not picture.scaled:
            fake["rhalf"] = picture.rhalf
