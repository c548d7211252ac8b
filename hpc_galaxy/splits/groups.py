"""Who goes to train, valid and test. Whole sky groups are assigned, never single sources.

The side of a group is a seeded hash of its name: it depends on no other group, so bricks that are added later move nobody.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np

from hpc_galaxy.bricks.geometry import PIXEL_SCALE
from hpc_galaxy.config import Split
from hpc_galaxy.errors import ConfigError, InputError

DROPPED = -1
WORD = 2.0**64


def hash64(seed: int, key: str) -> int:
    """Return an integer in [0, 2^64) that depends on `seed` and `key` alone, on every machine."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{key}".encode()).digest()[:8], "big")


def hash_names(seed: int, purpose: str, names: np.ndarray) -> np.ndarray:
    """Return `hash64` of ``purpose:name`` for each name, shape (N,), uint64: sorting by it is a shuffle that all ranks agree on."""
    start = hashlib.sha256(f"{seed}:{purpose}:".encode())

    def digest(name: bytes) -> bytes:
        one = start.copy()
        one.update(name)
        return one.digest()[:8]

    return np.frombuffer(b"".join(map(digest, names.tolist())), ">u8").astype(np.uint64)


def sides(hashes: np.ndarray, settings: Split) -> np.ndarray:
    """Return the split (its place in `SPLITS`) that each hash of a group's name falls to, shape (N,), int8."""
    fractions = np.array([settings.train, settings.valid, settings.test])
    place = np.searchsorted(np.cumsum(fractions)[:-1], hashes / WORD, side="right")
    # Fractions may sum to 1 - 1e-16: nobody falls to a split that was not asked for.
    return np.minimum(place, np.flatnonzero(fractions)[-1]).astype(np.int8)


def overlap_arcsec(size: int) -> float:
    """Return how far apart two sources have to be for their stamps of `size` pixels to share no pixel, however these lie.

    A diagonal, and one pixel's more: each source lies within half a pixel of its stamp's centre, in x and in y.
    """
    return (size + 1) * 2**0.5 * PIXEL_SCALE


def group_names(table: np.ndarray, settings: Split) -> np.ndarray:
    """Return the name of each source's sky group, shape (N,), S16.

    Parameters
    ----------
    table : ndarray, shape (N,), `hpc_galaxy.shards.schema.StampFormat.source_dtype`
        ``brick``, ``id``, or ``ra`` and ``dec`` in degrees.
    settings : Split
        ``groups`` and ``tile_arcmin``.
    """
    if settings.groups == "brick":
        return table["brick"].astype("S16")
    if settings.groups == "galaxy":
        return np.array([b"g" + hashlib.sha256(name).hexdigest()[:15].encode() for name in table["id"].tolist()], "S16")
    return tile_names(*tile_of(table["ra"], table["dec"], settings.tile_arcmin / 60))


def assign(table: np.ndarray, seed: int, settings: Split) -> tuple[np.ndarray, np.ndarray]:
    """Assign sources to splits by their sky group.

    Returns
    -------
    group : ndarray, shape (N,), uint64
        Hash of the group's name.
    side : ndarray, shape (N,), int8
        Place in `SPLITS`.
    """
    group = _hash_groups(group_names(table, settings), seed)
    return group, sides(group, settings)


def _hash_groups(names: np.ndarray, seed: int) -> np.ndarray:
    unique, inverse = np.unique(names, return_inverse=True)
    return hash_names(seed, "group", unique)[inverse]


def tile_of(ra: np.ndarray, dec: np.ndarray, degrees: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the tile that positions lie in: rows of equal height from the south pole, and in each as many equal tiles as fit.

    A tile is at least `degrees` wide, measured along its edge nearest to a pole, except at the poles themselves.

    Parameters
    ----------
    ra, dec : ndarray, shape (N,)
        Degrees.
    degrees : float
        Height of a row.

    Returns
    -------
    row, column : ndarray, shape (N,), int64
    """
    row = np.minimum((dec + 90) / degrees, np.ceil(180 / degrees) - 1).astype(np.int64)
    edges = np.abs(np.stack([row, row + 1]) * degrees - 90).max(axis=0)
    columns = np.maximum(360 * np.cos(np.radians(np.minimum(edges, 90))) / degrees, 1).astype(np.int64)
    column = np.minimum((ra % 360) / 360 * columns, columns - 1).astype(np.int64)
    return row, column


def tile_names(row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Return the names of tiles, such as ``t5760-7741``, shape (N,), S16."""
    codes, inverse = np.unique(row << 32 | column, return_inverse=True)
    return np.array([f"t{code >> 32}-{code & 0xFFFFFFFF}" for code in codes.tolist()], "S16")[inverse]


def near_other_tiles(table: np.ndarray, side: np.ndarray, seed: int, settings: Split, size: int) -> np.ndarray:
    """Return which sources lie so near to a tile of another split that their stamp could reach into it, shape (N,), bool.

    A stamp whose half diagonal stays inside its own split's tiles shares no pixel with a stamp that does so on the other side. Like
    the assignment this depends on nothing but the source's own position.
    """
    half = (overlap_arcsec(size) + settings.guard_arcsec) / 2 / 3600 * (1 + 1e-6)
    degrees = settings.tile_arcmin / 60
    if degrees <= 2 * half:
        problem = f"is {settings.tile_arcmin:g}, expected more than {120 * half:.2f} for stamps of {size} pixels"
        raise ConfigError("split.tile_arcmin", problem, "raise it, or lower split.guard_arcsec")
    near = np.zeros(len(table), bool)
    # Tiles are larger than the square around a stamp, so that its corners lie in all tiles that it touches.
    for north in (-half, half):
        dec = np.clip(table["dec"] + north, -90, 90)
        reach = np.minimum(half / np.maximum(np.cos(np.radians(dec)), 1e-12), 180)
        for east in (-reach, reach):
            names = tile_names(*tile_of(table["ra"] + east, dec, degrees))
            near |= sides(_hash_groups(names, seed), settings) != side
    return near


def require_positions(table: np.ndarray, settings: Split, where: object) -> None:
    """Refuse sources without a position where the groups are tiles.

    Raises
    ------
    InputError
        Some have none.
    """
    unknown = int((~placed(table)).sum())
    if settings.groups == "tile" and unknown:
        problem = f"{unknown} of {len(table)} sources have no position, expected one for each when split.groups is 'tile'"
        raise InputError(str(where), problem, "set split.groups = 'brick'")


def placed(table: np.ndarray) -> np.ndarray:
    """Return which sources have a position, shape (N,), bool; those of 2018 have none."""
    return np.asarray(np.isfinite(table["ra"]) & np.isfinite(table["dec"]))


def one_side_each(keys: np.ndarray, side: np.ndarray, choose: Callable[[int, Sequence[int]], int]) -> np.ndarray:
    """Return which members of a set have to go, so that all members of one key are on one side, shape (N,), bool.

    Parameters
    ----------
    keys : ndarray, shape (N,), uint64
        What the members share.
    side : ndarray, shape (N,), int
        Where they are.
    choose : callable
        Takes a key and the sides it is on, more than one; returns the side that keeps its members.
    """
    order = np.lexsort((side, keys))
    same_key, other_side = keys[order][1:] == keys[order][:-1], side[order][1:] != side[order][:-1]
    several = np.unique(keys[order][1:][same_key & other_side])
    goes = np.zeros(len(keys), bool)
    first, last = (np.searchsorted(keys, several, how, sorter=order) for how in ("left", "right"))
    for key, start, stop in zip(several.tolist(), first, last, strict=True):
        members = order[start:stop]
        goes[members] = side[members] != choose(key, np.unique(side[members]).tolist())
    return goes


def chosen_side(seed: int, settings: Split) -> Callable[[int, Sequence[int]], int]:
    """Return what chooses the side of a repeated galaxy: a seeded hash, in proportion to the splits' fractions."""
    fractions = (settings.train, settings.valid, settings.test)

    def choose(key: int, present: Sequence[int]) -> int:
        limits = np.cumsum([fractions[side] for side in present])
        place = int(np.searchsorted(limits, hash64(seed, f"repeat:{key}") / WORD * limits[-1], side="right"))
        return present[min(place, len(present) - 1)]

    return choose
