"""obiwan's truth table (``simcat``): written by the injection, read by the extraction."""

from __future__ import annotations

from pathlib import Path

import galsim
import numpy as np
from astropy.wcs import WCS

from hpc_galaxy.bricks.images import BANDS
from hpc_galaxy.bricks.layout import obiwan_path, read_table
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
    shears = [galsim.Shear(g1=g1, g2=g2) for g1, g2 in zip(fakes["g1"], fakes["g2"], strict=True)]
    table["e1"], table["e2"] = [shear.e1 for shear in shears], [shear.e2 for shear in shears]
    return table


def read_injected(root: Path, brick: str, rs: str) -> np.ndarray:
    """Read the rows of a simcat that were really injected: those in ``sim_ids_added``.

    Returns
    -------
    structured ndarray
        With at least ``id``, ``ra``, ``dec``; ``x`` and ``y`` 1-indexed as in the file.

    Raises
    ------
    InputError
        A table is missing or lacks its columns.
    """
    path = obiwan_path(root, brick, rs, "simcat-elg")
    simcat, added = read_table(path), read_table(obiwan_path(root, brick, rs, "sim_ids_added"))
    for where, table, columns in ((path, simcat, ("id", "ra", "dec")), (root, added, ("id",))):
        absent = [name for name in columns if name not in (table.dtype.names or ())]
        if absent:
            raise InputError(where, f"lacks the columns {', '.join(absent)}", "expected obiwan's simcat and sim_ids_added")
    return simcat[np.isin(simcat["id"], added["id"])]
