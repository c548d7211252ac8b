"""Rank 0 of a large split: the real plan of up to 60 million sources, with the other ranks made up."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from growth.bricks import name
from growth.probe import Crowd, Found
from growth.sources import STAMPS, config, table
from hpc_galaxy.files import PathList, write_json
from hpc_galaxy.shards.cutout_file import cutout_path, write_cutouts
from hpc_galaxy.shards.schema import LABELS
from hpc_galaxy.splits.journal import plan_digest
from hpc_galaxy.splits.plan import BLOCK_BRICKS, MEMBER, Arranged, make_plan, mixing_blocks
from hpc_galaxy.splits.sources import gather_sources

EACH = 150  # sources of a class in a brick: 60 million in 200,000 bricks
A_RANK = 14_648  # sources; 4,096 ranks have 60 million


@dataclass(frozen=True)
class Survey(Crowd):
    """Rank 0 of a split. What other ranks have is what it has itself, in other groups and files, with a little scatter.

    Attributes
    ----------
    blocks : int
        Blocks of bricks in the survey: so many ranks arrange one each, rank 0 among them, and the others have nothing to arrange.
    """

    blocks: int = 1
    files: int = field(default=0)

    def gather(self, value: Any) -> list[Any]:
        """Return what every rank would send."""
        return replace(self, other=self._like)._all(value)

    def _all(self, value: Any) -> list[Any]:
        return Crowd.gather(self, value)

    def exchange(self, parts: Any) -> np.ndarray:
        """Return as much as was sent; of the members of blocks, a whole block."""
        own = np.concatenate(parts)
        return self._block(own) if own.dtype == MEMBER else own

    def _block(self, own: np.ndarray) -> np.ndarray:
        count = 2 * EACH * min(BLOCK_BRICKS, self.files // 2)
        copies = -(-count // max(1, len(own)))
        members = np.concatenate([self._moved(own, copy) for copy in range(copies)])[:count]
        members["block"] = 0
        return members

    def _like(self, value: Any, rank: int) -> Any:
        if isinstance(value, list) and value and isinstance(value[0], Arranged):
            if rank >= self.blocks:
                return []
            return [replace(part, block=rank, full=self._moved(part.full, rank), rest=self._moved(part.rest, rank)) for part in value]
        if isinstance(value, np.ndarray) and value.dtype.names:
            return self._moved(value, rank)
        if isinstance(value, np.ndarray) and value.dtype == np.float32:
            return value * np.random.default_rng(rank).normal(1, 0.01, value.shape).astype(np.float32)
        return value

    def _moved(self, rows: np.ndarray, by: int) -> np.ndarray:
        """Return rows in other files, and of other groups if they have any; the seeded hashes stay as evenly spread as they are."""
        moved, names = rows.copy(), rows.dtype.names or ()
        if "file" in names:
            moved["file"] = (rows["file"] + 7 * by) % self.files
            moved["row"] += by * 10_000
        if "group" in names:
            moved["group"] += np.uint64(by * 0x9E3779B97F4A7C15 % 2**64)
        return moved


def grow(root: Path, size: int) -> PathList:
    """Write the files that rank 0 reads of a survey of `size` sources; return the names of all files."""
    bricks, ranks = size // (2 * EACH), ranks_of(size)
    items = [(label, number) for label in sorted(LABELS) for number in range(bricks)]
    for label, number in items[::ranks]:
        path = cutout_path(root / "cutouts", label, name(number))
        if not path.exists():
            images, rows = np.ones((EACH, *STAMPS.shape), np.float32), table(number, LABELS[label])[:EACH]
            write_cutouts(path, images, rows, {"label": label}, STAMPS)
    write_json(root / "cutouts" / "stage.json", {"stage": "extract", "fingerprint": "made up"})
    return PathList(root, (cutout_path(root / "cutouts", label, name(number)) for label, number in items))


def ranks_of(size: int) -> int:
    """Return how many ranks split so many sources."""
    return max(2, size // A_RANK)


def rank_0(root: Path, size: int) -> dict[str, float]:
    """Measure rank 0's pass 1."""
    found, settings, files = Found(), config(root, "nearest"), grow(root, size)
    blocks = int(mixing_blocks(files, settings.seed).max()) + 1
    world = Survey(size=ranks_of(size), blocks=min(blocks, ranks_of(size)), files=len(files))
    sources = found.time("rank 0: its tables", lambda: gather_sources(settings, world, files))
    plan = found.time("rank 0: the plan", lambda: make_plan(settings, world, files, sources))
    found.values["examples in the plan"] = sum(map(len, plan.places.values()))
    found.time("rank 0: its digest", lambda: plan_digest(plan.places, 0))
    return found.values
