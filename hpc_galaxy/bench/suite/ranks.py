"""What takes several ranks of this machine: averaging gradients, and the whole pipeline from end to end."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from hpc_galaxy.bench.measuring import Log, interleaved
from hpc_galaxy.bench.results import read_results
from hpc_galaxy.bench.suite.question import LIMIT, OURS
from hpc_galaxy.launch import said_by_ranks

RANKS = 2
GRADIENTS = 353_786  # of the CNN: 1.415 MB
SURVEY = ("survey.bricks=24", "survey.npix=384", "injection.per_brick=40")
SPLIT = ("extract.selection='all'", "split.match='none'", "split.train=0.6", "split.valid=0.2", "split.test=0.2")
TRAIN = ("train.epochs=1", "train.batch_size=16", "train.threads=1")
STAGES = ("survey", "inject", "extract", "split", "train")


def measure_allreduce(log: Log, root: Path, repeats: int) -> None:
    """Time adding up the gradients of two ranks, against adding as many numbers in memory."""
    path = root / "allreduce.jsonl"
    said_by_ranks(RANKS, ["-m", "hpc_galaxy", "bench", "allreduce", "--json", str(path)])
    theirs = next(one for one in read_results(path).measurements if one.amount == 4 * GRADIENTS)
    one, other = np.zeros((2, GRADIENTS), np.float32)
    additions = interleaved({LIMIT: lambda: np.add(one, other, out=one)}, len(theirs.seconds), lambda: None, warm_up=3)
    log.table("allreduce", "MB", {LIMIT: additions[LIMIT], OURS: theirs.seconds}, dict.fromkeys((LIMIT, OURS), 4 * GRADIENTS / 1e6))


def measure_end_to_end(log: Log, root: Path, repeats: int) -> None:
    """Time all stages from the survey to the trained network, each a job of its own, with the start of Python, MPI and torch."""
    names = ("survey", "obiwan", "cutouts", "shards", "run")
    settings = [*(f"paths.{name}='{root / name}'" for name in names), *SURVEY, *SPLIT, *TRAIN]
    overrides = [f"--set={setting}" for setting in settings]
    start = time.perf_counter()
    said = {stage: said_by_ranks(RANKS, ["-m", "hpc_galaxy", stage, *overrides]) for stage in STAGES}
    seconds = time.perf_counter() - start
    galaxies = int(said["extract"].split(" cutouts in ")[0].split()[-1].replace(",", ""))
    log.table("end to end", "galaxies", {OURS: [seconds]}, {OURS: galaxies})
