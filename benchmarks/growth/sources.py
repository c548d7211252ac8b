"""Sources: the split's tables, guards, plan and shards on one rank, and rank 0's plan of a survey of 60 million."""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np

from growth.bricks import SCATTERED
from growth.probe import Found
from hpc_galaxy.config import Config, load_config
from hpc_galaxy.files import write_json
from hpc_galaxy.shards.cutout_file import cutout_path, write_cutouts
from hpc_galaxy.shards.schema import LABELS, StampFormat
from hpc_galaxy.splits.plan import make_plan
from hpc_galaxy.splits.sources import gather_sources
from hpc_galaxy.splits.split import cutout_files, split
from hpc_galaxy.world import World

FULL = 60_000_000
EACH = 300  # galaxies of a class in a brick
STAMPS = StampFormat(("g",), ("image", "invvar"), 8)
"""As small as stamps can be, so that tables are what counts."""


def config(root: Path, match: str, shards: str = "shards") -> Config:
    """Return the configuration of a split of the galaxies in `root`."""
    paths = [f"paths.cutouts='{root}/cutouts'", f"paths.shards='{root}/{shards}'"]
    return load_config(None, [*paths, f"split.match='{match}'", "split.train=0.65", "split.valid=0.15", "split.test=0.2"])


def name(number: int) -> str:
    """Return the name of a brick."""
    return f"{number * SCATTERED % 3600:04d}p{number // 3600:03d}"


def grow(root: Path, start: int, stop: int) -> None:
    """Add bricks, whose fake galaxies are 0.2 mag fainter than the real ones, so that there is something to match."""
    for number in range(start, stop):
        for label, value in LABELS.items():
            images = np.ones((EACH, *STAMPS.shape), np.float32)
            write_cutouts(cutout_path(root / "cutouts", label, name(number)), images, table(number, value), {"label": label}, STAMPS)
    items = [{"brick": name(number), **dict.fromkeys(LABELS, EACH)} for number in range(stop)]
    write_json(root / "cutouts" / "stage.json", {"stage": "extract", "fingerprint": "made up"})
    write_json(root / "cutouts" / "ledger.json", {"items": items})


def table(number: int, label: int) -> np.ndarray:
    """Return the source table of a class in a brick: bricks lie a quarter of a degree apart, as those of a survey."""
    rng = np.random.default_rng([number, label])
    found = np.zeros(EACH, STAMPS.source_dtype)
    found["id"] = [f"{label}-{number}-{row}".encode() for row in range(EACH)]
    found["brick"], found["label"] = name(number).encode(), label
    found["ra"], found["dec"] = number % 60 * 0.25 + rng.uniform(0, 0.25, EACH), number // 60 * 0.25 + rng.uniform(0, 0.25, EACH)
    found["mag_g"] = rng.normal(21 + 0.2 * label, 0.8, EACH)
    found["psfsize_g"], found["psfdepth_g"], found["mw_transmission_g"] = rng.normal(1.2, 0.1, EACH), rng.normal(1000, 100, EACH), 0.95
    found["shape_r"] = rng.gamma(4, 0.25, EACH)
    found["shape_e1"], found["shape_e2"] = rng.normal(0, 0.2, (2, EACH))
    found["injected"] = label * (number * EACH + np.arange(EACH) + 1)
    return found


def plan(root: Path, size: int) -> dict[str, float]:
    """Measure pass 1, whose two parts read the tables and decide where every stamp goes."""
    found, settings = Found(), config(root, "nearest")
    files = cutout_files(settings, World())
    sources = found.time("read the tables", lambda: gather_sources(settings, World(), files))
    assert len(sources.table) == size
    found.time("match and plan", lambda: make_plan(settings, World(), files, sources))
    return found.values


def whole(root: Path, size: int) -> dict[str, float]:
    """Measure the whole stage, matched."""
    return _whole(root, "nearest", "the whole split")


def unmatched(root: Path, size: int) -> dict[str, float]:
    """Measure the whole stage without matching."""
    return _whole(root, "none", "the whole split, unmatched")


def _whole(root: Path, match: str, what: str) -> dict[str, float]:
    found, settings = Found(), config(root, match)
    with redirect_stdout(io.StringIO()):
        found.time(what, lambda: split(settings, World(), True))
    return found.values
