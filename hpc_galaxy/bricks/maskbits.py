"""The bits of the Legacy Surveys' ``maskbits``: their names, and the plane of a brick."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hpc_galaxy.bricks.images import read_plane
from hpc_galaxy.bricks.layout import coadd_path, lookup
from hpc_galaxy.errors import ConfigError

MASKBITS = (
    *("NPRIMARY", "BRIGHT", "SATUR_G", "SATUR_R", "SATUR_Z", "ALLMASK_G", "ALLMASK_R", "ALLMASK_Z", "WISEM1", "WISEM2", "BAILOUT"),
    *("MEDIUM", "GALAXY", "CLUSTER", "SATUR_I", "ALLMASK_I", "SUB_BLOB"),
)
"""Names of the bits of ``maskbits`` from bit 0 on, DR8 to DR10 (legacysurvey.org/dr10/bitmasks); i and SUB_BLOB are DR10's."""


def bit_number(name: str, key: str) -> int:
    """Return the number of a bit of ``maskbits`` from its name (any case) or its number.

    Parameters
    ----------
    name, key : str
        The bit, and the key of the configuration that names it.

    Raises
    ------
    ConfigError
        There is no such bit.
    """
    if name.isdecimal() and int(name) < 32:
        return int(name)
    if name.upper() not in MASKBITS:
        nearest = difflib.get_close_matches(name.upper(), MASKBITS, n=1, cutoff=0.0)[0]
        problem = f"unknown bit '{name}', the nearest is '{nearest}'"
        raise ConfigError(key, problem, f"choose of {', '.join(MASKBITS)}, or numbers from 0 to 31")
    return MASKBITS.index(name.upper())


def bit_mask(names: Sequence[str], key: str) -> int:
    """Return the number in which the named bits of ``maskbits`` are set; see `bit_number`."""
    return sum(1 << bit for bit in {bit_number(name, key) for name in names})


def maskbits_path(root: Path, brick: str) -> Path:
    """Return where a brick's ``maskbits`` lie."""
    return coadd_path(root, brick, "image", "r").with_name(f"legacysurvey-{brick}-maskbits.fits.fz")


def read_maskbits(path: Path) -> np.ndarray | None:
    """Return a plane of mask bits, shape (ny, nx), int32; None where a survey has none.

    Raises
    ------
    InputError
        The file is unreadable.
    """
    found = lookup(path)
    # Fewer than 24 bits: exact in float32.
    return None if found is None else read_plane(found).pixels.astype(np.int32)
