"""Who is taken for lost, and which signals are noted; no MPI. With real processes: tests/faults."""

from __future__ import annotations

import json
import os
import signal
import time

import pytest

from hpc_galaxy.config.training import Watchdog as Settings
from hpc_galaxy.training.guarding import watchdog
from hpc_galaxy.training.guarding.signals import Signals
from hpc_galaxy.training.guarding.watchdog import PATIENCE_WITH_ROOT, Judge, Watchdog
from hpc_galaxy.world import World


def root(silent: float = 20, stalled: float = 900) -> Judge:
    judge = Judge(0, silent, stalled)
    for rank in (1, 2, 731):
        judge.hear(rank, 100.0, f"n{rank}", "epoch 2, step 31")
    return judge


def test_a_rank_that_falls_silent_is_named() -> None:
    judge = root()
    assert judge.verdict(119.9, 119.0, "epoch 2, step 31") is None
    judge.hear(1, 115.0, "n1", "epoch 2, step 31")
    judge.hear(2, 116.0, "n2", "epoch 2, step 31")
    assert judge.verdict(121.0, 119.0, "epoch 2, step 31") == "rank 731 on n731 has been silent for 21 s, last at epoch 2, step 31"


def test_only_who_has_been_heard_of_is_judged_and_zero_switches_off() -> None:
    assert Judge(0, 20, 900).verdict(1e6, 1e6, "") is None
    assert root(silent=0).verdict(500.0, 499.0, "") is None
    assert root(silent=0, stalled=0).verdict(1e6, 0.0, "") is None


def test_others_leave_it_to_rank_0_for_a_while() -> None:
    judge = Judge(5, 20, 900)
    judge.hear(0, 100.0, "n0", "epoch 1, step 1")
    assert judge.verdict(119 + PATIENCE_WITH_ROOT, 119.0, "") is None
    assert "rank 0 on n0 has been silent" in str(judge.verdict(121 + PATIENCE_WITH_ROOT, 119.0, ""))


def test_a_rank_that_lives_and_does_not_advance() -> None:
    judge = Judge(3, 20, 60)
    judge.hear(0, 161.0, "n0", "epoch 2, step 32")
    expected = "rank 3 has not advanced for 61 s, last at epoch 2, step 31 (rank 0 at epoch 2, step 32)"
    assert judge.verdict(161.0, 100.0, "epoch 2, step 31") == expected


def test_a_process_that_was_stopped_itself_accuses_nobody() -> None:
    judge = root()
    judge.forgive(1000.0)
    assert judge.verdict(1019.0, 1000.0, "") is None
    assert judge.verdict(1021.0, 1000.0, "") is not None


def test_foreign_datagrams_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "BEAT_SECONDS", 0.1)
    with Watchdog(World(size=2, local_size=2), Settings(silent_seconds=0, stalled_seconds=60)) as dog:
        token, address = dog._token, ("127.0.0.1", 9)
        for content in (
            b"hello",
            b"[1, 2]",
            b'{"a": 1}',
            json.dumps(("other", 1, "n1", "x")).encode(),
            json.dumps((token, 7, "n7", "x")).encode(),
        ):
            dog._note(content, address)
        assert dog._judge.signs == {}
        dog._note(json.dumps((token, 1, "n1", "epoch 1, step 1")).encode(), address)
        assert dog._judge.signs[1].place == "epoch 1, step 1"


def test_the_thread_ends_a_job_that_stalls_and_leaves_one_that_advances(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "BEAT_SECONDS", 0.05)
    ends: list[str] = []
    monkeypatch.setattr(Watchdog, "_end", lambda self, problem: ends.append(problem))
    with Watchdog(World(), Settings(silent_seconds=0, stalled_seconds=0.5)) as dog:
        for step in range(10):
            dog.beat(f"step {step}")
            time.sleep(0.1)
        assert ends == []
        time.sleep(1.0)
        assert len(ends) == 1 and ends[0].startswith("rank 0 has not advanced for 1 s, last at step 9")


def test_a_beat_costs_next_to_nothing() -> None:
    dog = Watchdog(World(), Settings(silent_seconds=0, stalled_seconds=0))
    with dog:
        dog.beat("epoch 1, step 1")
        assert dog._last[1] == "epoch 1, step 1"
        assert not dog._thread.is_alive()  # nothing to watch for


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM])
def test_signals_are_noted_and_the_handlers_put_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with Signals() as signals:
        assert signals.received is None
        os.kill(os.getpid(), number)
        time.sleep(0.01)
        assert signals.received is number
    assert signal.getsignal(number) is before
