"""When one rank fails the whole job ends, soon, with that rank's traceback: no other rank waits for it for ever."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from helpers import run_python
from patience import patience

from hpc_galaxy.guarding.watchdog import STUCK

Mpirun = Callable[..., CompletedProcess[str]]

# The stage, what rank 1 fails in while rank 0 goes on to where it waits for it, where the stage writes, and its receipt.
FAULTS = [
    ("survey", "bricks.survey:render", "survey", "ledger.json"),
    ("inject", "injection.inject:draw_galaxies", "obiwan", "ledger.json"),
    ("extract", "cutouts.brick:cut_stamps", "cutouts", "ledger.json"),
    ("split --set split.match='none'", "splits.outputs:write_shard", "shards", "ledger.json"),
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
    assert ended - raised[0] < patience(10)
    assert "rank 1: Traceback" in done.stderr
    assert "rank 1: RuntimeError: rank 1 was told to fail" in done.stderr
    assert not (tmp_path / "out" / receipt).exists()


def test_a_users_mistake_is_one_line_whatever_the_number_of_ranks(mpirun: Mpirun, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text("[survey]\nbrick = 3\n")
    done = mpirun(2, ["-m", "hpc_galaxy", "survey", "-c", str(tmp_path / "run.toml")], timeout=60)
    assert done.returncode == 2
    assert done.stderr.count("unknown key 'survey.brick', the nearest valid one is 'survey.bricks'") == 1
    assert "Traceback" not in done.stderr


STRIKE = """
import importlib, os, signal, sys, time
from functools import reduce
from hpc_galaxy import cli
from hpc_galaxy.world import detect

module, path, rank, name, calls = sys.argv.pop(1).split(":")
if detect().rank == int(rank):
    *owners, function = path.split(".")
    owner = reduce(getattr, owners, importlib.import_module(f"hpc_galaxy.{module}"))
    real, count = getattr(owner, function), 0

    def strike(*arguments, **options):
        global count
        count += 1
        if count == int(calls):
            print(f"STRUCK AT {time.time()}", flush=True)
            time.sleep(1.5)  # until all have been heard of
            os.kill(os.getpid(), getattr(signal, name))
        return real(*arguments, **options)

    setattr(owner, function, strike)
cli.main()
"""

# What happens to which rank, in which call of what; where the stage writes; what is said; the exit code (None: the launcher's).
STRIKES = [
    (
        "extract",
        "cutouts.brick:cut_stamps:1:SIGSTOP:1",
        "cutouts",
        r"rank 1 on \S+ has been silent for \d+ s, last at extract",
        STUCK,
    ),
    (
        "split",
        "splits.outputs:write_shard:0:SIGSTOP:1",
        "shards",
        r"rank 0 on \S+ has been silent for \d+ s, last at split",
        STUCK,
    ),
    ("inject", "injection.inject:draw_galaxies:0:SIGKILL:2", "obiwan", r"signal 9 \(Killed\)", None),
]


def below(root: Path) -> dict[str, bytes]:
    """Return what a stage has made."""
    made = [path for path in root.rglob("*") if path.is_file() and path.suffix in (".fits", ".fz", ".gz", ".h5", ".npy")]
    return {str(path.relative_to(root)): path.read_bytes() for path in made if not path.name.startswith(".")}


@pytest.mark.parametrize(("stage", "strike", "output", "message", "code"), STRIKES, ids=[f"{one[0]} {one[1][-9:-2]}" for one in STRIKES])
def test_a_rank_that_is_stopped_or_killed_ends_the_stage_and_it_continues(
    mpirun: Mpirun, one_rank: Path, tmp_path: Path, stage: str, strike: str, output: str, message: str, code: int | None
) -> None:
    settings = [f"paths.{output}='{tmp_path}/out'", f"watchdog.silent_seconds={patience(3)}"]
    arguments = [stage, "-c", str(one_rank / "run.toml"), *[word for setting in settings for word in ("--set", setting)]]
    done = mpirun(2, ["-c", STRIKE, strike, *arguments], timeout=60)
    ended = time.time()
    struck = [float(line.split()[-1]) for line in done.stdout.splitlines() if "STRUCK AT" in line]
    assert struck, done.stdout + done.stderr
    print(f"{stage}: gone {ended - struck[0] - 1.5:.1f} s after it, exit code {done.returncode}")
    assert ended - struck[0] < patience(25)
    assert done.returncode == code if code else done.returncode != 0
    assert re.search(message, done.stderr), done.stderr
    assert not (tmp_path / "out" / "ledger.json").exists()
    if stage == "extract":  # on two ranks, then on one, which is killed, then on three
        next((tmp_path / "out").rglob("*.h5")).unlink()  # a stopped rank that is let go to be ended may have finished its brick
        killed = mpirun(1, ["-c", STRIKE, "cutouts.brick:cut_stamps:0:SIGKILL:1", *arguments], timeout=60)
        assert "STRUCK AT" in killed.stdout and killed.returncode != 0, killed.stdout + killed.stderr
        assert not (tmp_path / "out" / "ledger.json").exists()
    again = mpirun(3 if stage == "extract" else 1, ["-m", "hpc_galaxy", *arguments], timeout=60)
    assert again.returncode == 0, again.stderr
    assert below(tmp_path / "out") == below(one_rank / output)


@pytest.mark.parametrize("variable", ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE"])
def test_copies_of_rank_0_refuse_to_work(one_rank: Path, tmp_path: Path, variable: str) -> None:
    """What the ranks of one MPI see that another one's launcher has started."""
    command = ["-m", "hpc_galaxy", "extract", "-c", str(one_rank / "run.toml"), "--set", f"paths.cutouts='{tmp_path}/out'"]
    done = run_python(command, timeout=60, env={variable: "2"})
    assert done.returncode == 3
    assert "2 processes were started, but MPI sees 1, expected 2; use the mpirun/mpiexec of the MPI that mpi4py found" in done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "out").exists()
