"""Bricks: what the extraction and the split do before the first brick is cut, and a job that finds everything done."""

from __future__ import annotations

import io
import os
import pickle
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from growth.probe import Crowd, Found, counted
from hpc_galaxy.bricks.layout import coadd_path, obiwan_path, tractor_path
from hpc_galaxy.config import Config, load_config
from hpc_galaxy.cutouts.brick import Extractor, Work
from hpc_galaxy.cutouts.extract import costs, cut_bricks, list_work
from hpc_galaxy.ledger import Ledger, read_ledger
from hpc_galaxy.schedule import deal
from hpc_galaxy.shards.cutout_file import cutout_path, write_cutouts
from hpc_galaxy.shards.schema import CHANNELS, LABELS, StampFormat
from hpc_galaxy.splits.split import cutout_files
from hpc_galaxy.tracing.spans import Stopwatch
from hpc_galaxy.world import World

FULL = 200_000
RANKS = 4096
FEW = 50  # bricks, of which look-ups are counted
SCATTERED = 7919  # a prime: neighbours in the list lie in different folders <AAA>, as those of a survey do
SMALLEST = StampFormat(("g",), ("image", "invvar"), 8)
CUTS = ("nearest_to_injected", "on_coadd", "isolated", "not_star", "fluxes_measured", "not_comp_or_dev", "elg_colors", "faint_limit")
CUTS = (*CUTS, "bright_limit", "half_light_radius")


def name(number: int) -> str:
    """Return the name of a brick."""
    return f"{number * SCATTERED % 3600:04d}p{number // 3600:03d}"


def config(root: Path) -> Config:
    """Return the configuration of all stages in `root`."""
    return load_config(None, [f"paths.obiwan='{root}/obiwan'", f"paths.cutouts='{root}/cutouts'"])


def grow(root: Path, start: int, stop: int) -> None:
    """Add bricks to obiwan's tree, and to the extraction's: empty files, of which the start of a job only sees that they are there."""
    for number in range(start, stop):
        brick = name(number)
        paths = [tractor_path(root / "obiwan", brick, "rs0"), *(cutout_path(root / "cutouts", label, brick) for label in LABELS)]
        obiwan_path(root / "obiwan", brick, "rs0", "simcat-elg").parent.mkdir(parents=True, exist_ok=True)
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()


def entry(brick: str, number: int) -> dict[str, Any]:
    """Return a line of the ledger as long as real ones are."""
    flows = {label: {"catalog": 5000 + number % 1000, **dict.fromkeys(CUTS, number % 977)} for label in ("real", "fake")}
    return {"brick": brick, **{key: value for label, flow in flows.items() for key, value in ((label, 300), (f"{label}_cut_flow", flow))}}


def start(root: Path, size: int) -> dict[str, float]:
    """Measure what comes before the first brick of an extraction, and the ledger after its last one."""
    found, settings = Found(), config(root)
    work = found.time("list the work", lambda: list_work(settings, World()))
    assert len(work) == size, len(work)
    with counted(os, "stat", "scandir") as calls:
        list_work(settings, World())
        found.values["look-ups, listing"] = sum(calls.values())
    bricks = [item.brick for item in work]
    with counted(os, "stat", "scandir") as calls:
        costs(settings, World(), bricks[:FEW])
    found.values["look-ups a brick, weights"] = sum(calls.values()) / FEW
    weights = found.time("weigh it, on one rank", lambda: costs(settings, World(), bricks))
    with redirect_stdout(io.StringIO()):
        found.time("deal it out", lambda: sum(1 for _ in deal(World(), "extract", "bricks", work, Stopwatch(), weights)))
    return found.values


def receipt(root: Path, size: int) -> dict[str, float]:
    """Measure the ledger: written by rank 0 of `RANKS`, read by the split."""
    found, settings = Found(), config(root)

    def of_rank(rank: int) -> list[dict[str, Any]]:
        return [entry(name(number), number) for number in range(rank, size, RANKS)]

    crowd = Crowd(size=RANKS, other=lambda _, rank: of_rank(rank))
    ledger = Ledger(settings.paths.cutouts, "extract", "made up")
    with ledger.claim(settings, World(), False, []):
        found.time("close the ledger", lambda: ledger.close(crowd, of_rank(0)))
    found.values["ledger.json [MB]"] = (settings.paths.cutouts / "ledger.json").stat().st_size / 1e6
    return found.values


def reading(root: Path, size: int) -> dict[str, float]:
    """Measure what the split does first: read the ledger, and look for the files that it names."""
    found, settings = Found(), config(root)
    found.time("read the ledger", lambda: read_ledger(settings.paths.cutouts, "extract"))
    files = found.time("list the cutout files", lambda: cutout_files(settings, World()))
    assert len(files) == len(LABELS) * size
    found.values["names of its files, on every rank [MB]"] = len(pickle.dumps(files)) / 1e6
    return found.values


def finish(root: Path, start: int, stop: int) -> None:
    """Add bricks that are done: empty inputs, and cutout files of a stamp that say what they were made from."""
    for number in range(start, stop):
        brick = name(number)
        for path in inputs(root / "obiwan", brick):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        made_from = [{"path": str(path.relative_to(root / "obiwan")), "bytes": 0} for path in inputs(root / "obiwan", brick)]
        attributes = {"brick": brick, "inputs": made_from, "cut_flow": {"catalog": 1, **dict.fromkeys(CUTS, 0)}}
        for label in LABELS:
            images, table = np.zeros((1, *SMALLEST.shape), np.float32), np.zeros(1, SMALLEST.source_dtype)
            write_cutouts(cutout_path(root / "cutouts", label, brick), images, table, attributes, SMALLEST)


def inputs(tree: Path, brick: str) -> list[Path]:
    """Return all files that a brick is cut from."""
    coadds = [coadd_path(tree, brick, *channel.split("_"), "rs0") for channel in CHANNELS]
    tables = [obiwan_path(tree, brick, "rs0", table) for table in ("simcat-elg", "sim_ids_added")]
    return [tractor_path(tree, brick, "rs0"), *tables, *coadds]


def again(root: Path, size: int) -> dict[str, float]:
    """Measure a job that finds all bricks done: the look at each of them, as it is dealt out."""
    found, settings = Found(), config(root)
    work = [Work(name(number)) for number in range(size)]
    with counted(os, "stat", "scandir") as calls, counted(h5py.h5f, "open") as opened:
        cut_bricks(Extractor(settings, "made up", Stopwatch()), work[:FEW])
    found.values["look-ups a brick, done already"] = sum(calls.values()) / min(FEW, size)
    found.values["files opened a brick, done already"] = opened["open"] / min(FEW, size)
    entries = found.time("find them done, on one rank", lambda: cut_bricks(Extractor(settings, "made up", Stopwatch()), work))
    assert all(one.get("real") == 1 for one in entries), next(one for one in entries if one.get("real") != 1)
    return found.values
