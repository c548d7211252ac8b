"""Who is taken for lost, and which signals are noted; no MPI. With real processes: tests/mpi/test_watchdog.py and tests/faults."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import threading
import time

import numpy as np
import pytest
from patience import patience

from hpc_galaxy.config.training import Watchdog as Settings
from hpc_galaxy.guarding import watchdog
from hpc_galaxy.guarding.signals import Signals
from hpc_galaxy.guarding.watchdog import PATIENCE_WITH_ROOT, Judge, Sign, Watchdog, main_thread_is_in, watches_root
from hpc_galaxy.world import World


def root(silent: float = 20, stalled: float = 900) -> Judge:
    judge = Judge(0, silent, stalled)
    for rank in (1, 2, 731):
        judge.hear(rank, 100.0, f"n{rank}", "epoch 2, step 31")
    return judge


def own(at: float, place: str = "epoch 2, step 31", doing: str = "average_gradients (flat:31)") -> Sign:
    return Sign(at, "n0", place, doing)


def test_a_rank_that_falls_silent_is_named() -> None:
    judge = root()
    assert judge.verdict(119.9, own(119.0)) is None
    judge.hear(1, 115.0, "n1", "epoch 2, step 31")
    judge.hear(2, 116.0, "n2", "epoch 2, step 31")
    assert judge.verdict(121.0, own(119.0)) == "rank 731 on n731 has been silent for 21 s, last at epoch 2, step 31"


def test_only_who_has_been_heard_of_is_judged_and_zero_switches_off() -> None:
    assert Judge(0, 20, 900).verdict(1e6, own(1e6)) is None
    assert root(silent=0).verdict(500.0, own(499.0)) is None
    assert root(silent=0, stalled=0).verdict(1e6, own(0.0)) is None
    assert root().unheard(4) == [3]
    assert Judge(5, 20, 900).unheard(7) == [0, 1, 2, 3, 4, 6]


def test_others_leave_it_to_rank_0_for_a_while() -> None:
    judge = Judge(5, 20, 60)
    judge.hear(0, 100.0, "n0", "epoch 1, step 1")
    assert judge.verdict(119 + PATIENCE_WITH_ROOT, own(119.0)) is None
    assert "rank 0 on n0 has been silent" in str(judge.verdict(121 + PATIENCE_WITH_ROOT, own(119.0)))
    judge.hear(0, 165.0, "n0", "epoch 1, step 1")
    assert judge.verdict(164.0, own(100.0)) is None
    assert "rank 5 on n0 has not advanced for 66 s" in str(judge.verdict(166.0, own(100.0)))


def test_of_ranks_that_do_not_advance_those_are_named_that_do_something_else() -> None:
    judge = Judge(0, 20, 60)
    for rank in range(1, 8):
        judge.hear(rank, 161.0, f"n{rank}", "epoch 2, step 31", "average_gradients (flat:31)")
    assert judge.verdict(159.0, own(100.0)) is None
    same = "rank 0 on n0 has not advanced for 61 s, last at epoch 2, step 31, in average_gradients (flat:31)"
    assert judge.verdict(161.0, own(100.0)) == same
    judge.hear(3, 161.0, "n3", "epoch 2, step 31", "batches (loop:134)")
    assert judge.verdict(161.0, own(100.0)) == f"{same} (rank 3 at epoch 2, step 31, in batches (loop:134))"
    # Where rank 0 itself is what all wait for, the others are many.
    told = str(judge.verdict(161.0, own(100.0, doing="save (checkpoint:90)")))
    rest = "ranks 1, 2, 4, 5 and 2 more at epoch 2, step 31, in average_gradients (flat:31)"
    assert told.endswith(f"in save (checkpoint:90) (rank 3 at epoch 2, step 31, in batches (loop:134); {rest})")


@pytest.mark.parametrize(("size", "watchers"), [(2, 1), (3, 2), (17, 16), (1000, 15), (10_000, 15)])
def test_few_but_enough_ranks_watch_rank_0(size: int, watchers: int) -> None:
    who = [rank for rank in range(1, size) if watches_root(rank, size)]
    assert len(who) == watchers
    assert max(np.diff([0, *who, size])) <= -(-size // 15)  # spread over all nodes


def test_a_process_that_was_stopped_itself_accuses_nobody() -> None:
    judge = root()
    judge.forgive(1000.0)
    assert judge.verdict(1019.0, own(1000.0)) is None
    assert judge.verdict(1021.0, own(1000.0)) is not None


def test_what_the_main_thread_does_is_found_from_another() -> None:
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.append(main_thread_is_in()))
    World().say(_Waiting(thread))
    assert len(found) == 1 and found[0].startswith("say (world:")


class _Waiting(str):
    """A text whose printing takes until the thread has looked."""

    def __new__(cls, thread: threading.Thread) -> _Waiting:
        self = super().__new__(cls)
        self.thread = thread
        return self

    def __str__(self) -> str:
        self.thread.start()
        self.thread.join()
        return ""


def test_foreign_datagrams_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "BEAT_SECONDS", 4.0)
    with Watchdog(World(size=3, local_size=3), Settings(silent_seconds=0, stalled_seconds=60)) as dog:
        sign = json.dumps((1, "n1", "epoch 1, step 1", "save (checkpoint:90)")).encode()
        foreign = (b"", b"hello", b"5", b"[[[[", b"\xff\xfe", dog._token[:8], b"0" * 16 + sign)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.settimeout(2)
            for content in foreign:
                sender.sendto(content, dog._socket.getsockname())
            time.sleep(0.3)
            assert dog._judge.signs == {} and dog._thread.is_alive()
            sender.sendto(dog._token + sign, dog._socket.getsockname())
            answer = sender.recv(2048)  # at once, not with the next beat: it is new
        assert dog._judge.signs[1].place == "epoch 1, step 1"
        assert answer.startswith(dog._token) and json.loads(answer[len(dog._token) :])[0] == 0


def test_who_is_never_heard_of_is_told_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(watchdog, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(watchdog, "UNHEARD_SECONDS", 0.2)
    with Watchdog(World(size=3, local_size=3), Settings(silent_seconds=20, stalled_seconds=60)) as dog:
        time.sleep(0.8)
    assert not dog._thread.is_alive()  # the watch ends with the block
    said = capsys.readouterr().err
    assert said.count("hpc-galaxy: watchdog: nothing has been heard of ranks 1, 2 of 3 for 0 s, and nobody will notice") == 1


def test_the_thread_ends_a_job_that_stalls_and_leaves_one_that_advances(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "BEAT_SECONDS", patience(0.05))
    ends: list[str] = []
    monkeypatch.setattr(Watchdog, "_end", lambda self, problem: ends.append(problem))
    with Watchdog(World(), Settings(silent_seconds=0, stalled_seconds=patience(0.5))) as dog:
        for step in range(10):
            dog.beat(f"step {step}")
            time.sleep(0.1)
        assert ends == []
        end = time.monotonic() + patience(5)
        while not ends and time.monotonic() < end:
            time.sleep(0.05)
        time.sleep(patience(0.5))  # it is said once, however often it is looked at
        assert len(ends) == 1 and re.search(r"has not advanced for \d+ s, last at step 9, in ", ends[0])


def test_where_ending_the_job_hangs_the_process_leaves_by_itself(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    aborted, left = [], []

    def abort(self: World, code: int) -> None:
        aborted.append(code)
        time.sleep(1.0)

    monkeypatch.setattr(watchdog, "ABORT_SECONDS", 0.2)
    monkeypatch.setattr(World, "abort", abort)
    monkeypatch.setattr(os, "_exit", left.append)
    with Watchdog(World(), Settings(silent_seconds=0, stalled_seconds=0)) as dog:
        start = time.monotonic()
        dog._end("rank 3 on n3 has been silent for 21 s, last at epoch 2, step 31")
        assert time.monotonic() - start < 0.8
    assert aborted == left == [watchdog.STUCK] == [76]
    assert "last at epoch 2, step 31; the job ends here; start the same command again" in capsys.readouterr().err


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


def test_outside_the_main_thread_nothing_is_noted_and_nothing_fails() -> None:
    before = signal.getsignal(signal.SIGUSR1)
    found: list[object] = []

    def enter() -> None:
        with Signals() as signals:
            found.extend([signals.received, signal.getsignal(signal.SIGUSR1)])

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert found == [None, before]
