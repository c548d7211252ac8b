"""The stages before training: the same files from any number of ranks, and no rank left hanging when another fails."""

from __future__ import annotations

import filecmp
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).parent
STAGES = ("survey", "inject", "extract", "split")
CONFIG = """
seed = 3
[survey]
bricks = 8
npix = 320
galaxies_per_arcmin2 = 30.0
[injection]
per_brick = 30
[extract]
selection = "galaxies"
[split]
train = 0.4
valid = 0.3
test = 0.3
"""

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def one_rank(mpirun: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_stages(mpirun, tmp_path_factory.mktemp("one"), 1)


def run_stages(mpirun: Run, root: Path, ranks: int) -> Path:
    (root / "run.toml").write_text(CONFIG)
    done = mpirun(ranks, [str(HERE / "_stages_program.py"), str(root / "run.toml"), *STAGES])
    assert done.returncode == 0, done.stderr
    assert all(f"rank {rank} of {ranks}" in done.stdout for rank in range(ranks))
    return root


def files(root: Path) -> set[Path]:
    # config.toml holds the paths of the run, which differ.
    return {path.relative_to(root) for path in root.rglob("*") if path.is_file() and path.suffix != ".toml"}


def test_one_rank_and_three_write_the_same_bytes(mpirun: Run, one_rank: Path, tmp_path: Path) -> None:
    three = run_stages(mpirun, tmp_path, 3)
    names = files(one_rank)
    assert names == files(three)
    kinds = {"".join(name.suffixes[-2:]) for name in names}
    assert {".fits.fz", ".fits", ".fits.gz", ".h5", ".npy", ".json"} <= kinds
    different = [name for name in names if not filecmp.cmp(one_rank / name, three / name, shallow=False)]
    assert different == []


# What rank 1 fails in, while rank 0 goes on to where it waits for it.
FAULTS = {
    "survey": "hpc_galaxy.bricks.survey.render",
    "inject": "hpc_galaxy.injection.inject.draw_galaxies",
    "extract": "hpc_galaxy.cutouts.extract.cut_stamps",
    "split": "hpc_galaxy.splits.split.write_shard",
}

FAIL_ON_RANK_1 = """
import importlib, sys, time
import numpy  # before the clock starts
from hpc_galaxy import cli
from hpc_galaxy.world import detect

target = sys.argv.pop(1)
if detect().rank == 1:
    def fail(*arguments, **options):
        print(f"RAISED AT {time.time()}", flush=True)
        raise RuntimeError("rank 1 was told to fail")

    module, name = target.rsplit(".", 1)
    setattr(importlib.import_module(module), name, fail)
cli.main()
"""


@pytest.mark.parametrize("stage", STAGES)
def test_an_exception_on_one_rank_ends_the_job_at_once(mpirun: Run, one_rank: Path, tmp_path: Path, stage: str) -> None:
    elsewhere = [f"paths.{stage_output(stage)}='{tmp_path}/out'"]
    arguments = [stage, "-c", str(one_rank / "run.toml"), *[part for key in elsewhere for part in ("--set", key)]]
    done = mpirun(2, ["-c", FAIL_ON_RANK_1, FAULTS[stage], *arguments], timeout=60)
    ended = time.time()
    assert done.returncode != 0
    raised = [float(line.split()[-1]) for line in done.stdout.splitlines() if line.startswith("RAISED AT")]
    assert raised, done.stderr
    assert ended - raised[0] < 10
    assert "rank 1: Traceback" in done.stderr
    assert "rank 1: RuntimeError: rank 1 was told to fail" in done.stderr
    assert not list((tmp_path / "out").glob("ledger.json"))


def stage_output(stage: str) -> str:
    return {"survey": "survey", "inject": "obiwan", "extract": "cutouts", "split": "shards"}[stage]


def test_a_users_mistake_is_one_line_whatever_the_number_of_ranks(mpirun: Run, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text("[survey]\nbrick = 3\n")
    done = mpirun(2, ["-m", "hpc_galaxy", "survey", "-c", str(tmp_path / "run.toml")], timeout=60)
    assert done.returncode == 2
    assert done.stderr.count("unknown key 'survey.brick', the nearest valid one is 'survey.bricks'") == 1
    assert "Traceback" not in done.stderr
