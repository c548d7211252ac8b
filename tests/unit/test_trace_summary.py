"""What a summary says of records whose cause is known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sample_traces import write_rank, write_steps

from hpc_galaxy.tracing.diagnosis import diagnose, sentence
from hpc_galaxy.tracing.operators import own_seconds
from hpc_galaxy.tracing.reading import find_rank_files
from hpc_galaxy.tracing.show import trace
from hpc_galaxy.tracing.steps import Steps, read_steps
from hpc_galaxy.tracing.summary import summarise

Times = Callable[[int, int], dict[str, float]]
WORK = {"forward": 10.0, "backward": 20.0}


def read(root: Path, times: Times, ranks: int = 8, message: float = 1.0, count: int = 20) -> Steps:
    write_steps(root / "trace" / "0001", ranks, count, times, message)
    steps = read_steps(find_rank_files(root)[1])
    assert steps is not None
    return steps


def slow_on(ranks: set[int], **parts: float) -> Times:
    return lambda rank, step: {**WORK, **(parts if rank in ranks else {})}


CASES: dict[str, tuple[Times, float, str]] = {
    "data on two ranks": (
        slow_on({3, 7}, data=22),
        1,
        "42% of the time waits for data on ranks 3, 7: raise train.data.prefetch, or stage the shards to node-local disk (train",
    ),
    "data on all ranks": (slow_on(set(range(8)), data=31), 1, "50% of the time waits for data on all ranks: "),
    "a slow rank": (slow_on({5}, forward=40), 1, "49% of the time waits for slow computation on rank 5 (n2): see what else runs there"),
    "a slow node": (slow_on({4, 5}, forward=40), 1, "49% of the time waits for slow computation on ranks 4, 5 (all on n2): "),
    "messages": (slow_on(set()), 30, "50% of the time is communication: give each rank more to compute"),
    "checkpoints": (
        lambda rank, step: {**({"checkpoint": 60.0} if rank == 0 and step % 2 else {}), **WORK},
        1,
        "49% of the time is spent on checkpoints on rank 0 (n0): save less often",
    ),
    "now this rank, now that": (
        lambda rank, step: {**WORK, "backward": 60.0 if rank == step * 3 % 8 else 20.0},
        1,
        "56% of the time waits for whichever rank is last, now this one, now that: leave a core free",
    ),
    "nothing": (slow_on(set()), 1, "97% of the time is computation, and nothing else takes as much as 10%: "),
}


@pytest.mark.parametrize("case", CASES)
def test_the_cause_is_named(case: str, tmp_path: Path) -> None:
    times, message, expected = CASES[case]
    steps = read(tmp_path, times, message=message)
    causes = diagnose(steps)
    assert sum(cause.share for cause in causes) == pytest.approx(1, abs=0.01)
    assert sentence(steps, causes).startswith(expected)


def test_one_process_has_no_ranks_to_name(tmp_path: Path) -> None:
    steps = read(tmp_path, slow_on({0}, data=31), ranks=1, message=0)
    assert sentence(steps, diagnose(steps)).startswith("51% of the time waits for data: raise train.data.prefetch")


def test_messages_during_the_backward_pass_are_hidden_but_for_the_last(tmp_path: Path) -> None:
    lines = [
        ["X", "main", "forward", 0, 200],
        ["X", "communication", "allreduce", 300, 200, 0],
        ["X", "communication", "allreduce", 450, 150, 1],
        ["X", "main", "backward", 200, 450],
        ["X", "steps", "step", 0, 1000, 1],
    ]
    write_rank(tmp_path / "trace" / "0001", 0, 1, lines)
    steps = read_steps(find_rank_files(tmp_path)[1])
    assert steps is not None
    found = {name: float(steps.part(name)[0, 0] * 1e9) for name in ("compute", "communication", "hidden", "other")}
    assert found == pytest.approx({"compute": 500, "communication": 150, "hidden": 200, "other": 350}, rel=1e-5)


def test_a_rank_that_was_killed_shortens_the_table(tmp_path: Path) -> None:
    write_steps(tmp_path / "trace" / "0001", 3, 10, slow_on(set()))
    path = tmp_path / "trace" / "0001" / "rank_000001.jsonl"
    path.write_bytes(path.read_bytes()[:1200])
    files = find_rank_files(tmp_path)[1]
    steps = read_steps(files)
    assert steps is not None and steps.wall.shape[0] == 3 and 0 < steps.wall.shape[1] < 10
    assert "3 of 3 ranks on 2 nodes" in summarise(files, steps)[0] and "not closed: 1 rank," in summarise(files, steps)[0]


def test_text_and_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    steps = read(tmp_path, slow_on({3}, forward=40), ranks=40)
    assert steps.images == pytest.approx(np.full(40, 20 * 61))
    trace([tmp_path], None, None, True, None)
    lines = capsys.readouterr().out.splitlines()
    assert "trace of train: 40 of 40 ranks on 20 nodes, 20 steps and 0 epoch ends in 1.2 s; clocks agree within 0 us" in lines
    assert "straggler: rank 3 (n1) is late in 100% of the steps, 2.00 times the median rank's time" in lines
    assert any(line.startswith("rank 3 (n1)") for line in lines)
    assert "  (of 40 ranks the 12 that differ most from the others)" in lines
    assert lines[-2].startswith("49% of the time waits for slow computation on rank 3 (n1)")
    assert (tmp_path / "trace" / "0001" / "summary.png").read_bytes()[:4] == b"\x89PNG"


def test_a_stage_without_steps(tmp_path: Path) -> None:
    for rank, length in enumerate((900, 500)):
        lines = [["X", "main", "decompress", 0, 400 * 10**6], ["X", "main", "cut", 400 * 10**6, (length - 400) * 10**6]]
        write_rank(tmp_path / "trace" / "0001", rank, 2, lines, stage="extract")
    files = find_rank_files(tmp_path)[1]
    lines = summarise(files, read_steps(files))
    assert lines[0].startswith("trace of extract: 2 of 2 ranks on 1 node; ")
    assert lines[1].split() == ["44.4%", "0.80", "s", "decompress"]
    assert lines[-1].startswith("22% of the ranks' time is waiting: ")


def test_a_stage_that_had_nothing_to_do(tmp_path: Path) -> None:
    write_rank(tmp_path / "trace" / "0001", 0, 1, [["X", "main", "wait for work", 0, 10**6]], stage="extract")
    files = find_rank_files(tmp_path)[1]
    assert summarise(files, read_steps(files))[1:] == ["no work was recorded"]


def test_own_time_is_without_what_was_called() -> None:
    def event(name: str, ts: float, dur: float, tid: int = 1, cat: str = "cpu_op") -> dict[str, object]:
        return {"ph": "X", "cat": cat, "name": name, "ts": ts, "dur": dur, "tid": tid}

    calls = [
        event("outer", 0, 100),
        event("inner", 10, 30),
        event("innermost", 10, 10),
        event("inner", 50, 20),
        event("other", 5, 7, tid=2),
    ]
    found = sorted((name, round(seconds * 1e6)) for name, seconds in own_seconds(calls))
    assert found == [("inner", 20), ("inner", 20), ("innermost", 10), ("other", 7), ("outer", 50)]
    assert own_seconds([*calls, event("gemm", 3, 4, cat="kernel")]) == [("gemm", pytest.approx(4e-6))]
