"""Watchdog and signals with real processes, no torch: how soon a job is gone, what it says, its exit code; and who goes on."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from patience import patience

from hpc_galaxy.guarding.watchdog import PATIENCE_WITH_ROOT, STUCK

Mpirun = Callable[..., CompletedProcess[str]]
PROGRAM = str(Path(__file__).parent / "_watchdog_program.py")
SILENT, STALLED, PREEMPTED = 3.0, 4.0, 75
SPARE = patience(8)  # seconds until all processes are gone, on a machine that has other things to do


def run(mpirun: Mpirun, tmp_path: Path, what: str, stalled: float = 60.0) -> tuple[CompletedProcess[str], float]:
    """Let it happen; return how it ended, and how many seconds after the watch began."""
    arguments, environ = [PROGRAM, what, str(SILENT), str(stalled)], {"TMPDIR": str(tmp_path)}
    done = mpirun(2, arguments, timeout=60, env=environ, fresh=True)  # some send signals to their parent
    begun = re.search(r"^AT (\S+)$", done.stdout, re.MULTILINE)
    assert begun, done.stderr
    assert "Traceback" not in done.stderr
    return done, time.time() - float(begun[1])


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_stopped(mpirun: Mpirun, tmp_path: Path, rank: int) -> None:
    done, seconds = run(mpirun, tmp_path, f"stop_rank_{rank}")
    assert done.returncode == STUCK, done.stderr
    assert re.search(
        rf"hpc-galaxy: watchdog: rank {rank} on \S+ has been silent for \d+ s, last at (step \d|the beginning), in \w+ \(.*:\d+\); ",
        done.stderr,
    )
    assert done.stderr.count("hpc-galaxy: watchdog:") == 1
    assert "start the same command again: it continues" in done.stderr
    assert SILENT < seconds < SILENT + (0 if rank else PATIENCE_WITH_ROOT) + SPARE


def test_a_rank_that_lives_and_does_not_advance(mpirun: Mpirun, tmp_path: Path) -> None:
    done, seconds = run(mpirun, tmp_path, "busy_rank_1", stalled=STALLED)
    assert done.returncode == STUCK, done.stderr
    assert re.search(
        r"hpc-galaxy: watchdog: rank 0 on \S+ has not advanced for 4 s, last at step 5, in max \(world:\d+\) "
        r"\(rank 1 at step 5, in busy_rank_1 \(__main__:\d+\)\); ",
        done.stderr,
    )
    assert done.stderr.count("hpc-galaxy: watchdog:") == 1  # rank 1, which sees as much of itself, leaves it to rank 0
    assert STALLED < seconds < STALLED + SPARE


@pytest.mark.parametrize("what", ["slow_step", "pause_all"])
def test_who_is_slow_or_was_stopped_as_a_whole_goes_on(mpirun: Mpirun, tmp_path: Path, what: str) -> None:
    """Both end with rank 1 done 5 s before rank 0, which is longer than a silent rank is given."""
    done, seconds = run(mpirun, tmp_path, what)
    assert done.returncode == 0, done.stderr
    assert "finished" in done.stdout and "watchdog" not in done.stderr
    assert seconds > 2 * SILENT


@pytest.mark.parametrize(("what", "name"), [("usr1_to_rank_1", "SIGUSR1"), ("usr2_to_mpirun", "SIGUSR2"), ("term_to_rank_0", "SIGTERM")])
def test_a_signal_to_one_ends_all_together(mpirun: Mpirun, tmp_path: Path, what: str, name: str) -> None:
    done, seconds = run(mpirun, tmp_path, what)
    assert done.returncode == PREEMPTED, done.stderr
    assert done.stdout.count(f"hpc-galaxy: work: stopped by {name} after step ") == 1
    assert "ABORT" not in done.stderr and seconds < SPARE


def test_open_mpi_gives_no_time_after_term(mpirun: Mpirun, tmp_path: Path) -> None:
    """Why USR1 is what to send to mpirun. Should this fail one day, so much the better: say so in `Signals`."""
    done, seconds = run(mpirun, tmp_path, "term_to_mpirun")
    assert done.returncode not in (0, PREEMPTED)
    assert seconds < SPARE
