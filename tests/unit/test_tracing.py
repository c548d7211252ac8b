"""Spans and progress."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest

from hpc_galaxy.schedule import deal
from hpc_galaxy.tracing import progress, spans
from hpc_galaxy.tracing.spans import Stopwatch
from hpc_galaxy.world import World


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("time.monotonic", clock)
    monkeypatch.setattr(spans, "now", lambda: round(clock.now * 1e9))
    return clock


def test_progress_is_said_ever_more_rarely(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in progress.announce(World(), "extract", "items", range(1000), 1000):
        clock.now += 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "extract: 6 of 1,000 items, 994 s to go"
    assert [int(line.split()[1]) for line in lines[:6]] == [6, 17, 38, 79, 140, 201]


def test_a_slow_first_item_is_waited_for_in_silence(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    def slow() -> Iterator[int]:
        clock.now += 60
        yield 1

    assert list(progress.announce(World(), "train", "steps", slow(), 1)) == [1]
    assert capsys.readouterr().out == ""


def test_other_ranks_are_silent(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in progress.announce(World(rank=1, size=3), "split", "shards", range(30), 30):
        clock.now += 10
    assert capsys.readouterr().out == ""


def test_dealt_work_says_what_was_counted_and_estimates_the_rest_by_cost(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    watch = Stopwatch()
    for cost in deal(World(), "extract", "bricks", [1.0, 6.0, 3.0], watch, costs=[1.0, 6.0, 3.0]):
        clock.now += 2 * cost
        watch.count("cutouts", 1200)
        watch.count("failed", cost == 6)
    assert capsys.readouterr().out.splitlines() == ["extract: 1 of 3 bricks, 1,200 cutouts (100/s), 1 failed, 8 s to go"]


def test_summary_says_what_was_done_how_fast_and_where_the_time_went(clock: Clock) -> None:
    watch = Stopwatch()
    for _ in range(2):
        with watch.span("read"):
            clock.now += 3
        watch.count("cutouts", 500)
    with pytest.raises(ValueError), watch.span("write"):
        clock.now += 4
        raise ValueError
    line = watch.summary(World(), "extract", "cutouts")
    memory = int(re.findall(r"at most ([\d,]+) MB", line)[0].replace(",", ""))
    line = re.sub(r"at most [\d,]+ MB", "at most N MB", line)
    assert line == (
        "extract: 1,000 cutouts in 10.0 s on 1 rank, each of at most N MB (100.0 cutouts/s); summed over ranks: read 6.0 s, write 4.0 s"
    )
    assert 20 < memory < 20_000


def test_peak_memory_is_this_processs_own() -> None:
    """A rank that a large program starts has not been as large, whatever getrusage says; and freed memory counts."""
    large = np.ones(50_000_000)
    grow = "x = bytearray(b'x') * 200_000_000; del x"
    program = f"from hpc_galaxy.tracing.spans import peak_memory; print(peak_memory()); {grow}; print(peak_memory())"
    said = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=True).stdout
    before, after = map(int, said.split())
    assert before < large.nbytes < spans.peak_memory()
    assert 190e6 < after - before < 300e6
