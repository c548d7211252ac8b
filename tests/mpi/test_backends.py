"""Every way of averaging gradients, on two ranks: the weights of one process, within what rounding makes of them."""

from __future__ import annotations

import importlib.util
import json
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from helpers import run_python
from patience import patience

PROGRAM = str(Path(__file__).parent / "_backends_program.py")
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", PROGRAM]
OURS = ("mpi", "ddp", "ddp many buckets", "ddp fp16", "ddp bf16")
HOROVOD = ("horovod tensors", "horovod", "horovod fp16", "horovod tensors fp16")
# What may come between the weights, as a share of the furthest that one of them has moved. Sums in another order round by 2^-24 each,
# of which 20 steps make more, and Adam, which divides by the gradient, most; gradients that travel in 11 bits (fp16) or 8 (bf16) are
# rounded by 2^-12 or 2^-9 on each rank. What is measured is printed by each test.
ROUNDING = {"sgd": 1e-5, "adam": 2e-3, "fp16": 2e-2, "bf16": 0.1}
TRAVELS = {"fp16": 2e-4, "bf16": 2e-3}  # with less between them nothing can have been rounded

Results = dict[str, list[dict[str, Any]]]


def read(done: CompletedProcess[str]) -> list[dict[str, Any]]:
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


@pytest.fixture(scope="module")
def results(mpirun: Callable[..., CompletedProcess[str]]) -> Results:
    """What two ranks of one job have found, by case."""
    cases = OURS + HOROVOD * bool(importlib.util.find_spec("horovod"))
    results: Results = {}
    for row in read(mpirun(2, [PROGRAM, *cases], timeout=240)):
        results.setdefault(row["case"], []).append(row)
    return results


def assert_learned(rows: list[dict[str, Any]]) -> None:
    assert len(rows) == (2 if " " in rows[0]["case"] else 4)
    for row in rows:
        _, accumulate, optimizer = row["options"]
        precision = row["case"].rpartition(" ")[2]
        share = row["difference"] / row["moved"]
        print(f"{row['case']} {row['options']}: {share:.2g}")
        assert TRAVELS.get(precision, 0) <= share < ROUNDING[precision if precision in TRAVELS else optimizer]
        assert row["moved"] > 1e-2
        # Ranks have the same weights to the last bit, and their gradients were their own until the last micro-batch.
        assert row["agree"]
        assert row["layout"]
        assert row["local"] == [True] * (7 if accumulate else 0)


@pytest.mark.parametrize("case", OURS)
def test_two_ranks_learn_what_one_learns(case: str, results: Results) -> None:
    assert_learned(results[case])


@pytest.mark.parametrize("case", HOROVOD)
def test_horovod_learns_what_one_learns(case: str, results: Results, require: Callable[[str], None]) -> None:
    require("horovod")
    assert_learned(results[case])
    description = results[case][0]["description"]
    assert ("tensor fusion" if "tensors" in case else "one flat buffer") in description
    assert ("fp16" in case) == ("fp16" in description)


def test_ranks_meet_under_torchrun() -> None:
    """Without MPI: they talk, and learn what one learns."""
    found, *rows = read(run_python([*TORCHRUN, "ddp", "ddp bf16"], timeout=120))
    assert found == {
        "launcher": "torchrun",
        "place": [[0, 2, 0, 2], [1, 2, 1, 2]],
        "elsewhere": [2, 0],
        "bcast": [{"from": 0}, {"from": 0}],
        "sum": [[3, 1], [[2**41 + 1]], [1, 3, 5]],
        "max": 2**40 + 1,
        "exchange refused": True,
    }
    assert_learned(rows[:4])
    assert_learned(rows[4:])


def test_a_rank_that_fails_ends_the_job_under_torchrun() -> None:
    start = time.monotonic()
    done = run_python([*TORCHRUN, "fail"], timeout=60)
    assert done.returncode != 0
    assert "hpc-galaxy: error: a.npy: is short; make it again" in done.stderr
    assert time.monotonic() - start < patience(40)


def test_backends_that_need_mpi_are_refused_under_torchrun() -> None:
    done = run_python([*TORCHRUN, "mpi"], timeout=60)
    assert done.returncode != 0
    assert "train.backend: 'mpi' under torchrun, expected 'ddp'; start with mpirun or srun, or set it to 'ddp'" in done.stderr
