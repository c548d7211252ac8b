"""Spans and progress."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hpc_galaxy.tracing import progress
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
    monkeypatch.setattr("time.perf_counter", clock)
    return clock


def test_progress_is_said_ever_more_rarely(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in progress.announce(World(), "extract", "items", range(1000), 1000):
        clock.now += 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "extract: rank 0 of 1 did 6 of its 1,000 items, 994 s to go"
    assert [int(line.split()[6]) for line in lines[:6]] == [6, 17, 38, 79, 140, 201]


def test_a_slow_first_item_is_waited_for_in_silence(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    def slow() -> Iterator[int]:
        clock.now += 60
        yield 1

    assert list(progress.announce(World(), "train", "steps", slow(), 1)) == [1]
    assert capsys.readouterr().out == ""


def test_other_ranks_are_silent_and_take_their_share(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    taken = []
    for item in progress.track(World(rank=1, size=3), "split", list(range(30))):
        clock.now += 10
        taken.append(item)
    assert taken == list(range(1, 30, 3))
    assert capsys.readouterr().out == ""


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
    assert line == "extract: 1,000 cutouts in 10.0 s on 1 rank (100.0 cutouts/s); summed over ranks: read 6.0 s, write 4.0 s"
