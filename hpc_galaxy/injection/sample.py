"""Fakes out of the user's own table, or out of the truth of a synthetic survey."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hpc_galaxy.bricks.galaxies import GALAXY_DTYPE
from hpc_galaxy.bricks.images import BANDS
from hpc_galaxy.bricks.layout import SUFFIXES, read_table
from hpc_galaxy.errors import InputError
from hpc_galaxy.injection.places import draw_places
from hpc_galaxy.injection.properties import random_ellipticities, turned

FLUXES, DUST = tuple(f"flux_{band}" for band in BANDS), tuple(f"mw_transmission_{band}" for band in BANDS)
TRUTH = (*FLUXES, *DUST, "sersic", "rhalf", "g1", "g2", "bulge", "knots")
OBIWAN = (*BANDS, "rhalf", "n")
OPTIONAL = ("ba", "pa", "e1", "e2")
# The least and the largest value that is accepted, and its unit.
LIMITS = {
    **dict.fromkeys(BANDS, (5.0, 35.0, "AB magnitudes")),
    **dict.fromkeys(DUST, (1e-3, 1.0, "of the light")),
    "rhalf": (0.0, 60.0, "arcsec"),
    "ba": (0.01, 1.0, "as b / a"),
    "bulge": (0.0, 1.0, "of the flux"),
    "knots": (0.0, 1.0, "of the flux"),
}
INDEX = (0.1, 20.0)  # what is outside GalSim's range is drawn with the nearest index inside
MAX_DISTORTION = 0.9999
REMEDY = "see hpc_galaxy/injection/README.md for the columns of a table of properties"
STREAM = 3  # of the order in which rows are taken


def read_sample(path: Path, stars: bool = False) -> np.ndarray:
    """Read the properties of fakes, corrected for dust.

    Parameters
    ----------
    path : Path
        A FITS table, or a folder of them, all of which are taken, sorted by path. Each has the columns of a synthetic survey's truth, or
        obiwan's (``g, r, z``: AB magnitudes without dust; ``rhalf``: arcsec, circularised; ``n``; perhaps ``ba`` or ``e1, e2``).
    stars : bool
        Take the rows with ``rhalf = 0``, which are left out otherwise.

    Returns
    -------
    ndarray, shape (N,), `hpc_galaxy.bricks.galaxies.GALAXY_DTYPE`
        Unobscured fluxes, in nanomaggies. ``g1`` is the ellipticity (a - b) / (a + b), or NaN where it is not known; ``g2``, places and
        seeds are 0.

    Raises
    ------
    InputError
        There is no such table, it lacks columns, has a value that is no number or out of range, or no row to take.
    """
    rows = np.concatenate([np.zeros(0, GALAXY_DTYPE), *(_read_file(file) for file in _files(path))])
    rows = rows[(rows["rhalf"] == 0) == stars]
    if not len(rows):
        kind = "stars (rhalf = 0)" if stars else "galaxies (rhalf > 0)"
        raise InputError(path, f"has no {kind}, expected at least one", "check paths.sample and injection.profile")
    return rows


def deal_rows(rows: np.ndarray, seed: int, items: int, per_item: int) -> list[np.ndarray]:
    """Return which rows each of a number of realisations gets, in their order, however many ranks there are.

    No row is taken twice before all were taken once.

    Parameters
    ----------
    rows : ndarray, shape (N,)
        From `read_sample`.
    seed, items, per_item : int
        The configuration's seed; how many realisations there are, and how many fakes each has.

    Returns
    -------
    list of ndarray, each of shape (per_item,)
    """
    turns = -(-items * per_item // len(rows))
    order = np.concatenate([np.random.default_rng([seed, STREAM, turn]).permutation(len(rows)) for turn in range(turns)])
    return [rows[order[first : first + per_item]] for first in range(0, items * per_item, per_item)]


def draw_from_sample(rng: np.random.Generator, rows: np.ndarray, transmission: dict[str, float], shape: tuple[int, ...]) -> np.ndarray:
    """Turn and place rows of a sample at random, with knots of their own, and dim them by the dust of the brick.

    Parameters
    ----------
    rng : Generator
        This brick's and realisation's own.
    rows : ndarray, shape (N,), `hpc_galaxy.bricks.galaxies.GALAXY_DTYPE`
        From `read_sample`.
    transmission : dict
        Galactic transmission of the brick, by band.
    shape : tuple of int
        Rows and columns of the coadd.
    """
    fakes = rows.copy()
    for band in BANDS:
        fakes[f"flux_{band}"] *= transmission[band]
    drawn = random_ellipticities(rng, len(fakes))
    fakes["g1"], fakes["g2"] = turned(rng, np.where(np.isnan(fakes["g1"]), drawn, fakes["g1"]))
    fakes["seed"] = rng.integers(1, 2**31 - 1, len(fakes))
    fakes["x"], fakes["y"] = draw_places(rng, len(fakes), shape)
    return fakes


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(file for file in path.rglob("*") if file.name.endswith(SUFFIXES) and not file.name.startswith("."))
    if not found:
        raise InputError(path, f"has no file of {', '.join(SUFFIXES)}, expected tables of properties", "check paths.sample")
    return found


def _read_file(path: Path) -> np.ndarray:
    table = read_table(path, lambda names: _chosen(path, names))
    for name in table.dtype.names or ():
        if table.dtype[name].kind not in "iuf":
            raise InputError(path, f"column {name} holds {table.dtype[name]}, expected one number a row", REMEDY)
        low, high, unit = LIMITS.get(name, (-np.inf, np.inf, ""))
        _require(path, table, name, np.isfinite(table[name]) & (table[name] >= low) & (table[name] <= high), _range(low, high, unit))
    rows = _from_truth(path, table) if "sersic" in (table.dtype.names or ()) else _from_obiwan(path, table)
    galaxy = rows["rhalf"] > 0
    low, high = INDEX
    good = ~galaxy | ((rows["sersic"] >= low) & (rows["sersic"] <= high))
    _require(path, rows, "sersic", good, f"a Sersic index from {low:g} to {high:g}")
    for name in ("sersic", "g1", "bulge", "knots"):
        rows[name][~galaxy] = 0
    return rows


def _chosen(path: Path, names: Sequence[str]) -> list[str]:
    """Return which columns to read: a truth's, or obiwan's."""
    wanted = TRUTH if "sersic" in names else OBIWAN
    absent = [name for name in wanted if name not in names]
    if absent:
        kind = "truth of a synthetic survey" if wanted is TRUTH else "sample in obiwan's columns"
        raise InputError(path, f"lacks the columns {', '.join(absent)} of a {kind}", REMEDY)
    if wanted is TRUTH:
        return list(TRUTH)
    return [*OBIWAN, *[name for name in OPTIONAL if name in names]]


def _range(low: float, high: float, unit: str) -> str:
    return f"a number from {low:g} to {high:g} {unit}" if np.isfinite(low) else "a finite number"


def _require(path: Path, table: np.ndarray, name: str, good: np.ndarray, expected: str) -> None:
    bad = np.flatnonzero(~good)
    if len(bad):
        problem = f"row {bad[0]} has {name} = {table[name][bad[0]]:g}, expected {expected} ({len(bad)} such rows)"
        raise InputError(path, problem, "mend the table or take the rows out")


def _from_truth(path: Path, table: np.ndarray) -> np.ndarray:
    rows = np.zeros(len(table), GALAXY_DTYPE)
    for name, dust in zip(FLUXES, DUST, strict=True):
        _require(path, table, name, table[name] > 0, "a positive flux")
        rows[name] = table[name] / table[dust]
    for name in ("sersic", "rhalf", "bulge", "knots"):
        rows[name] = table[name]
    rows["g1"] = np.hypot(table["g1"], table["g2"])
    _require(path, rows, "g1", rows["g1"] < MAX_DISTORTION, "g1 and g2 of a shear below 1")
    _require(path, rows, "bulge", rows["bulge"] + rows["knots"] <= 1, "bulge and knots that are not more than the flux")
    return rows


def _from_obiwan(path: Path, table: np.ndarray) -> np.ndarray:
    rows, names = np.zeros(len(table), GALAXY_DTYPE), table.dtype.names or ()
    for band in BANDS:
        rows[f"flux_{band}"] = 10 ** ((22.5 - table[band].astype(np.float64)) / 2.5)
    rows["sersic"], rows["rhalf"] = table["n"], table["rhalf"]
    if "ba" in names:
        rows["g1"] = (1 - table["ba"]) / (1 + table["ba"])
    elif "e1" in names and "e2" in names:
        distortion = np.hypot(table["e1"], table["e2"])  # (a^2 - b^2) / (a^2 + b^2)
        _require(path, table, "e1", distortion < MAX_DISTORTION, "e1 and e2 of a distortion below 1")
        rows["g1"] = distortion / (1 + np.sqrt(1 - distortion**2))
    else:
        rows["g1"] = np.nan
    return rows
