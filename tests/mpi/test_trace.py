"""Traces of real ranks: what is wrong is named, clocks are measured, and a killed rank leaves a record that can be read."""

from __future__ import annotations

import ast
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import sample_shards
from patience import patience

from hpc_galaxy.tracing.chrome import THREADS
from hpc_galaxy.tracing.merge import merge
from hpc_galaxy.tracing.reading import find_rank_files
from hpc_galaxy.tracing.steps import read_steps
from hpc_galaxy.tracing.summary import summarise

Mpirun = Callable[..., CompletedProcess[str]]
PROGRAM = str(Path(__file__).parent / "_trace_program.py")
AHEAD = 5 * 10**9  # nanoseconds, as in the program
# What is planted, and what the summary's last sentence says of it.
CAUSES = {
    "disk": ("waits for data on rank 1 (", "stage the shards to node-local disk"),
    "rank": ("waits for slow computation on rank 1 (", "leave the node out"),
    "messages": ("is communication: ", "train.batch_size"),
    "checkpoints": ("is spent on checkpoints on rank 0 (", "save less often"),
}


def configure(root: Path) -> None:
    """Write some shards and a configuration."""
    sample_shards.make_shards(root / "shards", train=32, valid=8, test=0, size=32)
    sample_shards.make_config(root, "train.batch_size=4", "train.epochs=2", "train.backend='mpi'", "train.threads=1").save(
        root / "config.toml"
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, mpirun: Mpirun) -> Path:
    """Four trainings of two ranks, each with something wrong."""
    root = tmp_path_factory.mktemp("traces")
    configure(root)
    done = mpirun(2, [PROGRAM, str(root), *CAUSES], env={"SLOW_READ": str(patience(0.25))})
    assert done.returncode == 0, done.stderr
    return root


@pytest.mark.parametrize("cause", CAUSES)
def test_what_is_wrong_is_named(cause: str, root: Path) -> None:
    files = find_rank_files(root / cause)[1]
    lines = summarise(files, read_steps(files))
    print("\n".join(lines))
    for part in CAUSES[cause]:
        assert part in lines[-1]


def test_a_killed_rank_leaves_a_record_that_can_be_read(tmp_path: Path, mpirun: Mpirun) -> None:
    configure(tmp_path)
    done = mpirun(2, [PROGRAM, str(tmp_path), "killed"])
    assert done.returncode != 0
    _, files = find_rank_files(tmp_path / "killed")
    assert len(files) == 2 and not files[1].footer
    merged = merge(files, tmp_path / "trace.json.gz")
    assert "train rank 1" in merged.killed and merged.ranks == 2
    with gzip.open(tmp_path / "trace.json.gz", "rt") as file:
        events = json.load(file)["traceEvents"]
    assert len(events) == merged.events
    forward = [event for event in events if event["name"] == "forward" and event["pid"] == 2 * THREADS]
    assert 4 <= len(forward) <= 5
    assert "not closed: " in summarise(files, read_steps(files))[0]


def test_another_nodes_clock_is_measured(tmp_path: Path, mpirun: Mpirun) -> None:
    done = mpirun(2, [PROGRAM, str(tmp_path), "clock"])
    assert done.returncode == 0, done.stderr
    (own, own_error), (other, error) = ast.literal_eval(done.stdout.split("offsets ")[1].splitlines()[0])
    assert (own, own_error) == (0, 0)
    assert 0 < error < 5_000_000
    assert abs(other + AHEAD) <= error
