"""Pictures of galaxies of the user's own, drawn instead of profiles."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fitsio
import galsim
import numpy as np

from hpc_galaxy.bricks.galaxies import MAX_STAMP
from hpc_galaxy.bricks.geometry import PIXEL_SCALE
from hpc_galaxy.bricks.hdus import LARGEST_RATIO, most_bytes
from hpc_galaxy.bricks.layout import find
from hpc_galaxy.errors import InputError

WINGS = 4  # full widths at half maximum of the PSF that are drawn around a picture


@dataclass(frozen=True)
class Picture:
    """One picture of a galaxy.

    Attributes
    ----------
    profile : galsim.GSObject
        Of unit flux, centred on the middle of the picture.
    side : float
        Its longer side, arcsec.
    rhalf : float
        Half-light radius, arcsec: the header's ``RHALF``, or measured.
    scaled : bool
        Whether it is scaled to the radius of the fake: where the header has ``RHALF``, and the picture has no PSF in it.
    has_psf : bool
        Whether it was seen through a PSF already: it is not convolved again.
    """

    profile: galsim.GSObject
    side: float
    rhalf: float
    scaled: bool
    has_psf: bool


@dataclass(frozen=True)
class Pictures:
    """All pictures of a file; a fake's ``seed`` says which one it is, and how it is turned.

    Attributes
    ----------
    all : tuple of Picture
        In the order of the file.
    """

    all: tuple[Picture, ...]

    def of(self, galaxy: np.void) -> Picture:
        """Return the picture of a fake, a row of `hpc_galaxy.bricks.galaxies.GALAXY_DTYPE`."""
        return self.all[int(galaxy["seed"]) % len(self.all)]

    def source(self, galaxy: np.void, psf: galsim.GSObject) -> galsim.GSObject:
        """Return a fake's picture, turned, scaled and seen through the PSF, of unit flux."""
        picture = self.of(galaxy)
        turned = picture.profile.rotate(np.random.default_rng(int(galaxy["seed"])).uniform(0, 360) * galsim.degrees)
        if picture.has_psf:
            return turned
        return galsim.Convolve(turned.dilate(float(galaxy["rhalf"]) / picture.rhalf) if picture.scaled else turned, psf)

    def side(self, galaxy: np.void, fwhm: float) -> int:
        """Return an odd side, in pixels, that holds the picture however it is turned."""
        picture = self.of(galaxy)
        scale = float(galaxy["rhalf"]) / picture.rhalf if picture.scaled else 1.0
        arcsec = picture.side * scale * math.sqrt(2) + (0 if picture.has_psf else 2 * WINGS * fwhm)
        return int(min(MAX_STAMP, 2 * math.ceil(arcsec / PIXEL_SCALE / 2) + 1))


def read_pictures(path: Path, broader: bool = False) -> Pictures:
    """Read pictures out of a FITS file: one an extension, or a cube of shape (n, ny, nx), or both.

    Each header has ``PIXSCALE``, arcsec a pixel; perhaps ``RHALF``, arcsec, of what the pictures show, and ``HASPSF = T``. Their
    flux does not matter.

    Parameters
    ----------
    path : Path
        The file.
    broader : bool
        Whether the PSF is to be made broader on purpose.

    Raises
    ------
    InputError
        The file is missing, unreadable or without a picture, or one has no scale, no positive flux, or pixels that are no numbers; or its
        PSF, which is in it, is to be made broader.
    """
    path = find(path)
    found = [
        _picture(path, name, pixels, header)
        for name, data, header in image_hdus(path)
        for pixels in (data[None] if data.ndim == 2 else data)
    ]
    if not found:
        raise InputError(path, "has no picture, expected images of two dimensions or cubes", "check paths.stamps")
    if broader and any(picture.has_psf for picture in found):
        raise InputError(path, "has pictures with HASPSF = T: their PSF cannot be made broader", "set injection.defects.psf = 0")
    return Pictures(tuple(found))


def image_hdus(path: Path) -> Iterator[tuple[str, np.ndarray, Any]]:
    """Yield what errors call it, the pixels (float64) and the header of each HDU of a FITS file with two or three axes.

    Raises
    ------
    InputError
        The file is unreadable, or its header promises more than it has.
    """
    most = most_bytes(path)
    try:
        with fitsio.FITS(str(path)) as hdus:
            for number, hdu in enumerate(hdus):
                if hdu.get_exttype() != "IMAGE_HDU" or len(shape := hdu.get_dims()) not in (2, 3):
                    continue
                if math.prod(shape) > (LARGEST_RATIO * most if hdu.is_compressed() else most):
                    problem = f"HDU {number} promises {math.prod(shape):,} pixels, the file has at most {most:,} bytes"
                    raise InputError(path, problem, "copy the file again")
                yield f"HDU {number}", np.asarray(hdu.read(), np.float64), hdu.read_header()
    except (OSError, ValueError, MemoryError) as error:
        raise InputError(path, f"not readable FITS images ({str(error).partition(chr(10))[0]})", "copy the file again") from error


def pixel_scale(path: Path, name: str, header: Any, default: float | None = None) -> float:
    """Return the keyword ``PIXSCALE`` of a picture's header, arcsec.

    Raises
    ------
    InputError
        It is missing without a default, or no positive number.
    """
    return _number(path, name, header, "PIXSCALE", "the size of a pixel in arcsec", default)


def _number(path: Path, name: str, header: Any, key: str, what: str, default: float | None = None) -> float:
    value = header.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not (0 < value < math.inf):
        raise InputError(path, f"{name}: {key} in the header is {value!r}, expected {what}, a positive number", f"write the keyword {key}")
    return float(value)


def require_light(path: Path, name: str, pixels: np.ndarray) -> None:
    """Refuse a picture without light.

    Raises
    ------
    InputError
        Some pixels are no numbers, or they do not sum to a positive flux.
    """
    total = float(pixels.sum())
    if not (np.isfinite(total) and total > 0):
        raise InputError(path, f"{name}: its pixels sum to {total:g}, expected a finite, positive flux", "mend the picture or take it out")


def _picture(path: Path, name: str, pixels: np.ndarray, header: Any) -> Picture:
    require_light(path, name, pixels)
    scale, has_psf = pixel_scale(path, name, header), header.get("HASPSF", False)
    if not isinstance(has_psf, bool):
        raise InputError(path, f"{name}: HASPSF in the header is {has_psf!r}, expected T or F", "mend the header")
    profile = galsim.InterpolatedImage(galsim.Image(np.ascontiguousarray(pixels), scale=scale), flux=1.0)
    given = "RHALF" in header
    rhalf = _number(path, name, header, "RHALF", "a half-light radius in arcsec") if given else float(profile.calculateHLR())
    return Picture(profile, max(pixels.shape) * scale, rhalf, given and not has_psf, has_psf)
