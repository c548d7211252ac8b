"""The sources of a brick: which are real, which are injected, and the table that goes with their stamps."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from hpc_galaxy.bricks.catalog import magnitudes
from hpc_galaxy.bricks.geometry import chord, unit_vectors
from hpc_galaxy.bricks.simcat import catalog_columns, parameter_keys
from hpc_galaxy.shards.schema import CLASSES, SOURCE_COLUMNS, StampFormat

COPIED = ("ra", "dec", "bx", "by", "type", "maskbits", "shape_r", "shape_e1", "shape_e2", "sersic")


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


def source_table(catalog: np.ndarray, stamps: StampFormat, label: str, brick: str, rs: str, ids: list[str]) -> np.ndarray:
    """Return the source table of catalog rows.

    Parameters
    ----------
    catalog : ndarray, shape (N,), `hpc_galaxy.bricks.catalog.catalog_dtype`
        The selected rows.
    stamps : StampFormat
        Whose bands the table has columns of.
    label, brick, rs : str
        The class; where the stamps are cut from.
    ids : list of str
        One a row.

    Returns
    -------
    ndarray, shape (N,), ``stamps.source_dtype``
        ``edge`` is still False, ``injected`` 0.
    """
    table = _blank_table(len(catalog), stamps, label, brick, rs, ids)
    for name in COPIED:
        table[name] = catalog[name]
    for band in stamps.bands:
        table[f"mag_{band}"] = magnitudes(catalog, band)
        for name in SOURCE_COLUMNS[1:]:
            table[f"{name}_{band}"] = catalog[f"{name}_{band}"]
    return table


def positions_table(positions: np.ndarray, stamps: StampFormat, brick: str, bx: np.ndarray, by: np.ndarray) -> np.ndarray:
    """Return the source table of a user's own positions: nothing is known of them but ``id``, ``ra`` and ``dec``.

    Parameters
    ----------
    positions : ndarray, shape (N,), `hpc_galaxy.bricks.positions.POSITION_DTYPE`
        Those in this brick.
    bx, by : ndarray, shape (N,)
        The same on the coadd, 0-indexed.

    Returns
    -------
    ndarray, shape (N,), ``stamps.source_dtype``
        What is unknown is NaN; ``edge`` is still False.
    """
    ids = [identifier.decode() for identifier in positions["id"]]
    table = _unknown_table(len(positions), stamps, "user", brick, "", ids)
    table["ra"], table["dec"], table["bx"], table["by"] = positions["ra"], positions["dec"], bx, by
    return table


def truth_table(injected: np.ndarray, stamps: StampFormat, brick: str, rs: str, bx: np.ndarray, by: np.ndarray) -> np.ndarray:
    """Return the source table of injected galaxies that nobody has measured: what they are and where they were put.

    Parameters
    ----------
    injected : structured ndarray, shape (N,)
        As `hpc_galaxy.bricks.simcat.read_injected` returns them.
    stamps, brick, rs : StampFormat, str, str
        See `source_table`.
    bx, by : ndarray, shape (N,)
        Where they were put, pixels, 0-indexed.

    Returns
    -------
    ndarray, shape (N,), ``stamps.source_dtype``
        What is not known is NaN, and ``type`` empty; ``edge`` is still False.
    """
    table = _unknown_table(len(injected), stamps, "fake", brick, rs, fake_ids(injected, brick, rs))
    table["ra"], table["dec"], table["bx"], table["by"] = injected["ra"], injected["dec"], bx, by
    for name, values in catalog_columns(injected, stamps.bands).items():
        table[name] = values
    for band in stamps.bands:
        table[f"mag_{band}"] = magnitudes(table, band)
    table["injected"] = parameter_keys(injected)
    return table


def _unknown_table(count: int, stamps: StampFormat, label: str, brick: str, rs: str, ids: list[str]) -> np.ndarray:
    table = _blank_table(count, stamps, label, brick, rs, ids)
    for name in ("sersic", "shape_r", "shape_e1", "shape_e2", *[f"{name}_{band}" for name in SOURCE_COLUMNS for band in stamps.bands]):
        table[name] = np.nan
    return table


def _blank_table(count: int, stamps: StampFormat, label: str, brick: str, rs: str, ids: list[str]) -> np.ndarray:
    table = np.zeros(count, stamps.source_dtype)
    table["id"] = [identifier.encode() for identifier in ids]
    table["brick"], table["rs"], table["label"] = brick.encode(), rs.encode(), CLASSES[label]
    return table


def real_ids(catalog: np.ndarray) -> list[str]:
    """Return ``release-brickid-objid``, the Legacy Surveys' unique identifier."""
    return [f"{row['release']}-{row['brickid']}-{row['objid']}" for row in catalog]


def fake_ids(injected: np.ndarray, brick: str, rs: str) -> list[str]:
    """Return ``rs-brick-id``: obiwan's ids recur in other realisations and bricks."""
    return [f"{rs}-{brick}-{row['id']}" for row in injected]
