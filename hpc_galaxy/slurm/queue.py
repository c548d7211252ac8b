"""The schedulers' commands: submit a script, and ask what has become of jobs."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from hpc_galaxy.errors import LaunchError

ACTIVE = {"PENDING", "RUNNING", "SUSPENDED", "COMPLETING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT", "STAGE_OUT"}
PBS_STATES = {"Q": "PENDING", "H": "PENDING", "W": "PENDING", "R": "RUNNING", "E": "COMPLETING", "F": "ENDED"}
GONE = "no longer known"


def submit_script(script: Path, scheduler: str, after: Sequence[str] = ()) -> str:
    """Submit a script, to be started when the jobs `after` have ended well; return its job number.

    Raises
    ------
    LaunchError
        There is no such scheduler here, or it refused the job.
    """
    if scheduler == "pbs":
        return ask(["qsub", *(["-W", f"depend=afterok:{':'.join(after)}"] if after else []), str(script)]).strip()
    depends = [f"--dependency=afterok:{':'.join(after)}", "--kill-on-invalid-dep=yes"] if after else []
    return ask(["sbatch", "--parsable", *depends, str(script)]).strip().split(";")[0]


def job_states(jobs: Sequence[str], scheduler: str) -> dict[str, str]:
    """Return each job's state in Slurm's words, such as ``PENDING``; `GONE` where the scheduler has forgotten it.

    Of an array it is that of a part which is under way; otherwise of one that has not ended well, if there is any.
    """
    states = {}
    for job in jobs:
        command = ["qstat", "-xf", job] if scheduler == "pbs" else ["scontrol", "--oneliner", "show", "job", job]
        try:
            found = re.findall(r"JobState=(\w+)|job_state = (\w)", ask(command))
        except LaunchError:
            found = []
        parts = [slurm or PBS_STATES.get(pbs, pbs) for slurm, pbs in found]
        states[job] = min(parts, key=lambda state: (state not in ACTIVE, state == "COMPLETED"), default=GONE)
    return states


def why_waiting(job: str, scheduler: str) -> str:
    """Return why a waiting job waits, in Slurm's word, such as ``PartitionTimeLimit``, with the time before which it does not start; or "".

    Of an array's parts the first that says so.
    """
    if scheduler == "pbs":
        return ""
    try:
        found = re.search(r"JobState=PENDING Reason=(\w+).*? StartTime=(\S+)", ask(["scontrol", "--oneliner", "show", "job", job]))
    except LaunchError:
        return ""
    if not found or found[1] == "None":
        return ""
    return f"{found[1]} {found[2].replace('T', ' ')}" if found[1] == "BeginTime" else found[1]


def ask(command: Sequence[str]) -> str:
    """Run a command of the scheduler, and return what it prints.

    Raises
    ------
    LaunchError
        It is not there, or it failed.
    """
    if shutil.which(command[0]) is None:
        raise LaunchError(command[0], "not found on PATH", "run this where jobs are submitted")
    done = subprocess.run(command, text=True, stdin=subprocess.DEVNULL, capture_output=True)
    if done.returncode:
        said = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise LaunchError(command[0], said, "mend the options that it names")
    return done.stdout
