"""Small files in the formats that the data releases, obiwan and legacysim document, with values that tell every column from the others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import fitsio
import numpy as np
from numpy.lib.recfunctions import repack_fields

BRICK = "1211p060"
BRICKID = 350771
RELEASES = ("DR3", "DR5", "DR8", "DR9", "DR10")
BANDS = {"DR3": "grz", "DR5": "grz", "DR8": "grz", "DR9": "grz", "DR10": "griz"}  # those with data
RELEASE_NUMBER = {"DR5": 5000, "DR8": 8000, "DR9": 9010, "DR10": 10000}
TYPES = {
    "DR3": ["PSF ", "SIMP", "EXP ", "DEV ", "COMP", "COMP"],
    "DR5": ["PSF ", "REX ", "EXP ", "DEV ", "COMP", "COMP"],
    "DR8": ["DUP ", "REX ", "EXP ", "DEV ", "COMP", "COMP"],
    "DR9": ["PSF", "REX", "EXP", "DEV", "SER", "DUP"],
    "DR10": ["PSF", "REX", "EXP", "DEV", "SER", "DUP"],
}
COUNT = 6
DECAM = "ugrizY"
# Value of a column in band g; one more in r, two in i, three in z, and a hundredth more a row where the column holds fractions.
BASE = {
    **{"flux": 10.0, "flux_ivar": 20.0, "mw_transmission": 30.0, "psfsize": 40.0, "psfdepth": 80.0, "galdepth": 100.0},
    **{"nobs": 50, "allmask": 60, "anymask": 70},
}
ARRAY_NAMES = {"psfdepth": "depth"}  # DR3's
WISE = 900.0
OPTICAL = [
    *[(name, "f4") for name in ("flux", "flux_ivar", "mw_transmission", "rchisq", "fracflux", "fracmasked", "fracin", "psfsize")],
    *[(name, "f4") for name in ("psfdepth", "galdepth")],
    *[(name, "i2") for name in ("nobs", "anymask", "allmask")],
    *[(name, "f4", 8) for name in ("apflux", "apflux_resid", "apflux_ivar")],
]
INFRARED = [*[(name, "f4") for name in ("flux", "flux_ivar", "mw_transmission", "rchisq", "fracflux")], ("nobs", "i2")]


def value(name: str, band: str) -> Any:
    """Return what the column `name` of a band holds in every release, shape (`COUNT`,)."""
    offset = "griz".index(band)
    rows = np.arange(COUNT)
    return BASE[name] + offset + (rows if name in ("nobs", "allmask", "anymask") else rows / 100)


def array_name(name: str) -> str:
    """Return what DR3 calls the column `name`, which has all bands."""
    return f"decam_{ARRAY_NAMES.get(name, name)}"


def tractor_table(release: str, count: int = COUNT) -> np.ndarray:
    """Return a Tractor catalog of `count` rows with the columns that the pages of a release list.

    Of the columns that no code here could mistake for another some are left out.
    """
    table = np.zeros(COUNT, [*_source_columns(release), *_flux_columns(release), *_shape_columns(release)])
    if release in RELEASE_NUMBER:
        table["release"] = RELEASE_NUMBER[release]
    table["brickid"], table["brickname"], table["objid"] = BRICKID, BRICK, np.arange(COUNT)
    table["brick_primary"] = [True, False, True, True, True, True]
    table["type"] = TYPES[release]
    table["ra"], table["dec"] = 121.1 + np.arange(COUNT) / 1000, 6.0 + np.arange(COUNT) / 1000
    table["bx"], table["by"] = 1800 + np.arange(COUNT), 1700 + np.arange(COUNT)
    if "maskbits" in (table.dtype.names or ()):
        table["maskbits"] = [0, 2, 0, 4096, 0, 1 << 15 if release == "DR10" else 1 << 12]
    _fill_fluxes(table, release)
    _fill_shapes(table, release)
    return np.resize(table, count) if count else table[:0]


def _source_columns(release: str) -> list[tuple[Any, ...]]:
    number = {"DR3": [], "DR5": [("release", "i4")]}.get(release, [("release", "i2")])
    masks = {"DR3": [("tycho2inblob", "?")], "DR5": [], "DR10": [("maskbits", "i4"), ("fitbits", "i2")]}.get(release, [("maskbits", "i2")])
    return [
        *number,
        *[("brickid", "i4"), ("brickname", "S8"), ("objid", "i4"), ("brick_primary", "?"), *masks],
        *[("type", "S3" if release in ("DR9", "DR10") else "S4"), ("ra", "f8"), ("dec", "f8"), ("bx", "f4"), ("by", "f4")],
        *[("dchisq", "f4", 5), ("ebv", "f4")],
    ]


def _flux_columns(release: str) -> list[tuple[Any, ...]]:
    if release == "DR3":
        arrays = [(array_name(name), "u1" if name == "nobs" else kind, 6) for name, kind, *rest in OPTICAL if not rest]
        return [*arrays, ("decam_apflux", "f4", (6, 8)), *[(f"wise_{name}", kind, 4) for name, kind in INFRARED]]
    bands = ["u", "g", "r", "i", "z", "Y"] if release == "DR5" else list(BANDS[release])
    return [
        *[(f"{name}_{band}", *kind) for name, *kind in OPTICAL for band in bands],
        *[(f"{name}_w{number}", kind) for name, kind in INFRARED for number in (1, 2, 3, 4)],
    ]


def _shape_columns(release: str) -> list[tuple[Any, ...]]:
    if release in ("DR9", "DR10"):
        return [(name, "f4") for name in ("sersic", "sersic_ivar", "shape_r", "shape_r_ivar", "shape_e1", "shape_e2")]
    shapes = [f"shape{model}_{part}" for model in ("exp", "dev") for part in ("r", "r_ivar", "e1", "e2")]
    return [("fracdev", "f4"), *[(name, "f4") for name in shapes]]


def _fill_fluxes(table: np.ndarray, release: str) -> None:
    names = table.dtype.names or ()
    for name in names:
        if name.startswith("wise_") or name[-3:-1] == "_w":
            table[name] = WISE
    for name in BASE:
        for band in BANDS[release]:
            if release == "DR3":
                table[array_name(name)][:, DECAM.index(band)] = value(name, band)
            else:
                table[f"{name}_{band}"] = value(name, band)


def _fill_shapes(table: np.ndarray, release: str) -> None:
    if release in ("DR9", "DR10"):
        # A release may give the index of free fits alone (as here), or that of every type.
        table["sersic"] = [0, 0, 0, 0, 2.5, 0]
        table["shape_r"] = [0.1, 0.3, 0.5, 0.9, 0.7, 0.1]  # that of a point source means nothing
        table["shape_e1"], table["shape_e2"] = [0.1, 0, 0.1, 0.2, 0.3, 0.1], [0.1, 0, -0.1, -0.2, 0, 0.1]
        return
    table["fracdev"] = [0, 0, 0, 1, 0.2, 0.8]
    table["shapeexp_r"], table["shapedev_r"] = [0.1, 0, 0.5, 0, 0.6, 0.6], [0, 0, 0, 0.9, 1.2, 1.2]
    if release != "DR3":
        table["shapeexp_r"][1] = 0.3  # REX; SIMP's fixed radius is in no column that one may rely on
    table["shapeexp_e1"], table["shapedev_e1"] = [0.1, 0, 0.1, 0, 0.1, 0.1], [0, 0, 0, 0.2, 0.2, 0.2]
    table["shapeexp_e2"], table["shapedev_e2"] = [0, 0, -0.1, 0, -0.1, -0.1], [0, 0, 0, -0.2, -0.2, -0.2]


def write_table(path: Path, table: np.ndarray, upper: bool = False) -> Path:
    """Write a FITS table, big-endian as all of them are, column names in one letter case or the other."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = repack_fields(table)
    if upper:
        table = table.view([(name.upper(), *rest) for name, *rest in table.dtype.descr])
    fitsio.write(str(path), table, clobber=True)
    return path


def write_coadds(folder: Path, brick: str = BRICK, bands: Iterable[str] = "grz", planes: Sequence[str] = ("image", "invvar")) -> None:
    """Write tiny coadds, and one of W1 as later releases have them."""
    folder.mkdir(parents=True, exist_ok=True)
    for plane in planes:
        for band in [*bands, "W1"]:
            fitsio.write(str(folder / f"legacysurvey-{brick}-{plane}-{band}.fits.fz"), np.ones((4, 4), np.float32), clobber=True)


def write_survey(root: Path, release: str = "DR9", brick: str = BRICK) -> None:
    """Write one brick in the survey's own layout."""
    write_table(root / "tractor" / brick[:3] / f"tractor-{brick}.fits", tractor_table(release))
    write_coadds(root / "coadd" / brick[:3] / brick, brick, BANDS[release])


def write_obiwan(root: Path, rs: str, ids: Sequence[int], added: Sequence[int], brick: str = BRICK) -> None:
    """Write one realisation in obiwan's layout; `added` are the ids that were injected.

    Each id is one galaxy in all realisations; dust and orientation depend on the realisation.
    """
    names = ["ra", "dec", "x", "y", "gflux", "rflux", "zflux", *[f"mw_transmission_{band}" for band in "grz"], "n", "rhalf", "e1", "e2"]
    simcat = np.zeros(len(ids), [("id", "i4"), *[(name, "f8") for name in names]])
    simcat["id"], simcat["ra"], simcat["dec"], simcat["x"] = ids, 121.1, 6.0, 1801.0
    simcat["n"], simcat["rhalf"], simcat["e1"] = 1, 0.5, 0.01 * len(rs)
    for band in "grz":
        simcat[f"mw_transmission_{band}"] = 1 - 0.02 * len(rs)
        simcat[f"{band}flux"] = (1 + np.asarray(ids)) * simcat[f"mw_transmission_{band}"]
    folder = Path(brick[:3]) / brick / rs
    write_table(root / "obiwan" / folder / f"simcat-elg-{brick}.fits", simcat)
    write_table(root / "obiwan" / folder / "sim_ids_added.fits", simcat[["id"]][np.isin(ids, added)])
    write_table(root / "tractor" / folder / f"tractor-{brick}.fits", tractor_table("DR5"))
    write_coadds(root / "coadd" / folder, brick)


def write_legacysim(root: Path, rs: str, ids: Sequence[int], collided: Sequence[bool], brick: str = BRICK) -> None:
    """Write one realisation in legacysim's layout."""
    names = ["ra", "dec", "bx", "by", "flux_g", "flux_r", "flux_z", "sersic", "shape_r", "shape_e1", "shape_e2"]
    injected = np.zeros(len(ids), [("id", "i8"), *[(name, "f8") for name in names], ("brickname", "S8"), ("seed", "i8"), ("collided", "?")])
    injected["id"], injected["ra"], injected["dec"], injected["bx"], injected["collided"] = ids, 121.1, 6.0, 1800.0, collided
    write_table(root / rs / "sim" / brick[:3] / f"injected-{brick}.fits", injected)
    write_table(root / rs / "tractor" / brick[:3] / f"tractor-{brick}.fits", tractor_table("DR9"))
    write_coadds(root / rs / "coadd" / brick[:3] / brick, brick)
