"""The sources of a brick: which are real, which are injected, and the table that goes with their stamps."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from hpc_galaxy.bricks.catalog import magnitudes
from hpc_galaxy.bricks.geometry import chord, unit_vectors
from hpc_galaxy.shards.schema import BANDS, LABELS, SOURCE_DTYPE

COPIED = (
    "ra",
    "dec",
    "bx",
    "by",
    "type",
    "shape_r",
    "shape_e1",
    "shape_e2",
    "sersic",
    *[f"{name}_{band}" for name in ("flux", "flux_ivar", "mw_transmission", "psfsize") for band in BANDS],
)


def isolated(catalog: np.ndarray, arcsec: float) -> np.ndarray:
    """Return which rows have no other row within `arcsec`, shape (N,), bool.

    Asked of real and fake alike: a blend cannot be told to be the one or the other.
    """
    keep = np.ones(len(catalog), bool)
    if len(catalog) > 1:
        pairs = cKDTree(unit_vectors(catalog["ra"], catalog["dec"])).query_pairs(chord(arcsec), output_type="ndarray")
        keep[pairs.ravel()] = False
    return keep


def match_injected(catalog: np.ndarray, injected: np.ndarray, arcsec: float) -> tuple[np.ndarray, np.ndarray]:
    """Find the injected galaxies in a catalog.

    Parameters
    ----------
    catalog, injected : structured ndarray
        With ``ra`` and ``dec``, degrees.

    Returns
    -------
    match : ndarray, shape (N,), int
        For each catalog row, the nearest row of `injected` within `arcsec`, or -1.
    best : ndarray, shape (N,), bool
        Whether no other catalog row is as near to that injected galaxy; True where there is no match. The others are real
        neighbours of a fake, or pieces of it: nobody knows, so they belong to neither class.
    """
    if len(injected) == 0 or len(catalog) == 0:
        return np.full(len(catalog), -1), np.ones(len(catalog), bool)
    tree = cKDTree(unit_vectors(injected["ra"], injected["dec"]))
    distance, nearest = tree.query(unit_vectors(catalog["ra"], catalog["dec"]), distance_upper_bound=chord(arcsec))
    match = np.where(np.isfinite(distance), nearest, -1)
    best = match < 0
    order = np.lexsort((np.asarray(distance), match))
    _, first = np.unique(match[order], return_index=True)
    best[order[first]] = True
    return match, best


def source_table(catalog: np.ndarray, label: str, brick: str, rs: str, ids: list[str]) -> np.ndarray:
    """Return the source table of catalog rows.

    Parameters
    ----------
    catalog : ndarray, shape (N,), `hpc_galaxy.bricks.catalog.CATALOG_DTYPE`
        The selected rows.
    label, brick, rs : str
        ``real`` or ``fake``; where the stamps are cut from.
    ids : list of str
        One a row.

    Returns
    -------
    ndarray, shape (N,), `hpc_galaxy.shards.schema.SOURCE_DTYPE`
        ``edge`` is still False.
    """
    table = np.zeros(len(catalog), SOURCE_DTYPE)
    table["id"] = [identifier.encode() for identifier in ids]
    table["brick"], table["rs"], table["label"] = brick.encode(), rs.encode(), LABELS[label]
    for name in COPIED:
        table[name] = catalog[name]
    for band in BANDS:
        table[f"mag_{band}"] = magnitudes(catalog, band)
    return table


def real_ids(catalog: np.ndarray) -> list[str]:
    """Return ``release-brickid-objid``, the Legacy Surveys' unique identifier."""
    return [f"{row['release']}-{row['brickid']}-{row['objid']}" for row in catalog]


def fake_ids(injected: np.ndarray, brick: str, rs: str) -> list[str]:
    """Return ``rs-brick-id``: obiwan's ids recur in other realisations and bricks."""
    return [f"{rs}-{brick}-{row['id']}" for row in injected]
