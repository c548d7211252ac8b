"""Add galaxies to the pixels of a brick: light, photon noise, and the inverse variance that goes with it."""

from __future__ import annotations

import numpy as np

from hpc_galaxy.bricks.conditions import EFFECTIVE_GAIN, Conditions
from hpc_galaxy.bricks.galaxies import draw, moffat
from hpc_galaxy.bricks.images import BANDS
from hpc_galaxy.config import Injection


def add_galaxies(
    planes: dict[str, np.ndarray], fakes: np.ndarray, kept: np.ndarray, conditions: Conditions, settings: Injection, keys: list[int]
) -> None:
    """Add galaxies to all bands of a brick, in place.

    Parameters
    ----------
    planes : dict of ndarray, each of shape (ny, nx), float32
        ``image_g`` to ``invvar_z``. Where the inverse variance is 0 there are no data, and none are made up.
    fakes, kept : ndarray
        Galaxies (`hpc_galaxy.bricks.galaxies.GALAXY_DTYPE`) and the rows to draw.
    conditions, settings : Conditions, Injection
        The PSF; photon noise and update of the inverse variance on or off, deliberate offset.
    keys : list of int
        With the galaxy's row and the band they seed its photon noise.
    """
    drawn = fakes.copy()
    drawn["x"] += settings.offset_pixels
    for band in BANDS:
        _add_to_band(planes[f"image_{band}"], planes[f"invvar_{band}"], drawn, kept, band, conditions, settings, keys)


def _add_to_band(
    image: np.ndarray,
    invvar: np.ndarray,
    drawn: np.ndarray,
    kept: np.ndarray,
    band: str,
    conditions: Conditions,
    settings: Injection,
    keys: list[int],
) -> None:
    psf, gain = moffat(conditions.fwhm[band]), EFFECTIVE_GAIN[band]
    for row in kept:
        stamp = draw(drawn[row], band, psf, (image.shape[0], image.shape[1]))
        here = (stamp.rows, stamp.columns)
        light = np.where(invvar[here] > 0, stamp.pixels, 0)
        if settings.poisson:
            noise = np.random.default_rng([*keys, int(row), BANDS.index(band)])
            image[here] += noise.poisson(light * gain) / gain
        else:
            image[here] += light
        if settings.update_invvar:
            # 1 / (1/iv + light/gain), written so that 0 stays 0.
            invvar[here] /= 1 + invvar[here] * light / gain
