"""Records: what is written can be read, also after a kill; what is no record is refused; a full disk costs the trace, not the job."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from patience import patience
from sample_traces import EPOCH, write_rank

from hpc_galaxy.config import Trace
from hpc_galaxy.config.tracing import Profiler
from hpc_galaxy.errors import FormatError, InputError
from hpc_galaxy.tracing import recorder as recorder_module
from hpc_galaxy.tracing.attempt import attempts, recording
from hpc_galaxy.tracing.reading import Counter, RankFile, Span, find_rank_files
from hpc_galaxy.tracing.recorder import READER, Recorder
from hpc_galaxy.tracing.spans import Stopwatch
from hpc_galaxy.training.profiling import profiling
from hpc_galaxy.world import World

ON = Trace(spans=True)


def test_what_is_recorded_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder_module, "FLUSH_SECONDS", 1000.0)  # each time there is a rate
    with recording(ON, tmp_path, "extract", World()) as recorder:
        assert recorder is not None
        watch = Stopwatch(recorder)
        with watch.span("cut", detail='1234p056 "quoted"'):
            time.sleep(0.01)
        with watch.span("read", READER, 7):
            pass
        watch.count("examples", 8)
        watch.lap("step", 1)
        recorder.note({"flops_per_image": 3})
    file = RankFile(tmp_path / "trace" / "0001" / "rank_000000.jsonl")
    cut, read, step, rate, memory, note, footer = file.items()
    assert isinstance(cut, Span) and (cut.track, cut.name, cut.detail) == ("main", "cut", '1234p056 "quoted"')
    assert cut.duration == pytest.approx(watch.seconds["cut"] * 1e9, rel=1e-6) and cut.duration >= 10**7
    assert isinstance(read, Span) and (read.track, read.name, read.detail) == ("reader", "read", 7) and read.start >= cut.end
    assert isinstance(step, Span) and (step.track, step.name, step.detail) == ("steps", "step", 1) and step.end >= read.end
    assert isinstance(rate, Counter) and rate.value * step.duration == pytest.approx(8e9, rel=1e-4)
    assert isinstance(memory, Counter) and memory.name == "memory (MB)" and memory.value > 1
    assert note == {"flops_per_image": 3}
    assert footer["ended"] == "well" == file.footer["ended"]
    assert abs(file.to_time_of_day(cut.end) - time.time_ns()) < 60 * 10**9


def test_nothing_is_written_unless_asked_for(tmp_path: Path) -> None:
    with recording(Trace(), tmp_path, "extract", World()) as recorder:
        assert recorder is None
    assert not list(tmp_path.iterdir())


def test_each_start_has_a_folder_of_its_own(tmp_path: Path) -> None:
    for _ in range(2):
        with recording(ON, tmp_path, "train", World()):
            pass
    with pytest.raises(ZeroDivisionError), recording(ON, tmp_path, "train", World()):
        raise ZeroDivisionError
    assert [folder.name for folder in attempts(tmp_path)] == ["0001", "0002", "0003"]
    assert find_rank_files(tmp_path)[1][0].footer == {"ended": "by ZeroDivisionError"}
    assert find_rank_files(tmp_path, 1)[1][0].footer["ended"] == "well"
    with pytest.raises(InputError, match="holds no trace number 7; run the stage with --trace"):
        find_rank_files(tmp_path, 7)


def test_a_process_that_hangs_has_handed_over_what_it_did(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder_module, "FLUSH_SECONDS", 0.05)
    with recording(ON, tmp_path, "train", World()) as recorder:
        assert recorder is not None
        recorder.span("main", "forward", 1, 2)
        deadline = time.monotonic() + patience(10)
        while not list(RankFile(recorder.path).items()) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert list(RankFile(recorder.path).items()) == [Span("main", "forward", 1, 1)]


def test_a_full_disk_costs_the_trace_and_not_the_job(capsys: pytest.CaptureFixture[str]) -> None:
    recorder = Recorder(Path("/dev/full"), {})
    for _ in range(3):
        recorder.span("main", "forward", 1, 2)
        recorder.flush()
    recorder.close({})
    assert capsys.readouterr().err == "hpc-galaxy: no trace in /dev/full (No space left on device); the job goes on without\n"


def test_a_window_that_cannot_be_written_costs_the_window_and_not_the_job(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with recording(ON, tmp_path, "train", World()) as recorder:
        assert recorder is not None
        recorder.path = tmp_path / "gone" / "file" / "rank"
        (tmp_path / "gone").write_text("a file where a folder should be")
        with profiling(Profiler(ranks=(0,), wait=0, warmup=1, active=1), recorder, 0) as step:
            step()
            step()
    assert "hpc-galaxy: no window of torch.profiler: " in capsys.readouterr().err


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(0, 400))
def test_a_file_may_end_anywhere(cut: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = write_rank(tmp_path_factory.mktemp("cut"), 0, 1, [["X", "main", "forward", n, 5] for n in range(4)], footer=False)
    content = path.read_bytes()
    path.write_bytes(content[: max(0, len(content) - cut)])
    whole = path.read_bytes().count(b"\n")
    if not whole:
        with pytest.raises(FormatError, match="does not begin with a trace's header of version 1; leave it out"):
            RankFile(path)
    else:
        assert [item.start for item in RankFile(path).items() if isinstance(item, Span)] == list(range(whole - 1))
        assert RankFile(path).footer == {}


WRONG = [
    '["X","main"]',
    '["X","main","f",1,-1]',
    '["X","main","f","1",2]',
    '["C","m",1,"x"]',
    "[]",
    "3",
    "word",
    '["X",1,2,3,4]',
    "[" * 9999,
]


@pytest.mark.parametrize("line", WRONG)
def test_a_line_that_is_none_ends_the_record(line: str, tmp_path: Path) -> None:
    path = write_rank(tmp_path, 0, 1, [["X", "main", "forward", 1, 5]], footer=False)
    with path.open("a") as file:
        file.write(line + '\n["X","main","forward",2,5]\n')
    assert [item.start for item in RankFile(path).items() if isinstance(item, Span)] == [1]


@pytest.mark.parametrize("name", ["version", "rank", "stage", "clock", "node_epoch"])
def test_a_header_that_lacks_something_is_refused(name: str, tmp_path: Path) -> None:
    path = write_rank(tmp_path, 0, 1, [])
    header = json.loads(path.read_text().splitlines()[0])
    path.write_text(json.dumps({**header, name: "wrong" if name != "stage" else 3}) + "\n")
    with pytest.raises(FormatError, match=rf"{name if name != 'version' else 'does not begin with'}"):
        RankFile(path)


def test_a_clock_that_drifts_is_followed(tmp_path: Path) -> None:
    path = write_rank(tmp_path, 1, 2, [], ahead=5000, footer=False)
    with path.open("a") as file:
        file.write(json.dumps({"ended": "well", "clock": {"at": 1_005_000, "to_time_of_day": EPOCH - 5000 + 100, "error": 0}}) + "\n")
    found = RankFile(path)
    assert found.to_time_of_day(5000) == EPOCH
    assert found.to_time_of_day(505_000) == EPOCH + 500_050
    assert found.from_node_time_of_day(EPOCH) == 5000
