"""Who goes to train, valid and test. Whole sky groups (bricks) are assigned, never single sources.

The side of a group is a seeded hash of its name: it depends on no other group, so bricks that are added later move nobody.
"""

from __future__ import annotations

import hashlib

import numpy as np
from scipy.spatial import cKDTree

from hpc_galaxy.bricks.geometry import PIXEL_SCALE, chord, unit_vectors
from hpc_galaxy.config import Split
from hpc_galaxy.errors import InputError
from hpc_galaxy.shards.manifest import SPLITS
from hpc_galaxy.shards.schema import DEFAULT, LABELS

DROPPED = -1


def hash_uniform(seed: int, key: str) -> float:
    """Return a number in [0, 1) that depends on `seed` and `key` alone, on every machine."""
    digest = hashlib.sha256(f"{seed}:{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def assign_groups(bricks: list[str], seed: int, settings: Split) -> dict[str, int]:
    """Return the number of the split (its place in `SPLITS`) of each brick."""
    limits = np.cumsum([settings.train, settings.valid])
    return {brick: int(np.searchsorted(limits, hash_uniform(seed, f"group:{brick}"), side="right")) for brick in bricks}


def overlap_arcsec(size: int) -> float:
    """Return how far apart the centres of two stamps of `size` pixels have to be to share no pixel, however they lie: a diagonal."""
    return size * 2**0.5 * PIXEL_SCALE


def assign_examples(table: np.ndarray, seed: int, settings: Split, size: int = DEFAULT.size) -> tuple[np.ndarray, dict[str, int]]:
    """Assign every source, and drop those that would leak or unbalance.

    Parameters
    ----------
    table : ndarray, shape (N,), `hpc_galaxy.shards.schema.StampFormat.source_dtype`
        All sources, real and fake.
    seed, settings : int, Split
        The hash's seed; fractions and balance.
    size : int
        Of the stamps, pixels.

    Returns
    -------
    split : ndarray, shape (N,), int
        Place in `SPLITS`, or `DROPPED`.
    dropped : dict of str to int
        How many sources were dropped, by reason.

    Raises
    ------
    InputError
        A split that was asked for has no source of one of the classes.
    """
    names, inverse = np.unique(table["brick"], return_inverse=True)
    groups = assign_groups([name.decode() for name in names], seed, settings)
    split = np.array([groups[name.decode()] for name in names], dtype=np.int64)[inverse]
    before = len(split)
    drop_overlaps(table, split, size)
    overlapping = int((split == DROPPED).sum())
    if settings.balance:
        drop_majority(table, split, seed)
    _require_all(table, split, settings)
    kept = int((split != DROPPED).sum())
    return split, {"overlap": overlapping, "balance": before - overlapping - kept}


def placed(table: np.ndarray) -> np.ndarray:
    """Return which sources have a position, shape (N,), bool; those of 2018 have none."""
    return np.asarray(np.isfinite(table["ra"]) & np.isfinite(table["dec"]))


def drop_overlaps(table: np.ndarray, split: np.ndarray, size: int = DEFAULT.size) -> None:
    """Drop, in place, what could share a pixel with an earlier split: valid near train, test near either.

    Coadds of neighbouring bricks show the same strip of sky. Sources without a position stay.
    """
    points, known = unit_vectors(table["ra"], table["dec"]), placed(table)
    for number in range(1, len(SPLITS)):
        earlier = (split >= 0) & (split < number) & known
        here = np.flatnonzero((split == number) & known)
        if earlier.any() and len(here):
            distance, _ = cKDTree(points[earlier]).query(points[here], distance_upper_bound=chord(overlap_arcsec(size)))
            split[here[np.isfinite(distance)]] = DROPPED


def drop_majority(table: np.ndarray, split: np.ndarray, seed: int) -> None:
    """Cut, in place, the larger class of each split down to the size of the smaller; a hash of the id chooses."""
    for number in range(len(SPLITS)):
        rows = {label: np.flatnonzero((split == number) & (table["label"] == label)) for label in LABELS.values()}
        size = min(len(part) for part in rows.values())
        for part in rows.values():
            if len(part) > size:
                order = np.argsort(hash_order(table["id"][part], seed, "balance"), kind="stable")
                split[part[order[size:]]] = DROPPED


def hash_order(ids: np.ndarray, seed: int, purpose: str) -> np.ndarray:
    """Return a number in [0, 1) for each id, shape (N,): sorting by it is a shuffle that any number of ranks repeats."""
    return np.array([hash_uniform(seed, f"{purpose}:{identifier.decode()}") for identifier in ids])


def _require_all(table: np.ndarray, split: np.ndarray, settings: Split) -> None:
    for number, name in enumerate(SPLITS):
        counts = {label: int(((split == number) & (table["label"] == value)).sum()) for label, value in LABELS.items()}
        if getattr(settings, name) > 0 and min(counts.values()) == 0:
            bricks = len(np.unique(table["brick"]))
            raise InputError(
                f"split '{name}'",
                f"got {counts} of {len(table)} sources in {bricks} bricks, expected some of each class",
                f"use more bricks, a larger split.{name}, or another seed",
            )
