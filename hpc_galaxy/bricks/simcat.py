"""The tables of what was injected: obiwan's (``simcat``), written by the injection, and legacysim's; read by the extraction."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hpc_galaxy.bricks.images import BANDS
from hpc_galaxy.bricks.layout import read_table
from hpc_galaxy.bricks.views import View
from hpc_galaxy.errors import InputError

if TYPE_CHECKING:
    from astropy.wcs import WCS

KEY_BANDS = ("g", "r", "i", "z")
KEY_STEPS = 1000  # steps of a magnitude, an arcsec, an index: what differs by less is the same galaxy
UNKNOWN = np.iinfo(np.int64).min  # among the rounded parameters


@dataclass(frozen=True)
class Parameters:
    """What a table of injected galaxies calls the parameters that do not change when a galaxy is turned or moved.

    Attributes
    ----------
    flux : str
        Nanomaggies as injected, with ``{band}`` for the band.
    index, radius : str
        Sersic index; half-light radius, arcsec.
    """

    flux: str
    index: str
    radius: str


TABLES = (Parameters("{band}flux", "n", "rhalf"), Parameters("flux_{band}", "sersic", "shape_r"))
"""obiwan's and legacysim's."""


def simcat_table(fakes: np.ndarray, wcs: WCS, transmission: dict[str, float]) -> np.ndarray:
    """Return injected galaxies in obiwan's columns and conventions.

    ``x, y`` are **1-indexed**; fluxes are dimmed by extinction; ``rhalf`` is circularised; ``e1, e2`` are distortions
    (a^2 - b^2) / (a^2 + b^2) on the pixel axes, GalSim's ``e``. What obiwan has not are ``bulge`` and ``knots``, shares of the
    flux, and ``seed``, which places the knots or chooses the picture.

    Parameters
    ----------
    fakes : ndarray, shape (N,), `hpc_galaxy.bricks.galaxies.GALAXY_DTYPE`
        0-indexed positions and reduced shears.
    """
    fluxes = [*[f"{band}flux" for band in BANDS], *[f"mw_transmission_{band}" for band in BANDS]]
    columns = ["ra", "dec", "x", "y", *fluxes, "n", "rhalf", "e1", "e2", "bulge", "knots"]
    table = np.zeros(len(fakes), [("id", "<i8"), *[(name, "<f8") for name in columns], ("seed", "<i8")])
    table["id"] = np.arange(len(fakes))
    table["x"], table["y"] = fakes["x"] + 1, fakes["y"] + 1
    table["ra"], table["dec"] = wcs.all_pix2world(fakes["x"], fakes["y"], 0)
    for band in BANDS:
        table[f"{band}flux"], table[f"mw_transmission_{band}"] = fakes[f"flux_{band}"], transmission[band]
    table["n"], table["rhalf"] = fakes["sersic"], fakes["rhalf"]
    for name in ("bulge", "knots", "seed"):
        table[name] = fakes[name]
    distortion = 2 / (1 + fakes["g1"] ** 2 + fakes["g2"] ** 2)  # of unit shear; GalSim is not imported here: that takes each rank a while
    table["e1"], table["e2"] = distortion * fakes["g1"], distortion * fakes["g2"]
    return table


def parameter_keys(table: np.ndarray) -> np.ndarray:
    """Return a number for what each injected galaxy is, the same wherever and however turned it is injected again.

    obiwan draws its galaxies out of a finite sample, and so does this package with ``injection.jitter = 0``: a network could
    recognise the repeats of one galaxy on the other side of a split.

    Parameters
    ----------
    table : structured ndarray, shape (N,)
        obiwan's or legacysim's, as `read_injected` returns it.

    Returns
    -------
    ndarray, shape (N,), uint64
        The first 8 bytes, little-endian, of the SHA-256 of the magnitudes in g, r, i, z (corrected for dust where the table has
        ``mw_transmission_<band>``), the half-light radius and the Sersic index, each rounded to 0.001; never 0 but where it is not
        known: the table has other columns, or the galaxy no positive flux. Position, orientation and ellipticity do not count.
        Repeats on both sides of a rounding step are missed: one in 10,000 where fluxes in float32 are dimmed by other dust.
    """
    found = next((names for names in TABLES if _has_parameters(table, names)), None)
    if found is None:
        return np.zeros(len(table), np.uint64)
    mags = [_magnitude(table, found, band) for band in KEY_BANDS]
    rounded = np.stack([_rounded(values) for values in (*mags, table[found.radius], table[found.index])], axis=1).astype("<i8")
    known = (rounded[:, : len(mags)] != UNKNOWN).any(axis=1)
    return np.array([_key(row.tobytes()) if row_known else 0 for row, row_known in zip(rounded, known, strict=True)], np.uint64)


def catalog_columns(table: np.ndarray, bands: Sequence[str]) -> dict[str, np.ndarray]:
    """Return what a table of injected galaxies knows of a catalog's columns, by the catalog's names and in its units.

    Parameters
    ----------
    table : structured ndarray, shape (N,)
        obiwan's or legacysim's, as `read_injected` returns it.
    bands : sequence of str
        Of which fluxes and transmissions are wanted.

    Returns
    -------
    dict of str to ndarray, shape (N,)
        Of ``flux_<band>``, ``mw_transmission_<band>``, ``sersic``, ``shape_r``, ``shape_e1`` and ``shape_e2`` those that are known.
    """
    names = next((names for names in TABLES if _has_parameters(table, names)), None)
    wanted = {f"mw_transmission_{band}": f"mw_transmission_{band}" for band in bands}
    if names is not None:
        wanted |= {f"flux_{band}": names.flux.format(band=band) for band in bands} | {"sersic": names.index, "shape_r": names.radius}
        wanted |= {name: name for name in ("shape_e1", "shape_e2")}
    known = {name: table[native] for name, native in wanted.items() if _is_number(table, native)}
    if names is TABLES[0] and _is_number(table, "e1") and _is_number(table, "e2"):
        known |= _measured_shape(table)
    return known


def _measured_shape(table: np.ndarray) -> dict[str, np.ndarray]:
    """Return Tractor's shape of obiwan's: the radius along the major axis, and reduced shears on the sky's axes.

    A distortion e is of the shear e / (1 + sqrt(1 - e^2)) (Bernstein & Jarvis 2002, AJ 123, 583, section 2.2); a shear keeps the area.
    """
    e1, e2 = table["e1"].astype(np.float64), table["e2"].astype(np.float64)
    part = 1 / (1 + np.sqrt(np.maximum(1 - e1**2 - e2**2, 0)))
    shear = np.minimum(np.hypot(e1, e2) * part, 0.999)
    # Both components change sign: see hpc_galaxy.bricks.galaxies.sky_ellipticity.
    return {"shape_r": table["rhalf"] * np.sqrt((1 + shear) / (1 - shear)), "shape_e1": -e1 * part, "shape_e2": -e2 * part}


def _has_parameters(table: np.ndarray, names: Parameters) -> bool:
    fluxes = [names.flux.format(band=band) for band in KEY_BANDS]
    return _is_number(table, names.index) and _is_number(table, names.radius) and any(_is_number(table, name) for name in fluxes)


def _is_number(table: np.ndarray, name: str) -> bool:
    """Return whether a table has a column of one real number a row."""
    return name in (table.dtype.names or ()) and table.dtype[name].kind in "iuf"


def _magnitude(table: np.ndarray, names: Parameters, band: str) -> np.ndarray:
    """Return magnitudes without dust, shape (N,), NaN where flux or transmission is not positive, or there is no such band."""
    flux, dust = names.flux.format(band=band), f"mw_transmission_{band}"
    values = table[flux].astype(np.float64) if _is_number(table, flux) else np.full(len(table), np.nan)
    transmission = table[dust].astype(np.float64) if _is_number(table, dust) else np.ones(len(table))
    positive = (values > 0) & (values < np.inf) & (transmission > 0)
    found = np.full(len(table), np.nan)
    found[positive] = 22.5 - 2.5 * (np.log10(values[positive]) - np.log10(transmission[positive]))
    return found


def _rounded(values: np.ndarray) -> np.ndarray:
    """Return numbers in steps of 1 / `KEY_STEPS`, int64, `UNKNOWN` where they are none or too large."""
    with np.errstate(over="ignore"):
        steps = np.rint(values.astype(np.float64) * KEY_STEPS)
    return np.where(np.abs(steps) < 2**53, steps, UNKNOWN).astype(np.int64)


def _key(parameters: bytes) -> int:
    return int.from_bytes(hashlib.sha256(parameters).digest()[:8], "little") or 1


def read_injected(view: View) -> np.ndarray:
    """Read the galaxies that were really injected: obiwan's in ``sim_ids_added``, legacysim's that did not collide.

    Returns
    -------
    structured ndarray
        The table's own columns in lower case and native byte order, at least ``id``, ``ra``, ``dec``. obiwan's ``x`` and ``y``
        are 1-indexed, legacysim's ``bx`` and ``by`` 0-indexed, as in the files. Each ``id`` is there once; it can recur in
        other realisations and bricks.

    Raises
    ------
    InputError
        A table is missing, lacks its columns or has an ``id`` twice; or nothing is injected into this view.
    """
    if view.injected is None:
        raise InputError(view.catalog, "belongs to the survey's own bricks, expected a realisation", "check paths.obiwan")
    table = _read_columns(view.injected, ("id", "ra", "dec") if view.added else ("id", "ra", "dec", "collided"))
    kept = np.isin(table["id"], _read_columns(view.added, ("id",))["id"]) if view.added else ~table["collided"].astype(bool)
    table = table[kept]
    ids, counts = np.unique(table["id"], return_counts=True)
    if (counts > 1).any():
        raise InputError(view.injected, f"has id {ids[counts > 1][0]} more than once, expected it once", "leave this realisation out")
    return table


def _read_columns(path: Path, columns: Sequence[str]) -> np.ndarray:
    """Read a table that has to have some columns of numbers (or truth values)."""
    table, remedy = read_table(path), "check that it is obiwan's or legacysim's"
    absent = [name for name in columns if name not in (table.dtype.names or ())]
    if absent:
        raise InputError(path, f"lacks the columns {', '.join(absent)}", remedy)
    for name in columns:
        if table.dtype[name].kind not in "iufb":
            raise InputError(path, f"column {name} holds {table.dtype[name]}, expected one number a row", remedy)
    return table
