"""``hpc-galaxy submit`` on a real Slurm: the whole chain, an arm of its controls, an array of bricks."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from patience import LOOK_SECONDS, patience
from queueing import HPC_GALAXY, configure

from hpc_galaxy.slurm.site import STAGES

SURVEY = {"survey": {"bricks": 24, "npix": 256}, "injection": {"per_brick": 16}}
LIMIT = ("--time", "00:05:00")
SPLIT = {"extract": {"selection": "all", "size": 32}, "split": {"match": "none", "train": 0.6, "valid": 0.2, "test": 0.2}}
SHORT = {"explain": False, "baselines": False}


def wait(slurm: Any, root: Path, stages: set[str], seconds: float) -> None:
    """Wait until the newest job of each stage has left the queue."""
    end = time.monotonic() + patience(seconds)
    numbers = {entry["stage"]: entry["job"] for entry in json.loads((root / "jobs" / "jobs.json").read_text())}
    jobs = ",".join(numbers[stage] for stage in stages)
    while slurm.run("squeue", "--noheader", f"--jobs={jobs}").stdout.strip():
        if time.monotonic() > end:
            logs = "\n".join(path.read_text() for path in sorted((root / "jobs").glob("*.log")))
            pytest.fail(f"jobs {jobs} are not over after {seconds} s:\n{logs}", pytrace=False)
        time.sleep(LOOK_SECONDS)


def test_the_whole_chain_on_two_nodes(slurm: Any, require: Any, tmp_path: Path) -> None:
    require("horovod")
    training = {"epochs": 1, "batch_size": 16, "threads": 1, "backend": "horovod"}
    options = (*configure(tmp_path, SURVEY | SPLIT | {"train": training, "realism": SHORT}), *LIMIT)
    for stage in ("survey", "inject"):
        made = slurm.run(*HPC_GALAXY, "submit", stage, "--nodes", "2", *options)
        assert made.returncode == 0, made.stderr
        wait(slurm, tmp_path, {stage}, 60)
    submitted = slurm.run(*HPC_GALAXY, "submit", "all", "--nodes", "2", *options)
    assert submitted.returncode == 0, submitted.stderr
    assert re.findall(r"job \d+: (\w+)", submitted.stdout) == ["extract", "split", "train", "realism"]

    again = slurm.run(*HPC_GALAXY, "submit", "train", "--nodes", "2", *options)
    assert again.returncode == 1 and re.search(r"submit train: job \d+ of the same stage and output is PENDING", again.stderr), again.stderr

    wait(slurm, tmp_path, {"extract", "split", "train", "realism"}, 120)
    logs = "".join(path.read_text() for path in (tmp_path / "jobs").glob("*.log"))
    if "ompi_mpi_init" in logs:  # Open MPI 5.0.11 itself, seen once in some hundred starts on a busy machine: the user submits again
        assert slurm.run(*HPC_GALAXY, "submit", "all", "--nodes", "2", *options).returncode == 0
        wait(slurm, tmp_path, {"extract", "split", "train", "realism"}, 120)
    said = slurm.run(*HPC_GALAXY, "status", str(tmp_path)).stdout
    rows = [line.split() for line in said.splitlines()[1:7]]
    assert [(row[0], row[2], row[3]) for row in rows] == [(stage, "COMPLETED", "yes") for stage in STAGES], said
    logs = "".join(path.read_text() for path in (tmp_path / "jobs").glob("*.log"))
    assert logs.count("on 2 ranks, each of at most") >= 4
    finished = json.loads((tmp_path / "run" / "DONE").read_text())
    assert (finished["ranks"], finished["backend"]) == (2, "horovod")
    assert json.loads((tmp_path / "report" / "report.json").read_text())["auc"] is not None
    check_control(slurm, tmp_path, options)


def check_control(slurm: Any, root: Path, options: tuple[str, ...]) -> None:
    """An arm of the controls is sent to the queue, and its result is read from there."""
    command = (*HPC_GALAXY, "controls", *options[:2], "--only", "only-invvar")
    sent = slurm.run(*command, "--submit", options[options.index("--site") + 1], "--nodes", "2", *LIMIT)
    assert sent.returncode == 0, sent.stderr
    assert re.findall(r"job \d+: (\w+)", sent.stdout) == ["train", "realism"], sent.stdout
    wait(slurm, root, {"train", "realism"}, 120)
    arm = root / "controls" / "only-invvar"
    made = (arm / "run" / "DONE").stat().st_mtime_ns
    read = slurm.run(*command)
    assert read.returncode == 0, read.stderr
    assert re.search(r"controls: only-invvar: AUC 0\.\d+ \[", read.stdout), read.stdout
    assert json.loads((arm / "run" / "DONE").read_text())["ranks"] == 2 and (arm / "run" / "DONE").stat().st_mtime_ns == made
    report = json.loads((root / "report" / "report.json").read_text())
    assert [row["name"] for row in report["controls"]["arms"]] == ["only-invvar"]


def test_an_array_of_bricks(slurm: Any, tmp_path: Path) -> None:
    cut = {"classes": ["real"], "real_from": "survey", "selection": "all"}
    options = (*configure(tmp_path, {"survey": {"bricks": 6, "npix": 256}, "extract": cut}), *LIMIT)
    made = slurm.run(*HPC_GALAXY, "survey", "-c", options[1])
    assert made.returncode == 0, made.stderr
    submitted = slurm.run(*HPC_GALAXY, "submit", "extract", "--array", "3", *options)
    assert submitted.returncode == 0, submitted.stderr
    assert re.search(r"job \d+: extract in 3 parts of 1 node \(", submitted.stdout)
    array, whole = re.findall(r"job (\d+):", submitted.stdout)
    again = slurm.run(*HPC_GALAXY, "submit", "extract", *options)
    assert again.returncode == 1 and f"submit extract: job {array} of the same stage and output is" in again.stderr, again.stderr
    # The record's newest job of the stage is the one that completes it, after every part.
    wait(slurm, tmp_path, {"extract"}, 60)
    logs = {path.name: path.read_text() for path in (tmp_path / "jobs").glob("*.log")}
    assert set(logs) == {*(f"hpc-galaxy-extract-{array}_{part}.log" for part in (1, 2, 3)), f"hpc-galaxy-extract-{whole}.log"}
    for part in (1, 2, 3):
        assert f"extract {part}/3: 2 bricks" in logs[f"hpc-galaxy-extract-{array}_{part}.log"]
    rows = [line.split()[:4] for line in slurm.run(*HPC_GALAXY, "status", str(tmp_path)).stdout.splitlines()[1:3]]
    assert rows == [["extract", f"{array}_[1-3]", "COMPLETED", "yes"], ["extract", whole, "COMPLETED", "yes"]]
    receipt = json.loads((tmp_path / "cutouts" / "ledger.json").read_text())
    assert len(receipt["items"]) == 6 and not any("error" in entry for entry in receipt["items"])
