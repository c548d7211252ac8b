"""Negative controls: labels that say nothing of what the galaxies are, so that whoever tells the classes apart has found a leak."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hpc_galaxy.config import Config
from hpc_galaxy.shards.layouts import brick_of
from hpc_galaxy.shards.schema import LABELS
from hpc_galaxy.splits.groups import hash_names
from hpc_galaxy.splits.sources import Sources, codes, exchange
from hpc_galaxy.world import World

READ_BY = {"none": tuple(LABELS), "real_real": ("real",), "shuffled": tuple(LABELS)}
"""The classes of cutout files that each ``split.control`` needs."""


def relabel(config: Config, world: World, files: Sequence[Path], sources: Sources) -> None:
    """Give the sources, in place, the labels that ``split.control`` asks for. Collective.

    They depend on the seed, the ids and, of ``shuffled``, on what else the brick has in the same split; not on the number of ranks.

    Parameters
    ----------
    config, world : Config, World
        The control, and the seed behind it.
    files : sequence of Path
        All cutout files.
    sources : Sources
        Of this rank's files, after all that would leak was dropped.
    """
    if config.split.control == "none":
        return
    # Not the order itself: a class would fill the first shards.
    keys = hash_names(config.seed, "control", sources.table["order"].astype(">u8").view("S8"))
    if config.split.control == "real_real":
        sources.table["label"] = np.where(keys >> np.uint64(63), LABELS["fake"], LABELS["real"])
    else:
        _shuffle(world, files, sources.table, sources.kept(), keys)
    # Each class has stamps out of all files now.
    names = {name for known in sources.facts.values() for name in known}
    both = {name: _union([known.get(name, []) for known in sources.facts.values()]) for name in sorted(names)}
    sources.facts.update({label: dict(both) for label in LABELS})


def _shuffle(world: World, files: Sequence[Path], table: np.ndarray, kept: np.ndarray, keys: np.ndarray) -> None:
    """Permute the labels of what is kept, brick by brick and split by split: each keeps its numbers of both classes. Collective."""
    _, bricks = np.unique(np.array([brick_of(path).encode() for path in files]), return_inverse=True)
    mine = np.empty(
        int(kept.sum()), [("brick", "<u8"), ("key", "<u8"), *((name, table.dtype[name]) for name in ("file", "row", "label", "side"))]
    )
    for name in ("file", "row", "label", "side"):
        mine[name] = table[name][kept]
    mine["brick"], mine["key"] = bricks[mine["file"]], keys[kept]
    # The files of a brick may be those of several ranks.
    met = exchange(world, mine, mine["brick"])
    at_random = np.lexsort((met["row"], met["file"], met["key"], met["side"], met["brick"]))
    by_class = np.lexsort((met["label"], met["side"], met["brick"]))
    met["label"][at_random] = met["label"][by_class]
    back = exchange(world, met[["file", "row", "label"]], met["file"])  # files are shared out in turn
    table["label"][np.searchsorted(codes(table), codes(back))] = back["label"]


def _union(lists: Sequence[list[object]]) -> list[object]:
    """Return all values of some lists, each once, in the order of their text."""
    return [value for _, value in sorted({str(value): value for values in lists for value in values}.items())]
