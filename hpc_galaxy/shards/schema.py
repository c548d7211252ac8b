"""What every file of cutouts and shards has in common: channels, stamp shape, labels, and the source table."""

from __future__ import annotations

from typing import Any

import numpy as np

BANDS = ("g", "r", "z")
CHANNELS = tuple(f"{plane}_{band}" for plane in ("image", "invvar") for band in BANDS)
STAMP_SIZE = 64
STAMP_SHAPE = (STAMP_SIZE, STAMP_SIZE, len(CHANNELS))
STAMP_DTYPE = np.dtype("<f4")

LABELS = {"real": 0, "fake": 1}

SOURCE_DTYPE = np.dtype(
    [
        ("id", "S40"),  # unique over the survey: release-brickid-objid, or rs-id for an injected galaxy
        ("brick", "S8"),
        ("label", "u1"),  # LABELS
        ("rs", "S16"),  # the realisation whose coadds the stamp was cut from; empty for the survey's own
        ("ra", "<f8"),  # degrees
        ("dec", "<f8"),
        ("bx", "<f4"),  # 0-indexed pixel position in the coadd
        ("by", "<f4"),
        ("type", "S4"),  # Tractor's: REX, EXP, DEV, SER, ...
        *[(f"mag_{band}", "<f4") for band in BANDS],  # AB, corrected for extinction; NaN where the flux is not positive
        *[(f"flux_{band}", "<f4") for band in BANDS],  # nanomaggies, as observed
        *[(f"flux_ivar_{band}", "<f4") for band in BANDS],
        *[(f"mw_transmission_{band}", "<f4") for band in BANDS],
        *[(f"psfsize_{band}", "<f4") for band in BANDS],  # FWHM, arcsec
        ("shape_r", "<f4"),  # half-light radius along the major axis, arcsec
        ("shape_e1", "<f4"),  # Tractor ellipticity components, |e| = (a - b) / (a + b)
        ("shape_e2", "<f4"),
        ("sersic", "<f4"),
        ("edge", "?"),  # part of the stamp lies outside the coadd (image 0, invvar 0 there)
    ]
)


def describe(dtype: np.dtype[Any]) -> list[list[str]]:
    """Return a structured dtype as ``[name, format]`` pairs, for comparison and for JSON."""
    return [[name, dtype[name].str] for name in dtype.names or ()]
