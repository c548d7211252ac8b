"""What the fakes of a split were injected with, from the tables of what was injected."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hpc_galaxy.bricks.simcat import TABLES, Parameters, parameter_keys, read_injected
from hpc_galaxy.bricks.views import injected_views
from hpc_galaxy.cutouts.sources import fake_ids
from hpc_galaxy.errors import InputError
from hpc_galaxy.training.data.order import rank_part
from hpc_galaxy.world import World

UNITS = {
    "r magnitude": "mag",
    "g - r": "mag",
    "r - z": "mag",
    "log half-light radius": "dex",
    "Sersic index": "",
    "ellipticity": "",
}
"""The parameters, without dust, and their units."""

TRUTH_DTYPE = np.dtype([("id", "S48"), ("injected", "<u8"), *[(name, "<f8") for name in UNITS]])
ENOUGH = 0.9  # share of a split's fakes that have to be in the tables


def wanted_copies(table: np.ndarray, labels: np.ndarray) -> list[tuple[str, str]]:
    """Return the copies of bricks that a split's fakes were cut from, as (brick, realisation), sorted."""
    fakes = np.unique(table[["brick", "rs"]][labels == 1])
    return [(brick.decode(errors="replace"), rs.decode(errors="replace")) for brick, rs in fakes.tolist()]


def read_truth(root: Path, wanted: Sequence[tuple[str, str]], world: World) -> np.ndarray | str:
    """Return what was injected into some copies of bricks, on rank 0. Collective.

    Parameters
    ----------
    root : Path
        ``paths.obiwan``.
    wanted : sequence of (str, str)
        From `wanted_copies`; the same on every rank, each of which reads a part.
    world : World
        Every rank must call this.

    Returns
    -------
    ndarray, shape (n,), `TRUTH_DTYPE`, or str
        In the order of `wanted`, nothing elsewhere than on rank 0; or what cannot be read.
    """
    parts = world.gather(_read(root, wanted[rank_part(len(wanted), world)]))
    wrong = next((part for part in parts if isinstance(part, str)), None)
    if wrong:
        return wrong
    return np.concatenate([np.empty(0, TRUTH_DTYPE), *(part for part in parts if not isinstance(part, str))])


def _read(root: Path, wanted: Sequence[tuple[str, str]]) -> np.ndarray | str:
    found = [np.empty(0, TRUTH_DTYPE)]
    try:
        for brick, rs in wanted:
            found += [_truth(read_injected(view), brick, rs) for view in injected_views(root, brick) if view.rs == rs]
    except InputError as error:
        return f"{error.where}: {error.problem}"
    return np.concatenate(found)


def _truth(injected: np.ndarray, brick: str, rs: str) -> np.ndarray:
    """Return one table of injected galaxies in our columns; what it does not tell is NaN."""
    columns = injected.dtype.names or ()
    names = next((each for each in TABLES if each.index in columns), TABLES[0])
    truth = np.empty(len(injected), TRUTH_DTYPE)
    truth["id"] = [identifier.encode() for identifier in fake_ids(injected, brick, rs)]
    truth["injected"] = parameter_keys(injected)
    magnitudes = {band: _magnitude(injected, names, band) for band in "grz"}
    truth["r magnitude"] = magnitudes["r"]
    truth["g - r"], truth["r - z"] = magnitudes["g"] - magnitudes["r"], magnitudes["r"] - magnitudes["z"]
    truth["log half-light radius"] = _log10(_column(injected, names.radius))
    truth["Sersic index"] = _column(injected, names.index)
    shapes = ("e1", "e2") if names == TABLES[0] else ("shape_e1", "shape_e2")
    truth["ellipticity"] = np.hypot(*(_column(injected, name) for name in shapes))
    return truth


def _column(table: np.ndarray, name: str) -> np.ndarray:
    known = name in (table.dtype.names or ()) and table.dtype[name].kind in "iuf"
    return table[name].astype(np.float64) if known else np.full(len(table), np.nan)


def _magnitude(table: np.ndarray, names: Parameters, band: str) -> np.ndarray:
    dust = f"mw_transmission_{band}"
    transmission = _column(table, dust) if dust in (table.dtype.names or ()) else 1.0
    return np.asarray(22.5 - 2.5 * _log10(_column(table, names.flux.format(band=band)) / transmission))


def _log10(values: np.ndarray) -> np.ndarray:
    """Return logarithms; NaN of what is not positive."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log10(np.where(values > 0, values, np.nan))


def join_truth(fakes: np.ndarray, truth: np.ndarray) -> np.ndarray | str:
    """Return the row of `truth` that each fake is, -1 for those that are not in it, shape (n,), int; or why it is not their truth.

    Parameters
    ----------
    fakes : ndarray, shape (n,)
        The rows of a split's table whose label is fake.
    truth : ndarray, shape (m,), `TRUTH_DTYPE`
        From `read_truth`.
    """
    order = np.argsort(truth["id"], kind="stable")
    place = np.minimum(np.searchsorted(truth["id"][order], fakes["id"]), max(len(truth) - 1, 0))
    rows = order[place] if len(truth) else np.full(len(fakes), -1)
    there = (truth["id"][rows] == fakes["id"]) if len(truth) else np.zeros(len(fakes), bool)
    if there.sum() < ENOUGH * len(fakes):
        return f"{there.sum()} of {len(fakes)} fakes are in the tables of what was injected"
    compared = there & (fakes["injected"] != 0)
    if (truth["injected"][rows[compared]] != fakes["injected"][compared]).any():
        return "the tables of what was injected are of another injection than these fakes"
    return np.where(there, rows, -1)
