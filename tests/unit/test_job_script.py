"""What a job script does when its ranks end, when it is warned, and when it is ended: run by bash, with a Slurm that is made up.

`tests/slurm` shows the same on a real one, where it takes minutes.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from patience import patience

from hpc_galaxy.slurm.script import Job, render
from hpc_galaxy.slurm.site import load_site

SCONTROL = """#!/bin/bash
if [ "$1" = requeue ]; then echo "$2" >> requeued; else echo "JobId=7 $(cat state) Dependency=(null)"; fi
"""
SRUN = "#!/bin/bash\nexit $(cat lost)\n"  # what asks whether all nodes answer
# A rank that is ready for signals after a while, and saves between two steps.
SAVING = """
import signal, sys, time
time.sleep(0.5)
came = []
signal.signal(signal.SIGUSR1, lambda *_: came.append(1))
print("ready", flush=True)
while not came:
    time.sleep(0.05)
sys.exit(75)
"""
STUCK = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(30)"
LIMIT, CANCELLED, RUNNING = "JobState=COMPLETING Reason=TimeLimit", "JobState=COMPLETING Reason=None", "JobState=RUNNING Reason=None"


class Script:
    """The script of a training whose rank is a Python program, in the background."""

    def __init__(self, folder: Path, rank: str, launcher: str = "env", state: str = RUNNING, restarts: int = 0, lost: int = 0) -> None:
        self.folder = folder
        (folder / "bin").mkdir()
        for name, text in (("scontrol", SCONTROL), ("srun", SRUN)):
            (folder / "bin" / name).write_text(text)
            (folder / "bin" / name).chmod(0o755)
        (folder / "lost").write_text(str(lost))
        (folder / "state").write_text(state)
        (folder / "rank.py").write_text(rank)
        site = load_site("generic-slurm")
        site = site.model_copy(update={"launcher": site.launcher.model_copy(update={"line": launcher})})
        job = Job("train", site, 1, "00:10:00", "", folder / "run.toml", program=f"{sys.executable} rank.py", restarts=3)
        (folder / "job.sh").write_text(render(job, "hpc-galaxy submit"))
        path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
        variables = {"PATH": path, "SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": str(restarts), "SLURM_JOB_NUM_NODES": "2"}
        with open(folder / "log", "w") as log:
            command = ["bash", str(folder / "job.sh")]
            self.process = subprocess.Popen(
                command, env=os.environ | variables, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )

    def wait_for(self, text: str) -> None:
        deadline = time.monotonic() + patience(20)
        while text not in self.log:
            assert time.monotonic() < deadline and self.process.poll() is None, self.log
            time.sleep(0.02)

    def end(self, seconds: float = 20) -> int:
        """Wait for its end; return its exit code. What it has left is killed, as Slurm does."""
        try:
            return self.process.wait(seconds)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(patience(10))

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    @property
    def requeued(self) -> str:
        path = self.folder / "requeued"
        return path.read_text() if path.exists() else ""


@pytest.mark.parametrize(("code", "expected", "requeued"), [(0, 0, ""), (1, 1, ""), (76, 0, "7\n"), (75, 0, "7\n")])
def test_what_was_stopped_is_queued_again_and_what_failed_is_not(tmp_path: Path, code: int, expected: int, requeued: str) -> None:
    script = Script(tmp_path, f"raise SystemExit({code})")
    assert (script.end(), script.requeued) == (expected, requeued), script.log


def test_a_failure_on_a_lost_node_is_queued_again(tmp_path: Path) -> None:
    script = Script(tmp_path, "raise SystemExit(14)", lost=1)
    assert (script.end(), script.requeued) == (0, "7\n"), script.log


def test_a_launcher_that_is_not_there_is_no_success(tmp_path: Path) -> None:
    script = Script(tmp_path, "", launcher="no-such-launcher")
    assert (script.end(), script.requeued) == (127, ""), script.log


def test_it_is_not_queued_again_for_ever(tmp_path: Path) -> None:
    script = Script(tmp_path, "raise SystemExit(75)", restarts=3)
    assert (script.end(), script.requeued) == (75, "")
    assert "queued again 3 times already; not once more (submit it again, with --restarts for more)" in script.log


def test_a_warning_before_python_is_ready_is_repeated(tmp_path: Path) -> None:
    script = Script(tmp_path, "print('started', flush=True)" + SAVING)
    script.wait_for("started")
    script.process.send_signal(signal.SIGUSR1)
    assert (script.end(), script.requeued) == (0, "7\n"), script.log
    assert "ready" in script.log


@pytest.mark.parametrize("warned", [False, True])
@pytest.mark.parametrize(("state", "code", "requeued"), [(LIMIT, 0, "7\n"), (CANCELLED, None, "")])
def test_the_limit_is_no_end_and_a_cancellation_is(tmp_path: Path, warned: bool, state: str, code: int | None, requeued: str) -> None:
    script = Script(tmp_path, STUCK, state=state)
    script.wait_for("ready")
    if warned:
        script.process.send_signal(signal.SIGUSR1)  # of which the rank, in the middle of a step, knows nothing
        time.sleep(0.3)
    os.killpg(script.process.pid, signal.SIGTERM)
    ended = script.end(5)  # before the rank has ended: KILL comes within seconds
    assert (ended == code if code is not None else ended != 0) and script.requeued == requeued, script.log


def test_ranks_that_save_on_term_before_they_have_to_make_room_are_waited_for(tmp_path: Path) -> None:
    script = Script(tmp_path, SAVING.replace("SIGUSR1", "SIGTERM"), state=RUNNING)
    script.wait_for("ready")
    os.killpg(script.process.pid, signal.SIGTERM)
    assert (script.end(), script.requeued) == (0, "7\n"), script.log
