"""When one rank fails the whole job ends, soon, with that rank's traceback: no other rank waits for it for ever."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

Mpirun = Callable[..., CompletedProcess[str]]

# The stage, what rank 1 fails in while rank 0 goes on to where it waits for it, where the stage writes, and its receipt.
FAULTS = [
    ("survey", "bricks.survey:render", "survey", "ledger.json"),
    ("inject", "injection.inject:draw_galaxies", "obiwan", "ledger.json"),
    ("extract", "cutouts.brick:cut_stamps", "cutouts", "ledger.json"),
    ("split", "splits.outputs:write_shard", "shards", "ledger.json"),
    ("train --set train.backend='ddp'", "training.loop:Trainer.step", "run", "DONE"),
    ("train --set train.backend='horovod'", "training.loop:Trainer.step", "run", "DONE"),
    ("realism", "training.data.batches:Dataset._load", "report", "report.json"),
]

FAIL_ON_RANK_1 = """
import importlib, sys, time
from functools import reduce
from hpc_galaxy import cli
from hpc_galaxy.world import detect

module, path = sys.argv.pop(1).split(":")
if detect().rank == 1:
    def fail(*arguments, **options):
        print(f"RAISED AT {time.time()}", flush=True)
        raise RuntimeError("rank 1 was told to fail")

    *owners, name = path.split(".")
    setattr(reduce(getattr, owners, importlib.import_module(f"hpc_galaxy.{module}")), name, fail)
cli.main()
"""


@pytest.fixture(scope="module")
def common(one_rank: Path, mpirun: Mpirun, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Arguments of every stage: the small survey, and a training of it."""
    arguments = ["-c", str(one_rank / "run.toml"), "--set", f"paths.run='{tmp_path_factory.mktemp('run')}'"]
    done = mpirun(1, ["-m", "hpc_galaxy", "train", *arguments])
    assert done.returncode == 0, done.stderr
    return arguments


@pytest.mark.parametrize(("stage", "target", "output", "receipt"), FAULTS, ids=[fault[0] for fault in FAULTS])
def test_an_exception_on_one_rank_ends_the_job(
    mpirun: Mpirun, require: Callable[[str], None], common: list[str], tmp_path: Path, stage: str, target: str, output: str, receipt: str
) -> None:
    if "horovod" in stage:
        require("horovod")
    verb, *options = stage.split()
    elsewhere = ["--set", f"paths.{output}='{tmp_path}/out'"]
    done = mpirun(2, ["-c", FAIL_ON_RANK_1, target, verb, *common, *elsewhere, *options], timeout=60)
    ended = time.time()
    assert done.returncode != 0
    raised = [float(line.split()[-1]) for line in done.stdout.splitlines() if "RAISED AT" in line]
    assert raised, done.stdout + done.stderr
    print(f"{stage}: ended {ended - raised[0]:.1f} s after the exception")
    assert ended - raised[0] < 10
    assert "rank 1: Traceback" in done.stderr
    assert "rank 1: RuntimeError: rank 1 was told to fail" in done.stderr
    assert not (tmp_path / "out" / receipt).exists()


def test_a_users_mistake_is_one_line_whatever_the_number_of_ranks(mpirun: Mpirun, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text("[survey]\nbrick = 3\n")
    done = mpirun(2, ["-m", "hpc_galaxy", "survey", "-c", str(tmp_path / "run.toml")], timeout=60)
    assert done.returncode == 2
    assert done.stderr.count("unknown key 'survey.brick', the nearest valid one is 'survey.bricks'") == 1
    assert "Traceback" not in done.stderr
