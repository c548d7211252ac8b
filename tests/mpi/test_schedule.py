"""Work dealt out to real ranks: every item once, the heaviest first, none for a rank that is not free."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

Mpirun = Callable[..., CompletedProcess[str]]
PROGRAM = str(Path(__file__).parent / "_schedule_program.py")


def taken(done: CompletedProcess[str]) -> list[list[int]]:
    assert done.returncode == 0, done.stderr
    line = next(line for line in done.stdout.splitlines() if line.startswith("TAKEN"))
    assert line.endswith("THREADS True")
    return json.loads(line.removeprefix("TAKEN ").split(" THREADS")[0])


@pytest.mark.parametrize(("ranks", "items"), [(1, 20), (2, 100), (3, 2), (4, 100), (2, 0)])
def test_every_item_is_done_once_and_rank_0_works_too(mpirun: Mpirun, ranks: int, items: int) -> None:
    parts = taken(mpirun(ranks, [PROGRAM, str(items)]))
    assert sorted(number for part in parts for number in part) == list(range(items))
    if items >= 20:
        assert all(parts)
    for part in parts:
        costs = [number % 7 for number in part]
        assert costs == sorted(costs, reverse=True)


def test_in_a_large_job_rank_0_only_deals(mpirun: Mpirun) -> None:
    parts = taken(mpirun(3, [PROGRAM, "40", "dedicated"]))
    assert parts[0] == []
    assert sorted(parts[1] + parts[2]) == list(range(40))
    assert parts[1] and parts[2]


@pytest.mark.parametrize("slow", [0, 1])
def test_a_slow_rank_takes_fewer_items(mpirun: Mpirun, slow: int) -> None:
    parts = taken(mpirun(3, [PROGRAM, "120", f"slow={slow}"]))
    others = [len(part) for rank, part in enumerate(parts) if rank != slow]
    assert len(parts[slow]) < 0.5 * min(others)
