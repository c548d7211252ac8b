"""Tractor catalogs: what the releases call their columns, read into one common table."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hpc_galaxy.bricks.layout import read_table
from hpc_galaxy.errors import InputError

PER_BAND = ("flux", "flux_ivar", "mw_transmission", "nobs", "psfsize", "psfdepth")
OPTIONAL = ("psfdepth",)  # of these; NaN where a catalog does not have them
COMMON = ("brickid", "objid", "ra", "dec", "bx", "by")  # called so in every release


def catalog_dtype(bands: Sequence[str] = ("g", "r", "z")) -> np.dtype[Any]:
    """Return the columns of the common table for some of the bands g, r, i, z: names and units of DR9."""
    return np.dtype(
        [
            ("release", "<i4"),  # 9010 is DR9 of the south, 9011 of the north
            ("brickid", "<i4"),
            ("objid", "<i4"),  # release, brickid and objid together are unique
            ("brick_primary", "?"),  # inside the brick's own cell, not in the overlap with its neighbours
            ("type", "S4"),  # without padding: PSF, SIMP, REX, EXP, DEV, COMP, SER, DUP
            ("ra", "<f8"),  # degrees
            ("dec", "<f8"),  # degrees
            ("bx", "<f4"),  # pixels, 0-indexed
            ("by", "<f4"),  # pixels, 0-indexed
            ("maskbits", "<i4"),  # the release's bits; 0 before DR8, which has none
            # Nanomaggies as observed, 1/nanomaggies^2, Galactic transmission (0 to 1), exposures, FWHM of the PSF in arcsec, inverse
            # variance of a point source's flux here: the depth at 5 sigma is 5 / sqrt(psfdepth) nanomaggies.
            *[(f"{name}_{band}", "<f4") for name in PER_BAND for band in bands],
            *[(f"allmask_{band}", "<i4") for band in bands],  # bits that all exposures share at the centre
            ("sersic", "<f4"),  # index; 0 for a point source
            ("shape_r", "<f4"),  # half-light radius along the major axis, arcsec; 0 for a point source
            ("shape_e1", "<f4"),  # ellipticity components, |e| = (a - b) / (a + b)
            ("shape_e2", "<f4"),
        ]
    )


CATALOG_DTYPE = catalog_dtype()
"""The common table for the bands g, r, z."""


@dataclass(frozen=True)
class Releases:
    """What a family of data releases calls the columns of the common table.

    Attributes
    ----------
    name : str
        For people.
    mark : str
        The column by which the family is recognised; the first family whose mark is there it is.
    bands : tuple of str
        Bands of the release. DR3 and DR5 have columns of u, i and Y as well, but no such coadds; DR5's hold zeros.
    prefix : str
        Of the columns of a band.
    order : str
        The bands of array columns, in order; empty where each band has columns of its own.
    shapes : tuple of str
        Columns of the shape that a catalog has to have.
    other_shapes : tuple of str
        Columns of the shape that are 0 where they are absent.
    """

    name: str
    mark: str
    bands: tuple[str, ...]
    prefix: str
    order: str
    shapes: tuple[str, ...]
    other_shapes: tuple[str, ...]

    def native(self, name: str, band: str) -> str:
        """Return what the column `name` (such as ``flux``) of a band is called."""
        return f"{self.prefix}{ARRAY_NAMES.get(name, name)}" if self.order else f"{self.prefix}{name}_{band}"

    def of_band(self, band: str) -> list[str]:
        """Return what the columns of a band are called that a catalog has to have."""
        return [self.native(name, band) for name in (*PER_BAND, "allmask") if name not in OPTIONAL]


TWO_SHAPES = ("shapeexp_r", "shapedev_r")
TWO_ELLIPTICITIES = ("shapeexp_e1", "shapeexp_e2", "shapedev_e1", "shapedev_e2", "fracdev")
ONE_SHAPE = ("shape_r", "shape_e1", "shape_e2", "sersic")
ARRAY_NAMES = {"psfdepth": "depth"}  # DR3's, where they differ from those of later releases
# Sources: the pages "catalogs" of each release at legacysurvey.org.
FAMILIES = (
    Releases("DR3", "decam_flux", ("g", "r", "z"), "decam_", "ugrizY", TWO_SHAPES, TWO_ELLIPTICITIES),
    Releases("DR5 or DR8", "shapeexp_r", ("g", "r", "z"), "", "", TWO_SHAPES, TWO_ELLIPTICITIES),
    Releases("DR9 or DR10", "shape_r", ("g", "r", "i", "z"), "", "", ONE_SHAPE, ()),
)
DR3_RELEASE = 3000  # DR3 has no such column; the number follows the rule of all later releases
SIMP_RADIUS = 0.45  # arcsec: DR3's "simple" galaxy is a round exponential of this fixed size
POINT_TYPES = (b"PSF", b"DUP")
INDEX_OF_TYPE = {b"PSF": 0.0, b"DUP": 0.0, b"SIMP": 1.0, b"REX": 1.0, b"EXP": 1.0, b"DEV": 4.0}


def read_catalog(path: Path, bands: Sequence[str] = ("g", "r", "z"), extra: Sequence[str] = ()) -> np.ndarray:
    """Read a Tractor catalog of DR3, DR5, DR8, DR9 or DR10, recognised by its columns, into the common table.

    Parameters
    ----------
    path : Path
        ``tractor-<brick>.fits``, or the same name under another FITS suffix. Column names in any letter case.
    bands : sequence of str
        Any of g, r, i, z.
    extra : sequence of str
        Columns of the file wanted besides the common ones, in any letter case. One of the common table that is named here has to be
        in the file, where it would be NaN otherwise.

    Returns
    -------
    ndarray, shape (N,), `catalog_dtype` (bands) and then the `extra` columns under the names asked for
        In the file's order, duplicates (type ``DUP``) included; native byte order. A composite galaxy (``COMP``) has the shape
        of the component that holds more of its light.

    Raises
    ------
    InputError
        The file is missing or unreadable, or lacks columns, a band or an extra column.
    """
    common = catalog_dtype(bands)
    new = [name for name in dict.fromkeys(extra) if name not in (common.names or ())]
    table = read_table(path, lambda names: _chosen(path, names, bands, new))
    family = _family(table.dtype.names or ())
    _require_asked(path, table.dtype.names or (), family, bands, extra)
    fields: list[Any] = [*common.descr, *[(name, table.dtype[name.lower()]) for name in new]]
    catalog = np.zeros(len(table), fields)
    try:
        _fill_source(catalog, table)
        for band in bands:
            _fill_band(catalog, table, path, family, band)
        (_fill_two_shapes if family.shapes == TWO_SHAPES else _fill_one_shape)(catalog, table)
    except (ValueError, TypeError) as error:
        raise InputError(path, f"has a column of another kind than a Tractor catalog ({error})", "copy the file again") from error
    for name in new:
        catalog[name] = table[name.lower()]
    return catalog


def _family(names: Sequence[str]) -> Releases:
    """Return the family of releases that has such columns; the newest one where none is recognised."""
    return next((family for family in FAMILIES if family.mark in names), FAMILIES[-1])


def _chosen(path: Path, names: Sequence[str], bands: Sequence[str], extra: Sequence[str]) -> list[str]:
    """Return which columns of a catalog have to be read."""
    family = _family(names)
    needed = [*COMMON, "brick_primary", "type", *family.shapes, *(() if family.order else ("release",))]
    optional = ["maskbits", *family.other_shapes, *[family.native(name, band) for name in OPTIONAL for band in bands]]
    _require(path, names, needed)
    for band in bands:
        columns = family.of_band(band)
        if band not in family.bands or not set(columns) & set(names):
            has = ", ".join(other for other in family.bands if family.native("flux", other) in names)
            raise InputError(
                path, f"has no columns of band {band}, {family.name} with the bands {has}", "take the band out of extract.bands"
            )
        needed += columns
    _require(path, names, needed)
    for name in extra:
        if name.lower() not in names:
            near = ", ".join(difflib.get_close_matches(name.lower(), names, 3)) or "not there either"
            raise InputError(path, f"has no column {name!r}; the nearest names are {near}", "correct the expression that uses it")
    present = [name for name in optional if name in names]
    return list(dict.fromkeys([*needed, *present, *[name.lower() for name in extra]]))


def _require_asked(path: Path, names: Sequence[str], family: Releases, bands: Sequence[str], extra: Sequence[str]) -> None:
    """Refuse a catalog without an optional column of the common table that is asked for by name: a cut on NaN removes everything."""
    native = {f"{name}_{band}": family.native(name, band) for name in OPTIONAL for band in bands}
    for name in extra:
        if name in native and native[name] not in names:
            raise InputError(path, f"has no column {native[name]!r}, expected it: {name!r} is asked for", "take out the condition on it")


def _require(path: Path, names: Sequence[str], needed: Sequence[str]) -> None:
    absent = sorted(set(needed) - set(names))
    if absent:
        problem = f"lacks the columns {', '.join(absent)}, expected a Tractor catalog of DR3, DR5, DR8, DR9 or DR10"
        raise InputError(path, problem, "check the release")


def _fill_source(catalog: np.ndarray, table: np.ndarray) -> None:
    """Fill the columns that have nothing to do with bands or shapes."""
    names = table.dtype.names or ()
    for name in COMMON:
        catalog[name] = table[name]
    catalog["type"] = _stripped(table["type"])
    primary = table["brick_primary"]
    catalog["brick_primary"] = _stripped(primary) == b"T" if primary.dtype.kind in "SU" else primary
    catalog["release"] = table["release"] if "release" in names else DR3_RELEASE
    if "maskbits" in names:
        catalog["maskbits"] = table["maskbits"]


def _stripped(texts: np.ndarray) -> np.ndarray:
    """Return texts as bytes without the padding that some releases have ('REX ')."""
    return np.char.strip(texts.astype("S"))


def _fill_band(catalog: np.ndarray, table: np.ndarray, path: Path, family: Releases, band: str) -> None:
    """Fill the columns of one band, out of arrays over all bands in DR3."""
    for name in (*PER_BAND, "allmask"):
        native = family.native(name, band)
        if name in OPTIONAL and native not in (table.dtype.names or ()):
            catalog[f"{name}_{band}"] = np.nan
            continue
        values = table[native]
        if family.order:
            if values.shape != (len(table), len(family.order)):
                expected = f"expected {len(family.order)}, the bands {family.order}"
                raise InputError(path, f"column {native} has {values[:1].size} values a row, {expected}", "check the release")
            values = values[:, family.order.index(band)]
        catalog[f"{name}_{band}"] = values


def _fill_one_shape(catalog: np.ndarray, table: np.ndarray) -> None:
    """Fill the shapes of DR9 and DR10; their index is that of free Sersic fits alone, other types fix theirs."""
    for name in ONE_SHAPE:
        catalog[name] = table[name]
    _fill_index(catalog)


def _fill_two_shapes(catalog: np.ndarray, table: np.ndarray) -> None:
    """Fill the shapes of DR3 to DR8: one of an exponential, another of a de Vaucouleurs profile; a composite has both."""
    names, kind = table.dtype.names or (), catalog["type"]
    dev = kind == b"DEV"
    if "fracdev" in names:
        dev |= (kind == b"COMP") & (table["fracdev"] > 0.5)
    for part in ("r", "e1", "e2"):
        exp_part, dev_part = (table[f"shape{model}_{part}"] if f"shape{model}_{part}" in names else 0 for model in ("exp", "dev"))
        catalog[f"shape_{part}"] = np.where(dev, dev_part, exp_part)
    catalog["shape_r"][kind == b"SIMP"] = SIMP_RADIUS
    catalog["sersic"] = np.where(dev, 4.0, 1.0)
    _fill_index(catalog)


def _fill_index(catalog: np.ndarray) -> None:
    """Fill the Sersic index of the types that fix it; point sources have no shape."""
    for kind, index in INDEX_OF_TYPE.items():
        catalog["sersic"][catalog["type"] == kind] = index
    point = np.isin(catalog["type"], POINT_TYPES)
    for name in ("shape_r", "shape_e1", "shape_e2"):
        catalog[name][point] = 0


def magnitudes(table: np.ndarray, band: str) -> np.ndarray:
    """Return AB magnitudes corrected for Galactic extinction, shape (N,), NaN where flux or transmission is not positive.

    Parameters
    ----------
    table : structured ndarray
        With ``flux_<band>`` (nanomaggies) and ``mw_transmission_<band>``.
    """
    flux, transmission = table[f"flux_{band}"], table[f"mw_transmission_{band}"]
    found = np.full(len(table), np.nan)
    bright = (flux > 0) & (transmission > 0)
    found[bright] = 22.5 - 2.5 * np.log10(np.asarray(flux[bright] / transmission[bright], dtype=np.float64))
    return found


def tractor_columns(catalog: np.ndarray, brick: str) -> np.ndarray:
    """Return the common table with the ``brickname`` column that Tractor catalogs carry."""
    fields: list[Any] = [("brickname", "S8"), *catalog.dtype.descr]
    table = np.zeros(len(catalog), fields)
    table["brickname"] = brick.encode()
    for name in catalog.dtype.names or ():
        table[name] = catalog[name]
    return table
