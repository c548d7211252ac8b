"""What every file of cutouts and shards has in common: channels, stamp shape, labels, and the source table."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

STAMP_DTYPE = np.dtype("<f4")
PIXEL_SCALE = 0.262  # arcsec: that of the coadds (bricks/geometry.py), for whoever has stamps and nothing of the sky

LABELS = {"real": 0, "fake": 1}
UNLABELLED = 255  # cut out at a user's own positions: nobody says whether real or fake
CLASSES = {**LABELS, "user": UNLABELLED}


@dataclass(frozen=True)
class StampFormat:
    """What a stamp is made of.

    Attributes
    ----------
    bands, planes : tuple of str
        The channels are all bands of the first plane, then all of the second.
    size : int
        Side, pixels.
    """

    bands: tuple[str, ...] = ("g", "r", "z")
    planes: tuple[str, ...] = ("image", "invvar")
    size: int = 64

    @cached_property
    def channels(self) -> tuple[str, ...]:
        """The channels' names, ``image_g`` to ``invvar_z``."""
        return tuple(f"{plane}_{band}" for plane in self.planes for band in self.bands)

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of one stamp, axes (y, x, channel)."""
        return self.size, self.size, len(self.channels)

    @cached_property
    def source_dtype(self) -> np.dtype[Any]:
        """The columns of the source table that goes with such stamps."""
        return np.dtype(
            [
                ("id", "S48"),  # unique over the survey: release-brickid-objid, or rs-brick-id for an injected galaxy
                ("brick", "S8"),
                ("label", "u1"),  # CLASSES
                ("rs", "S32"),  # the realisation whose coadds the stamp was cut from; empty for the survey's own
                ("ra", "<f8"),  # degrees
                ("dec", "<f8"),
                ("bx", "<f4"),  # 0-indexed pixel position in the coadd
                ("by", "<f4"),
                ("type", "S4"),  # Tractor's: REX, EXP, DEV, SER, ...
                ("maskbits", "<i4"),  # 0 before DR8
                *[(f"{name}_{band}", "<f4") for name in SOURCE_COLUMNS for band in self.bands],
                ("shape_r", "<f4"),  # half-light radius along the major axis, arcsec
                ("shape_e1", "<f4"),  # Tractor ellipticity components, |e| = (a - b) / (a + b)
                ("shape_e2", "<f4"),
                ("sersic", "<f4"),
                ("edge", "?"),  # part of the stamp lies outside the coadd (image 0, invvar 0 there)
                ("injected", "<u8"),  # names what was injected: the same number, the same galaxy drawn again; 0 if nothing or not known
            ]
        )

    @cached_property
    def example_dtype(self) -> np.dtype[Any]:
        """The columns of the tables beside the shards: the source table, and the sky group that was assigned to a split."""
        return np.dtype([*self.source_dtype.descr, ("group", "S16")])


# A band's columns: AB magnitude corrected for extinction (NaN where the flux is not positive); flux as observed, nanomaggies,
# and its inverse variance; Galactic transmission; FWHM of the PSF, arcsec; inverse variance of a point source's flux here.
SOURCE_COLUMNS = ("mag", "flux", "flux_ivar", "mw_transmission", "psfsize", "psfdepth")

DEFAULT = StampFormat()
BANDS, CHANNELS, STAMP_SIZE, STAMP_SHAPE, SOURCE_DTYPE = DEFAULT.bands, DEFAULT.channels, DEFAULT.size, DEFAULT.shape, DEFAULT.source_dtype
"""The format of 2018's test: g, r, z, image and inverse variance, 64 x 64."""


def describe(dtype: np.dtype[Any]) -> list[list[str]]:
    """Return a structured dtype as ``[name, format]`` pairs, for comparison and for JSON."""
    return [[name, dtype[name].str] for name in dtype.names or ()]
