"""Start a stage on ranks, and kill it as a node that loses its power does."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import helpers
import psutil
from patience import patience
from preforked import behind, preforked, python

WRITES_TO = {"extract": "cutouts", "split": "shards"}


def start(verb: str, config: Path, out: Path, ranks: int) -> subprocess.Popen[bytes]:
    """Start ``hpc-galaxy VERB`` with its outputs in `out`."""
    launcher = [] if ranks == 1 else [str(helpers.beside_python("mpirun")), "--oversubscribe", "--bind-to", "none", "-n", str(ranks)]
    command = [*launcher, python(), "-m", "hpc_galaxy", verb, "-c", str(config), "--set", f"paths.{WRITES_TO[verb]}='{out}'"]
    # What a killed mpirun leaves behind would be in the way of a later one that gets the same process number.
    own = out.parent / "mpi"
    own.mkdir(parents=True, exist_ok=True)
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command, env=helpers.mpi_environ({"TMPDIR": str(own)}) | preforked(), start_new_session=True, **quiet)


def kill_all(process: subprocess.Popen[bytes]) -> None:
    """Kill the job and every process of it at once, as a node that loses its power does."""
    members = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    for member in [*map(behind, members), *members]:
        try:
            os.kill(member.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait(patience(30))


def claimed(out: Path) -> int | None:
    """Return when a job last claimed the directory, None if none has."""
    lock = out / ".lock"
    return lock.stat().st_mtime_ns if lock.exists() and lock.stat().st_size else None


def wait_for_claim(out: Path, before: int | None) -> float:
    """Wait until a job has claimed the directory since `before`; return the time."""
    deadline = time.monotonic() + patience(60)
    while claimed(out) in (None, before):
        assert time.monotonic() < deadline
        time.sleep(0.002)
    return time.monotonic()


def run_undisturbed(verb: str, config: Path, root: Path) -> dict[int, float]:
    """Run a stage on one rank and on two, into ``root/undisturbed-RANKS``; return how long each took from its claim on."""
    seconds = {}
    for ranks in (1, 2):
        process = start(verb, config, root / f"undisturbed-{ranks}", ranks)
        begun = wait_for_claim(root / f"undisturbed-{ranks}", None)
        assert process.wait(patience(120)) == 0
        seconds[ranks] = time.monotonic() - begun
    return seconds
