"""Tractor catalogs: what the releases call their columns, read into one common table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from hpc_galaxy.bricks.images import BANDS
from hpc_galaxy.bricks.layout import read_table
from hpc_galaxy.errors import InputError

PER_BAND = ("flux", "flux_ivar", "mw_transmission", "nobs", "psfsize")

CATALOG_DTYPE = np.dtype(
    [
        ("release", "<i4"),
        ("brickid", "<i4"),
        ("objid", "<i4"),
        ("brick_primary", "?"),
        ("type", "S4"),
        ("ra", "<f8"),
        ("dec", "<f8"),
        ("bx", "<f4"),  # 0-indexed
        ("by", "<f4"),
        *[(f"{name}_{band}", "<f4") for name in PER_BAND for band in BANDS],
        ("sersic", "<f4"),
        ("shape_r", "<f4"),
        ("shape_e1", "<f4"),
        ("shape_e2", "<f4"),
    ]
)
"""The common table: Legacy Surveys DR9 names and units (nanomaggies, arcsec, degrees)."""

SERSIC_OF_TYPE = {b"PSF": 0.0, b"REX": 1.0, b"EXP": 1.0, b"DEV": 4.0}


def read_catalog(path: Path) -> np.ndarray:
    """Read a Tractor catalog of DR5 or DR8 (``shapeexp_r``) or DR9 or DR10 (``shape_r``).

    Parameters
    ----------
    path : Path
        ``tractor-<brick>.fits``.

    Returns
    -------
    ndarray, shape (N,), `CATALOG_DTYPE`
        In the file's order; ``type`` without padding.

    Raises
    ------
    InputError
        The file is missing, or lacks columns of both families of releases.
    """
    table = read_table(path)
    names = set(table.dtype.names or ())
    shapes = {"shape_r", "shape_e1", "shape_e2", "sersic"} if "shape_r" in names else {"shapeexp_r", "shapedev_r"}
    copied = [name for name in CATALOG_DTYPE.names or () if not name.startswith(("shape_", "sersic"))]
    absent = sorted((shapes | set(copied)) - names)
    if absent:
        raise InputError(
            path, f"lacks the columns {', '.join(absent)}, expected a Tractor catalog of DR5, DR8, DR9 or DR10", "check the release"
        )
    catalog = np.zeros(len(table), CATALOG_DTYPE)
    for name in copied:
        catalog[name] = _stripped(table[name]) if name == "type" else table[name]
    if "shape_r" in names:
        for name in ("shape_r", "shape_e1", "shape_e2", "sersic"):
            catalog[name] = table[name]
    else:
        _fill_old_shapes(catalog, table)
    return catalog


def _stripped(types: np.ndarray) -> np.ndarray:
    """Return morphological types as bytes without the padding that some releases have ('REX ')."""
    return np.char.strip(types.astype("S"))


def _fill_old_shapes(catalog: np.ndarray, table: np.ndarray) -> None:
    """Fill the shape columns from DR5 to DR8 names: one radius for exponential types, another for de Vaucouleurs."""
    names = table.dtype.names or ()
    kind = np.where(catalog["type"] == b"DEV", "dev", "exp")
    for new, old in (("shape_r", "r"), ("shape_e1", "e1"), ("shape_e2", "e2")):
        for model in ("exp", "dev"):
            column = f"shape{model}_{old}"
            if column in names:
                catalog[new] = np.where(kind == model, table[column], catalog[new])
    catalog["sersic"] = [SERSIC_OF_TYPE.get(kind, 1.0) for kind in catalog["type"]]


def magnitudes(table: np.ndarray, band: str) -> np.ndarray:
    """Return AB magnitudes corrected for Galactic extinction, NaN where the flux is not positive.

    Parameters
    ----------
    table : structured ndarray
        With ``flux_<band>`` (nanomaggies) and ``mw_transmission_<band>``.
    """
    flux = np.asarray(table[f"flux_{band}"] / table[f"mw_transmission_{band}"], dtype=np.float64)
    return 22.5 - 2.5 * np.log10(flux, out=np.full(len(flux), np.nan), where=flux > 0)


def tractor_columns(catalog: np.ndarray, brick: str) -> np.ndarray:
    """Return the common table with the ``brickname`` column that Tractor catalogs carry."""
    fields: list[Any] = [("brickname", "S8"), *CATALOG_DTYPE.descr]
    table = np.zeros(len(catalog), fields)
    table["brickname"] = brick.encode()
    for name in CATALOG_DTYPE.names or ():
        table[name] = catalog[name]
    return table
