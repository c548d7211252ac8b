"""Which catalog sources are cut out. Real and fake galaxies go through the same selection, on the same measured columns."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hpc_galaxy.bricks.catalog import magnitudes
from hpc_galaxy.bricks.images import BANDS

Selection = Callable[[np.ndarray], dict[str, np.ndarray]]
"""Takes a catalog (`hpc_galaxy.bricks.catalog.CATALOG_DTYPE`), returns named cuts in order, each shape (N,), True = keep."""

STARS, DUPLICATES = (b"PSF",), (b"DUP",)
NOT_ELG_TYPES = (b"COMP", b"DEV")
# The parameter space of the 2018 test: emission-line galaxies of DESI's target selection, widened by half a magnitude.
MARGIN = 0.5
FAINT = {"g": 24.5, "r": 23.9, "z": 23.0}
BRIGHT = {"g": 20.6766, "r": 20.4659, "z": 19.4391}
RADIUS = (0.131, 2.0)  # arcsec


def all_sources(catalog: np.ndarray) -> dict[str, np.ndarray]:
    """Keep every row."""
    return {}


def galaxies(catalog: np.ndarray) -> dict[str, np.ndarray]:
    """Keep the brick's own galaxies: no stars, no duplicates, an exposure in every band."""
    observed = np.all([catalog[f"nobs_{band}"] >= 1 for band in BANDS], axis=0)
    return {
        "primary": catalog["brick_primary"],
        "not a star": ~np.isin(catalog["type"], STARS),
        "not a duplicate": ~np.isin(catalog["type"], DUPLICATES),
        "observed in g, r, z": observed,
    }


def elg(catalog: np.ndarray) -> dict[str, np.ndarray]:
    """Keep the galaxies in the parameter space of the 2018 test (emission-line galaxies).

    The two sloped colour cuts are moved by `MARGIN` perpendicular to themselves, the vertical ones along r-z.
    """
    measured = np.all([(catalog[f"flux_{band}"] > 0) & (catalog[f"flux_ivar_{band}"] > 0) for band in BANDS], axis=0)
    mag = {band: magnitudes(catalog, band) for band in BANDS}
    gr, rz = mag["g"] - mag["r"], mag["r"] - mag["z"]
    colors = (gr <= 1.15 * rz - 0.15 + MARGIN * np.hypot(1, 1.15)) & (gr <= -1.2 * rz + 1.6 + MARGIN * np.hypot(1, 1.2))
    colors &= (rz >= 0.3 - MARGIN) & (rz <= 1.6 + MARGIN)
    return galaxies(catalog) | {
        "fluxes measured": measured,
        "not COMP or DEV": ~np.isin(catalog["type"], NOT_ELG_TYPES),
        "g-r, r-z box": colors,
        "not too faint": np.all([mag[band] < FAINT[band] for band in BANDS], axis=0),
        "not too bright": np.all([mag[band] >= BRIGHT[band] for band in BANDS], axis=0),
        "half-light radius": (catalog["shape_r"] >= RADIUS[0]) & (catalog["shape_r"] <= RADIUS[1]),
    }


SELECTIONS: dict[str, Selection] = {"all": all_sources, "galaxies": galaxies, "elg": elg}


def apply_cuts(catalog: np.ndarray, cuts: dict[str, np.ndarray]) -> tuple[np.ndarray, dict[str, int]]:
    """Apply cuts one after another.

    Returns
    -------
    keep : ndarray, shape (N,), bool
        What passes all of them.
    flow : dict of str to int
        How many rows each cut removed that those before it had left.
    """
    keep, flow = np.ones(len(catalog), bool), {}
    for name, cut in cuts.items():
        flow[name] = int((keep & ~cut).sum())
        keep &= cut
    return keep, flow
