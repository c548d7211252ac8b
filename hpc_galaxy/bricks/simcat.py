"""The tables of what was injected: obiwan's (``simcat``), written by the injection, and legacysim's; read by the extraction."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from astropy.wcs import WCS

from hpc_galaxy.bricks.images import BANDS
from hpc_galaxy.bricks.layout import read_table
from hpc_galaxy.bricks.views import View
from hpc_galaxy.errors import InputError


def simcat_table(fakes: np.ndarray, wcs: WCS, transmission: dict[str, float]) -> np.ndarray:
    """Return injected galaxies in obiwan's columns and conventions.

    ``x, y`` are **1-indexed**; fluxes are dimmed by extinction; ``rhalf`` is circularised; ``e1, e2`` are distortions
    (a^2 - b^2) / (a^2 + b^2) on the pixel axes, GalSim's ``e``.

    Parameters
    ----------
    fakes : ndarray, shape (N,), `hpc_galaxy.bricks.galaxies.GALAXY_DTYPE`
        0-indexed positions and reduced shears.
    """
    columns = ["ra", "dec", "x", "y", *[f"{band}flux" for band in BANDS], *[f"mw_transmission_{band}" for band in BANDS]]
    table = np.zeros(len(fakes), [("id", "<i8"), *[(name, "<f8") for name in (*columns, "n", "rhalf", "e1", "e2")]])
    table["id"] = np.arange(len(fakes))
    table["x"], table["y"] = fakes["x"] + 1, fakes["y"] + 1
    table["ra"], table["dec"] = wcs.all_pix2world(fakes["x"], fakes["y"], 0)
    for band in BANDS:
        table[f"{band}flux"], table[f"mw_transmission_{band}"] = fakes[f"flux_{band}"], transmission[band]
    table["n"], table["rhalf"] = fakes["sersic"], fakes["rhalf"]
    distortion = 2 / (1 + fakes["g1"] ** 2 + fakes["g2"] ** 2)  # of unit shear; GalSim is not imported here, it takes 0.6 s a rank
    table["e1"], table["e2"] = distortion * fakes["g1"], distortion * fakes["g2"]
    return table


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
