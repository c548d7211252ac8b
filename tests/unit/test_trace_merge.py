"""The merged trace: processes, threads, clocks, arrows, other programs' events; and in how little memory it is made."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from sample_traces import EPOCH, MS, steps, write_rank, write_steps

from hpc_galaxy.errors import FormatError
from hpc_galaxy.tracing.merge import NAME, merge
from hpc_galaxy.tracing.reading import find_rank_files
from hpc_galaxy.tracing.show import trace

Event = dict[str, Any]


def merged(root: Path) -> list[Event]:
    merge(find_rank_files(root)[1], root / NAME)
    with gzip.open(root / NAME, "rt") as file:
        return list(json.load(file)["traceEvents"])


def spans(events: list[Event], **wanted: Any) -> list[Event]:
    return [event for event in events if event["ph"] == "X" and all(event.get(key) == value for key, value in wanted.items())]


def threads(events: list[Event], pid: int) -> dict[str, int]:
    return {e["args"]["name"]: e["tid"] for e in events if e["name"] == "thread_name" and e["pid"] == pid}


def folder(root: Path) -> Path:
    return root / "trace" / "0001"


def test_ranks_are_processes_on_one_clock(tmp_path: Path) -> None:
    for rank, ahead in enumerate((0, 7 * MS, -3 * MS)):
        lines = [["X", "main", "forward", ahead + 2 * MS, MS + 1], ["C", "memory (MB)", ahead + 3 * MS, 12.5]]
        write_rank(folder(tmp_path), rank, 3, lines, host=f"n{rank}", ahead=ahead)
    events = merged(tmp_path)
    names = {event["pid"]: event["args"]["name"] for event in events if event["name"] == "process_name"}
    assert list(names.values()) == ["train rank 0 (n0)", "train rank 1 (n1)", "train rank 2 (n2)"] and 0 not in names
    found = spans(events, name="forward")
    assert [(event["ts"], event["dur"]) for event in found] == [(2000.0, 1000.001)] * 3
    assert all(event["tid"] == event["pid"] for event in found)
    assert [event["args"] for event in events if event["ph"] == "C"] == [{"value": 12.5}] * 3


def test_what_overlaps_has_threads_of_its_own(tmp_path: Path) -> None:
    lines = [
        ["X", "writer", "write", 0, 10],
        ["X", "writer", "write", 5, 10],
        ["X", "writer", "write", 11, 10],
        ["X", "main", "cut", 0, 30],
    ]
    write_rank(folder(tmp_path), 0, 1, lines)
    events = merged(tmp_path)
    known = threads(events, 200)
    assert set(known) == {"writer", "writer 2", "main thread"}
    assert [event["tid"] for event in spans(events, name="write")] == [known["writer"], known["writer 2"], known["writer"]]


def arrows(events: list[Event]) -> list[tuple[Event, Event]]:
    begins = {event["id"]: event for event in events if event["ph"] == "s"}
    return [(begins[event["id"]], event) for event in events if event["ph"] == "f"]


def assert_inside(point: Event, events: list[Event], name: str) -> None:
    around = spans(events, name=name, pid=point["pid"], tid=point["tid"])
    assert any(event["ts"] <= point["ts"] <= event["ts"] + event["dur"] for event in around)


def test_arrows_lead_from_each_backward_pass_to_its_message(tmp_path: Path) -> None:
    write_steps(folder(tmp_path), 2, 5, lambda rank, step: {"forward": 2 + rank, "backward": 3})
    events = merged(tmp_path)
    found = arrows(events)
    assert len(found) == 10 == len({begin["id"] for begin, _ in found})
    for begin, end in found:
        assert begin["ts"] <= end["ts"]
        assert_inside(begin, events, "backward")
        assert_inside(end, events, "allreduce")


def test_arrows_lead_to_messages_during_the_backward_pass(tmp_path: Path) -> None:
    lines = []
    for at in (0, 1000):
        buckets = [["X", "communication", "allreduce", at + start, 300, number] for number, start in enumerate((100, 250))]
        lines += [*buckets, ["X", "main", "backward", at, 600], ["X", "steps", "step", at, 1000, 1]]
    write_rank(folder(tmp_path), 0, 1, lines)
    events = merged(tmp_path)
    assert set(threads(events, 200)) == {"main thread", "communication", "communication 2", "steps"}
    assert len(arrows(events)) == 4
    for begin, end in arrows(events):
        assert_inside(begin, events, "backward")
        assert_inside(end, events, "allreduce")


def test_profiler_windows_are_put_on_the_ranks_clock(tmp_path: Path) -> None:
    ahead = 5 * MS
    write_rank(folder(tmp_path), 1, 2, [["X", "main", "forward", ahead + MS, 1000]], ahead=ahead)
    operator = {"ph": "X", "cat": "cpu_op", "name": "aten::mm", "pid": 11, "tid": 12, "ts": 1000.5, "dur": 2.25}
    arrow = {"ph": "s", "id": 4, "pid": 11, "tid": 12, "ts": 1000.5, "cat": "fwdbwd", "name": "fwdbwd"}
    memory = {"ph": "i", "name": "[memory]", "pid": 11, "tid": 12, "ts": 1001, "args": {"Total Allocated": 3e6}}
    noise = {"ph": "X", "cat": "Trace", "name": "PyTorch Profiler (0)", "pid": "Spans", "tid": "x", "ts": 1, "dur": 9}
    content = {"baseTimeNanoseconds": EPOCH, "traceEvents": [operator, arrow, memory, noise]}
    path = folder(tmp_path) / "profiler_000001_0001.json.gz"
    path.write_bytes(gzip.compress(json.dumps(content).encode()))
    events = merged(tmp_path)
    (found,) = spans(events, name="aten::mm")
    assert found["ts"] == 1000.5 and found["dur"] == 2.25 and found["pid"] == 200 and found["tid"] == threads(events, 200)["operators 12"]
    assert not spans(events, name="PyTorch Profiler (0)")
    assert [event["args"] for event in events if event["name"] == "allocated by torch (MB)"] == [{"value": 3.0}]
    path.write_bytes(b"half")
    with pytest.raises(FormatError, match=r"profiler_000001_0001\.json\.gz: cannot be read"):
        merged(tmp_path)


@pytest.mark.parametrize("cut", [0, 1, 30])
def test_horovods_timeline_is_read_up_to_its_end(cut: int, tmp_path: Path) -> None:
    write_rank(folder(tmp_path), 0, 1, [["X", "main", "forward", MS, 1000]])
    start = {"name": "process_name", "ph": "M", "pid": 0, "args": {"start_time_since_epoch_in_micros": EPOCH // 1000}}
    name = {"name": "process_name", "ph": "M", "pid": 1, "args": {"name": "allreduce.gradients"}}
    one = [{"ph": "B", "name": "ALLREDUCE", "ts": 1500, "pid": 1}, {"ph": "E", "ts": 1700, "pid": 1}]
    text = "[\n" + ",\n".join(json.dumps(event) for event in [start, name, *one]) + "," + ",".join(json.dumps(event) for event in one)
    (folder(tmp_path) / "horovod.json").write_text(text[: len(text) - cut])
    found = spans(merged(tmp_path), name="ALLREDUCE")
    assert [(event["ts"], event["dur"]) for event in found] == [(1500.0, 200.0)] * (1 if cut else 2)


def test_stages_are_shown_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, stage in enumerate(("extract", "train")):
        lines = [["X", "main", "cut", number * MS, 1000]]
        write_rank(tmp_path / stage / "trace" / "0001", 0, 1, lines, stage=stage, footer=stage == "extract")
    trace([tmp_path / "extract", tmp_path / "train"], tmp_path / "all.json.gz", None, False, None)
    said = capsys.readouterr().out
    assert f"trace: 2 ranks, 10 events: {tmp_path / 'all.json.gz'}; open it at https://ui.perfetto.dev" in said
    assert "not closed, killed or still running: train rank 0\n" in said


def test_memory_does_not_grow_with_the_record(tmp_path: Path) -> None:
    peaks = []
    for count in (100, 400):  # either more than a reader's buffer
        root = tmp_path / str(count)
        for rank, lines in enumerate(steps(8, count, lambda rank, step: {"data": 0.1, "forward": 2, "backward": 3})):
            write_rank(folder(root), rank, 8, lines)
        tracemalloc.start()
        merge(find_rank_files(root)[1], root / NAME)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0] < 4_000_000
