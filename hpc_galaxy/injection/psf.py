"""The PSF that fakes are drawn with: the catalog's, a map's or a picture, and what is made wrong with it on purpose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import galsim
import numpy as np

from hpc_galaxy.bricks.conditions import Conditions
from hpc_galaxy.bricks.galaxies import moffat
from hpc_galaxy.bricks.geometry import PIXEL_SCALE
from hpc_galaxy.bricks.images import BANDS, read_plane
from hpc_galaxy.bricks.layout import coadd_path, lookup
from hpc_galaxy.config import Config, Defects
from hpc_galaxy.errors import InputError
from hpc_galaxy.injection.pictures import image_hdus, pixel_scale, require_light

OFF_CENTER = 0.25  # pixels that the centroid of a PSF's picture may be off its middle, in x or y


@dataclass(frozen=True)
class Psf:
    """A delivered PSF, pixel response included.

    Attributes
    ----------
    profile : galsim.GSObject
        Of unit flux.
    fwhm : float
        Arcsec; says how large a stamp has to be.
    """

    profile: galsim.GSObject
    fwhm: float


PsfAt = Callable[[float, float], Psf]
"""The PSF at x, y (0-indexed pixels) of a brick."""


def brick_psfs(config: Config, brick: str, conditions: Conditions, shape: tuple[int, ...]) -> dict[str, PsfAt]:
    """Return the PSF of each band, as ``injection.psf`` says, with the defects of ``injection.defects``.

    Parameters
    ----------
    config, brick : Config, str
        Where maps and pictures lie.
    conditions : Conditions
        The brick's typical seeing.
    shape : tuple of int
        Rows and columns of the coadd.

    Raises
    ------
    InputError
        A map or picture is missing or unusable.
    """
    defects = config.injection.defects
    if config.injection.psf == "map":
        return {band: _mapped(config.paths.survey, brick, band, conditions.fwhm[band], shape, defects) for band in BANDS}
    if config.injection.psf == "image":
        return {band: _constant(_picture(_picture_path(config.paths.psf, brick, band)), defects) for band in BANDS}
    return catalog_psfs(conditions, defects)


def catalog_psfs(conditions: Conditions, defects: Defects) -> dict[str, PsfAt]:
    """Return Moffat profiles as wide as the brick's typical seeing, by band."""
    return {band: _constant(_moffat(conditions.fwhm[band]), defects) for band in BANDS}


def _moffat(fwhm: float) -> Psf:
    profile = moffat(fwhm)
    return Psf(profile, profile.fwhm)


def _constant(psf: Psf, defects: Defects) -> PsfAt:
    made = _with_defects(psf, defects)  # once: GalSim keeps what it has worked out of it
    return lambda x, y: made


def _with_defects(psf: Psf, defects: Defects) -> Psf:
    if defects.psf:
        psf = Psf(psf.profile.dilate(1 + defects.psf), psf.fwhm * (1 + defects.psf))
    if defects.pixel_twice:
        psf = Psf(galsim.Convolve(psf.profile, galsim.Pixel(PIXEL_SCALE)), float(np.hypot(psf.fwhm, PIXEL_SCALE)))
    return psf


def _mapped(survey: Path, brick: str, band: str, typical: float, shape: tuple[int, ...], defects: Defects) -> PsfAt:
    expected = coadd_path(survey, brick, "psfsize", band)
    path = lookup(expected)
    if path is None:
        raise InputError(expected, "no such map of the PSF's size", "copy the release's psfsize maps, or take another injection.psf")
    sizes = read_plane(path).pixels
    if sizes.shape != shape:
        raise InputError(path, f"has shape {sizes.shape}, expected {shape}, the coadd's", "copy it again")

    def at(x: float, y: float) -> Psf:
        row, column = (min(max(round(value), 0), size - 1) for value, size in zip((y, x), shape, strict=True))
        fwhm = float(sizes[row, column])
        if not (np.isfinite(fwhm) and fwhm > 0):
            fwhm = typical  # no exposure here in this band: only what reaches over to pixels with data is drawn
        return _with_defects(_moffat(fwhm), defects)

    return at


def _picture_path(folder: Path, brick: str, band: str) -> Path:
    names = [f"psf-{brick}-{band}.fits", f"psf-{band}.fits"]
    for name in names:
        if found := lookup(folder / name):
            return found
    raise InputError(folder, f"has neither {names[0]} nor {names[1]}, expected one of them", "put the picture there, or change paths.psf")


def _picture(path: Path) -> Psf:
    found = next((hdu for hdu in image_hdus(path) if hdu[1].ndim == 2), None)
    if found is None:
        raise InputError(path, "has no image, expected a picture of the PSF", "check paths.psf")
    name, pixels, header = found
    require_light(path, name, pixels)
    for axis, direction in ((0, "y"), (1, "x")):
        light = pixels.sum(axis=1 - axis)
        offset = float((light * np.arange(len(light))).sum() / light.sum() - (len(light) - 1) / 2)
        if abs(offset) > OFF_CENTER:
            problem = (
                f"{name}: its centroid lies {offset:+.2f} pixels off the middle of the picture in {direction}, expected within {OFF_CENTER}"
            )
            raise InputError(path, problem, "centre it: all fakes would be shifted by that")
    scale = pixel_scale(path, name, header, PIXEL_SCALE)
    profile = galsim.InterpolatedImage(galsim.Image(np.ascontiguousarray(pixels), scale=scale), flux=1.0)
    return Psf(profile, float(profile.calculateFWHM()))
