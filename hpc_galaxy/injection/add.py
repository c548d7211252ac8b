"""Add galaxies to the pixels of a brick: light, photon noise, and the inverse variance that goes with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import galsim
import numpy as np

from hpc_galaxy.bricks.conditions import EFFECTIVE_GAIN
from hpc_galaxy.bricks.galaxies import Stamp, draw_source, stamp_size
from hpc_galaxy.bricks.images import BANDS
from hpc_galaxy.config import Injection
from hpc_galaxy.injection.defects import as_drawn, photons, smoothed
from hpc_galaxy.injection.pictures import Pictures
from hpc_galaxy.injection.psf import PsfAt

Seen = Callable[[int, str, Stamp], None]
"""Is shown each fake's row, band and noiseless light."""


@dataclass(frozen=True)
class Drawing:
    """How the fakes of a brick are drawn.

    Attributes
    ----------
    settings : Injection
        Photon noise and update of the inverse variance on or off, and the defects.
    psfs : dict
        The PSF of each band (`hpc_galaxy.injection.psf.brick_psfs`).
    pictures : Pictures or None
        What is drawn instead of profiles.
    """

    settings: Injection
    psfs: dict[str, PsfAt]
    pictures: Pictures | None = None

    def stamps(self, galaxy: np.void, shape: tuple[int, int]) -> dict[str, Stamp]:
        """Return the noiseless light of a fake, by band, on a coadd of `shape` (ny, nx)."""
        intrinsic = None if self.pictures else smoothed(galaxy, self.settings.defects.smooth)
        return {band: self._stamp(galaxy, intrinsic, band, shape) for band in BANDS}

    def _stamp(self, galaxy: np.void, intrinsic: galsim.GSObject | None, band: str, shape: tuple[int, int]) -> Stamp:
        psf = self.psfs[band](galaxy["x"], galaxy["y"])
        if self.pictures:
            source, side = self.pictures.source(galaxy, psf.profile), self.pictures.side(galaxy, psf.fwhm)
        else:
            source, side = galsim.Convolve(intrinsic, psf.profile), stamp_size(galaxy["rhalf"], galaxy["sersic"], psf.fwhm)
        return draw_source(source * float(galaxy[f"flux_{band}"]), (galaxy["x"], galaxy["y"]), side, shape)


def add_galaxies(
    planes: dict[str, np.ndarray], fakes: np.ndarray, kept: np.ndarray, drawing: Drawing, keys: list[int], seen: Seen | None = None
) -> None:
    """Add galaxies to all bands of a brick, in place.

    Parameters
    ----------
    planes : dict of ndarray, each of shape (ny, nx), float32
        ``image_g`` to ``invvar_z``. Where the inverse variance is 0 there are no data, and none are made up.
    fakes, kept : ndarray
        Galaxies (`hpc_galaxy.bricks.galaxies.GALAXY_DTYPE`), as the truth table has them, and the rows to draw.
    drawing : Drawing
        How.
    keys : list of int
        With the galaxy's row and the band they seed its photon noise.
    seen : callable, optional
        Is shown the light of each.
    """
    drawn = as_drawn(fakes, drawing.settings.defects)
    for row in kept:
        ny, nx = planes[f"image_{BANDS[0]}"].shape
        for number, (band, stamp) in enumerate(drawing.stamps(drawn[row], (ny, nx)).items()):
            noise = np.random.default_rng([*keys, int(row), number])
            _add_to_band(planes[f"image_{band}"], planes[f"invvar_{band}"], stamp, EFFECTIVE_GAIN[band], drawing.settings, noise)
            if seen is not None:
                seen(int(row), band, stamp)


def _add_to_band(image: np.ndarray, invvar: np.ndarray, stamp: Stamp, gain: float, settings: Injection, noise: np.random.Generator) -> None:
    here = (stamp.rows, stamp.columns)
    light = np.where(invvar[here] > 0, stamp.pixels, 0)
    image[here] += photons(noise, light, gain, settings.defects.noise) if settings.poisson else light
    counted = settings.update_invvar + settings.defects.invvar  # how often the photon noise lowers the inverse variance
    if counted:
        # 1 / (1/iv + light/gain), written so that 0 stays 0.
        invvar[here] /= 1 + invvar[here] * (light * np.float32(counted)) / gain
