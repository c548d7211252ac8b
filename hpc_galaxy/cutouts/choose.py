"""Which sources of one copy of a brick are cut out: the classes told apart, and the same cuts applied to all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hpc_galaxy.bricks.catalog import catalog_dtype, read_catalog
from hpc_galaxy.bricks.positions import pixel_positions
from hpc_galaxy.bricks.simcat import parameter_keys, read_injected
from hpc_galaxy.bricks.views import View
from hpc_galaxy.config import Extract
from hpc_galaxy.cutouts.selection import apply_cuts, conditions, cuts, needs
from hpc_galaxy.cutouts.sources import fake_ids, isolated, match_injected, positions_table, real_ids, source_table, truth_table
from hpc_galaxy.cutouts.stamps import boxes, inside, on_edge
from hpc_galaxy.errors import InputError
from hpc_galaxy.shards.schema import LABELS, UNLABELLED, StampFormat

FIRST_WITH_MASKBITS = 8000  # DR8


def stamp_format(settings: Extract) -> StampFormat:
    """Return what the stamps of a configuration are made of."""
    return StampFormat(settings.bands, settings.planes, settings.size)


@dataclass(frozen=True)
class Chosen:
    """The sources of one class.

    Attributes
    ----------
    table : ndarray, shape (N,)
        Their source table.
    outlines : ndarray, shape (N, 4), int
        Their stamps, `hpc_galaxy.cutouts.stamps.boxes`.
    flow : dict of str to int
        How many sources there were ("catalog"), and how many each cut removed.
    releases : set of int
        Releases that the sources of the catalog are of.
    """

    table: np.ndarray
    outlines: np.ndarray
    flow: dict[str, int]
    releases: set[int]


def choose(
    settings: Extract, view: View, shape: tuple[int, int], classes: Sequence[str], positions: np.ndarray | None
) -> dict[str, Chosen]:
    """Choose the sources of the wanted classes.

    Parameters
    ----------
    settings : Extract
        The cuts.
    view : View
        Which copy of the brick.
    shape : tuple of int
        Of its coadds, (ny, nx).
    classes : sequence of str
        ``real``, ``fake``, ``user``.
    positions : ndarray, optional
        The user's own positions.

    Raises
    ------
    InputError
        A table is missing, unreadable, or lacks its columns.
    """
    chosen = {}
    if "user" in classes and positions is not None:
        chosen["user"] = _from_positions(settings, view, shape, positions)
    labels = [label for label in classes if label in LABELS]
    if "fake" in labels and "truth_positions" in settings.defects:
        chosen["fake"] = _from_truth(settings, view, shape)
    labels = [label for label in labels if label not in chosen]
    return (_from_catalog(settings, view, shape, labels) if labels else {}) | chosen


def _from_positions(settings: Extract, view: View, shape: tuple[int, int], positions: np.ndarray) -> Chosen:
    bx, by = pixel_positions(view.coadd(settings.planes[0], settings.bands[0]), positions["ra"], positions["dec"])
    keep, flow = apply_cuts(positions, {"on_coadd": inside(bx, by, shape)})
    table = positions_table(positions[keep], stamp_format(settings), view.brick, bx[keep], by[keep])
    return outlined(settings, shape, table, {"catalog": len(positions), **flow}, set())


def _from_truth(settings: Extract, view: View, shape: tuple[int, int]) -> Chosen:
    """Choose all injected galaxies where they were put, detected or not: a defect of 2018, see ``extract.defects``."""
    injected = read_injected(view)
    bx, by = pixel_positions(view.coadd(settings.planes[0], settings.bands[0]), injected["ra"], injected["dec"])
    keep, flow = apply_cuts(injected, {"on_coadd": inside(bx, by, shape)})
    table = truth_table(injected[keep], stamp_format(settings), view.brick, view.rs, bx[keep], by[keep])
    return outlined(settings, shape, table, {"catalog": len(injected), **flow}, set())


def _from_catalog(settings: Extract, view: View, shape: tuple[int, int], labels: Sequence[str]) -> dict[str, Chosen]:
    catalog = read_catalog(view.catalog, settings.bands, [*needs(settings), *_common_needs(settings)])
    releases = {int(release) for release in np.unique(catalog["release"])}
    _require_masks(settings, view, releases)
    injected = read_injected(view) if view.injected is not None else None
    match, best = match_injected(catalog, catalog[:0] if injected is None else injected, settings.match_arcsec)
    masks = {
        "nearest_to_injected": best,
        "on_coadd": inside(catalog["bx"], catalog["by"], shape),
        "isolated": isolated(catalog, settings.match_arcsec),
        **cuts(catalog, settings),
    }
    chosen = {}
    for label in labels:
        rows = np.flatnonzero((match >= 0) == bool(LABELS[label]))
        keep, flow = apply_cuts(catalog[rows], {name: mask[rows] for name, mask in masks.items()})
        kept = rows[keep]
        truth = injected[match[kept]] if injected is not None and label == "fake" else None
        ids = real_ids(catalog[kept]) if truth is None else fake_ids(truth, view.brick, view.rs)
        table = source_table(catalog[kept], stamp_format(settings), label, view.brick, view.rs, ids)
        if truth is not None:
            table["injected"] = parameter_keys(truth)
        chosen[label] = outlined(settings, shape, table, {"catalog": len(rows), **flow}, releases)
    return chosen


def _common_needs(settings: Extract) -> list[str]:
    """Return the columns of the common table that the conditions ask for: optional ones have to be in the catalog then."""
    known = catalog_dtype(settings.bands).names or ()
    return sorted({name for condition in conditions(settings).values() for name in condition.names if name in known})


def _require_masks(settings: Extract, view: View, releases: set[int]) -> None:
    """Refuse a cut on masks that would keep everything because the release has none."""
    if settings.maskbits and min(releases, default=FIRST_WITH_MASKBITS) < FIRST_WITH_MASKBITS:
        problem = f"is of release {min(releases)}, which has no maskbits, expected {FIRST_WITH_MASKBITS} or later"
        raise InputError(view.catalog, problem, "take extract.allmask instead of extract.maskbits")


def outlined(settings: Extract, shape: tuple[int, int], table: np.ndarray, flow: dict[str, int], releases: set[int]) -> Chosen:
    """Return the sources of a table, with their stamps' outlines; ``edge`` is filled in."""
    outlines = boxes(*_cut_at(settings, table), settings.size)
    table["edge"] = on_edge(outlines, shape)
    return Chosen(table, outlines, flow, releases)


def _cut_at(settings: Extract, table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return where stamps are cut; not where their galaxies are, with the defect ``one_pixel`` of 2018.

    The table still says where the galaxies are, so that whoever looks for the light there finds the classes a pixel apart.
    """
    if "one_pixel" not in settings.defects:
        return table["bx"], table["by"]
    counted_from_1 = table["label"] == LABELS["fake"]
    user = table["label"] == UNLABELLED
    bx, by = (np.where(user, table[name], np.trunc(table[name] + counted_from_1)) for name in ("bx", "by"))
    return bx, by
