"""Extraction: cutouts a second, against decoding, copying and writing the same bytes."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from hpc_galaxy.bench.measuring import Log, interleaved
from hpc_galaxy.bench.suite.bricks import NPIX, SETTINGS, Brick, aliases, brick_name
from hpc_galaxy.bench.suite.question import LIMIT, OURS
from hpc_galaxy.bricks.images import read_plane
from hpc_galaxy.config import Config, load_config
from hpc_galaxy.cutouts.brick import Extractor, Work
from hpc_galaxy.cutouts.extract import cut_bricks
from hpc_galaxy.cutouts.stamps import boxes
from hpc_galaxy.shards.schema import CHANNELS, STAMP_SIZE
from hpc_galaxy.tracing.spans import Stopwatch

LIST = 4  # bricks that our side cuts in a row
SOURCES = 300  # of a brick of the Legacy Surveys that pass the colour cuts


class Sides:
    """What is compared, with the memory of the planes: a job touches it for the first time once in thousands of bricks.

    Parameters
    ----------
    brick : Brick
        With its catalog of `count` sources, known under as many further names as `LIST`.
    """

    def __init__(self, brick: Brick, count: int) -> None:
        self.brick = brick
        self._ours: dict[str, np.ndarray] = {}
        self._limit: dict[str, np.ndarray] = {}
        x, y = np.random.default_rng(count).uniform(STAMP_SIZE, brick.npix - STAMP_SIZE, (2, count))
        self._outlines = boxes(x, y, STAMP_SIZE)
        self._stamps = np.zeros((count, STAMP_SIZE, STAMP_SIZE, len(CHANNELS)), np.float32)

    def ours(self, **settings: str) -> None:
        """Cut `LIST` bricks as the stage does: catalog, cuts, coadds with their checksums, stamps, checksummed files flushed to disk."""
        extractor = Extractor(config(self.brick, **settings), "benchmark", Stopwatch(), self._ours)
        entries = cut_bricks(extractor, [Work(name) for name in aliases(LIST)])
        assert all("error" not in entry for entry in entries), entries

    def limit(self, durable: bool = False) -> None:
        """Do what nobody can avoid: decode the tiles that are needed, copy the stamps' bytes once, write them once."""
        shape = (self.brick.npix, self.brick.npix)
        for path in self.brick.coadds:
            buffer = self._limit.setdefault(path.name, np.empty(shape, np.float32))
            read_plane(path, self._outlines, buffer=buffer, checksum=False)
        write_raw(self.brick.out / "stamps.raw", self._stamps.copy(), durable)


def write_raw(path: Path, content: np.ndarray, durable: bool) -> None:
    """Write bytes, and wait until they are on the disk if they have to be `durable`."""
    with path.open("wb") as file:
        file.write(content.data)
        if durable:
            file.flush()
            os.fsync(file.fileno())


def config(brick: Brick, **settings: str) -> Config:
    """Return the configuration of the stage."""
    overrides = [f"extract.{name}={value}" for name, value in (SETTINGS | settings).items()]
    return load_config(None, [f"paths.survey='{brick.root}'", f"paths.cutouts='{brick.out}/cutouts'", *overrides])


def measure(log: Log, root: Path, repeats: int) -> None:
    """Time extraction from one full-size brick."""
    brick = Brick(root, brick_name(), NPIX)
    brick.make_pixels()
    brick.write_catalog(SOURCES)
    brick.link(root, aliases(LIST))
    sides = Sides(brick, SOURCES)
    seconds = interleaved({LIMIT: sides.limit, OURS: sides.ours}, repeats, brick.clear, warm_up=1)
    log.table("extract", "cutouts", seconds, {LIMIT: SOURCES, OURS: LIST * SOURCES})
