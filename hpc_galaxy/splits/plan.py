"""The plan of a split: which stamps go into which shard, in which order. It is the same at any number of ranks.

Bricks are dealt, by a seeded hash, into blocks of `BLOCK_BRICKS`. Within a block everything is matched and shuffled; full shards are
filled from one block each, and what is left over of all blocks fills the last ones. So a shard mixes the bricks of a whole block, a
thousand, while nobody has to open more files than a block has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hpc_galaxy.config import Config
from hpc_galaxy.errors import InputError
from hpc_galaxy.shards.layouts import brick_of
from hpc_galaxy.shards.manifest import SHARD_SIZE, SPLITS
from hpc_galaxy.shards.schema import LABELS
from hpc_galaxy.splits.groups import hash_names, overlap_arcsec
from hpc_galaxy.splits.matching import match_nearest
from hpc_galaxy.splits.pairing import Pairing, fit_pairing
from hpc_galaxy.splits.sources import PLACE, Sources
from hpc_galaxy.world import World

BLOCK_BRICKS = 1024  # twice as many as a shard has examples
MEMBER = np.dtype([("block", "<u4"), ("order", "<u8"), ("group", "<u8"), *PLACE.descr, ("side", "i1"), ("logit", "<f8")])
"""A source as the rank sees it that arranges its block."""
FEW_GROUPS = 5  # fewer say little about the scatter between them


@dataclass(frozen=True)
class Plan:
    """What goes where, on rank 0; empty elsewhere.

    Attributes
    ----------
    places : dict of str to ndarray, shape (n,), `PLACE`
        Each split's stamps in the order of its shards.
    report : dict
        What the split achieved, ready for JSON.
    """

    places: dict[str, np.ndarray] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)


@dataclass
class Arranged:
    """One split's stamps of one block.

    Attributes
    ----------
    full : ndarray, shape (512 k,), `PLACE`
        What fills whole shards, in order.
    rest : ndarray, shape (fewer than 512,), `MEMBER`
        What is left over.
    counts : dict of str to int
        How many of each class.
    groups : ndarray, shape (k,), uint64
        Hashes of the sky groups that they are of.
    dropped : int
        How many found no partner, or were one too many.
    """

    side: int
    block: int
    full: np.ndarray
    rest: np.ndarray
    counts: dict[str, int]
    groups: np.ndarray
    dropped: int


def make_plan(config: Config, world: World, files: Sequence[Path], sources: Sources) -> Plan:
    """Match, balance and shuffle. Collective.

    Raises
    ------
    InputError
        A split that was asked for has no source of one of the classes.
    """
    pairing = fit_pairing(config, world, sources)
    members = _members(sources, pairing, mixing_blocks(files, config.seed))
    mine = world.exchange([members[members["block"] % world.size == rank] for rank in range(world.size)])
    arranged = world.gather(arrange(config, mine, pairing.width))
    counts, dropped = world.sum(np.array([len(sources.table), sources.unplaced])), _sum_dropped(world, sources)
    if not world.is_root:
        return Plan()
    parts = sorted((part for rank in arranged for part in rank), key=lambda part: (part.side, part.block))
    places = {name: _in_order([part for part in parts if part.side == number]) for number, name in enumerate(SPLITS)}
    report = _describe(config, parts, counts, dropped)
    _require_all(config, report, sources)
    if config.split.match != "none":
        report["matching"] = pairing.balance(config, sources.columns, places.values())
    return Plan(places, report)


def mixing_blocks(files: Sequence[Path], seed: int) -> np.ndarray:
    """Return the number of the block that each file belongs to, shape (files,)."""
    bricks, inverse = np.unique(np.array([brick_of(path).encode() for path in files]), return_inverse=True)
    block = np.empty(len(bricks), np.uint32)
    block[np.argsort(hash_names(seed, "block", bricks), kind="stable")] = np.arange(len(bricks)) // BLOCK_BRICKS
    return block[inverse]


def _members(sources: Sources, pairing: Pairing, blocks: np.ndarray) -> np.ndarray:
    kept = sources.kept()
    table = sources.table[kept]
    members = np.empty(len(table), MEMBER)
    for name in ("order", "group", "file", "row", "label", "side"):
        members[name] = table[name]
    members["block"], members["logit"] = blocks[table["file"]], pairing.logit(sources.features[kept], table)
    return members


def arrange(config: Config, members: np.ndarray, width: float) -> list[Arranged]:
    """Arrange blocks, all of whose sources are given: match or balance the classes of each split, and shuffle.

    Parameters
    ----------
    members : ndarray, shape (n,), `MEMBER`
        In any order.
    width : float
        The caliper, in units of the logit.
    """
    members = members[np.lexsort((members["row"], members["file"], members["order"], members["side"], members["block"]))]
    borders = np.flatnonzero(np.diff(members["block"].astype(np.int64) * len(SPLITS) + members["side"])) + 1
    return [_arrange(config, part, width) for part in np.split(members, borders) if len(part)]


def _arrange(config: Config, part: np.ndarray, width: float) -> Arranged:
    real, fake = (np.flatnonzero(part["label"] == value) for value in (LABELS["real"], LABELS["fake"]))
    if config.split.match == "nearest":
        pairs = match_nearest(part["logit"][real], part["logit"][fake], width)
        kept = part[np.sort(np.concatenate([real[pairs[:, 0]], fake[pairs[:, 1]]]))]
    elif config.split.balance:
        size = min(len(real), len(fake))
        kept = part[np.sort(np.concatenate([real[:size], fake[:size]]))]
    else:
        kept = part
    full = len(kept) - len(kept) % SHARD_SIZE
    counts = {label: int((kept["label"] == value).sum()) for label, value in LABELS.items()}
    side, block = int(part["side"][0]), int(part["block"][0])
    return Arranged(side, block, _places(kept[:full]), kept[full:], counts, np.unique(kept["group"]), len(part) - len(kept))


def _places(members: np.ndarray) -> np.ndarray:
    places = np.empty(len(members), PLACE)
    for name in PLACE.names or ():
        places[name] = members[name]
    return places


def _in_order(parts: Sequence[Arranged]) -> np.ndarray:
    """Return the places of one split: full shards block by block, then what is left over of all blocks, shuffled."""
    rest = np.concatenate([np.empty(0, MEMBER), *[part.rest for part in parts]])
    rest = rest[np.lexsort((rest["row"], rest["file"], rest["order"]))]
    return np.concatenate([np.empty(0, PLACE), *[part.full for part in parts], _places(rest)])


def _sum_dropped(world: World, sources: Sources) -> dict[str, int]:
    reasons = ("overlap", "repeat")
    total = world.sum(np.array([sources.dropped.get(reason, 0) for reason in reasons]))
    return dict(zip(reasons, total.tolist(), strict=True))


def _describe(config: Config, parts: Sequence[Arranged], counts: np.ndarray, dropped: dict[str, int]) -> dict[str, Any]:
    settings = config.split
    groups = [len({group for part in parts if part.side == number for group in part.groups.tolist()}) for number in range(len(SPLITS))]
    kinds = {"kind": settings.groups, "guard_arcsec": settings.guard_arcsec, "count": sum(groups)}
    if settings.groups == "tile":
        kinds["tile_arcmin"] = settings.tile_arcmin
    reason = "match" if settings.match != "none" else "balance"
    report: dict[str, Any] = {"sources": int(counts[0]), "without_position": int(counts[1]), "groups": kinds, "control": settings.control}
    report["dropped"] = {**dropped, reason: sum(part.dropped for part in parts)}
    for number, name in enumerate(SPLITS):
        here = [part for part in parts if part.side == number]
        classes = {label: sum(part.counts[label] for part in here) for label in LABELS}
        share = round(groups[number] / max(1, sum(groups)), 4)
        asked = getattr(settings, name)
        report[name] = {"examples": sum(classes.values()), "groups": groups[number], "share": share, "asked": asked, **classes}
    return report


def _require_all(config: Config, report: dict[str, Any], sources: Sources) -> None:
    """Refuse a survey of too few groups, with the numbers, and say which tiles would do."""
    for name in SPLITS:
        counts = {label: report[name][label] for label in LABELS}
        if getattr(config.split, name) > 0 and min(counts.values()) == 0:
            groups, kind = report["groups"]["count"], report["groups"]["kind"].replace("galaxy", "galaxie")
            problem = (
                f"got {counts} of {report['sources']} sources, in {report[name]['groups']} of {groups} {kind}s, expected some of each class"
            )
            raise InputError(
                f"split '{name}'", problem, f"{_smaller_tiles(config, sources)}use more bricks, a larger split.{name}, or another seed"
            )


def _smaller_tiles(config: Config, sources: Sources) -> str:
    """Return the advice to use tiles so small that there are about forty, where stamps leave room for that."""
    arcmin = np.floor(10 * 60 * (sources.area / 2 / 40) ** 0.5) / 10  # each brick has a box of real and one of fake galaxies
    least = 8 * overlap_arcsec(sources.stamps.size) / 60
    largest = config.split.tile_arcmin if config.split.groups == "tile" else 15.0
    return f"set split.groups = 'tile' and split.tile_arcmin = {arcmin:g}, " if max(1.0, least) <= arcmin < largest else ""
