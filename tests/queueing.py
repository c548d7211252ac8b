"""Stages that ``hpc-galaxy submit`` has sent to the tests' Slurm: configure, submit, look, wait, and let a job start again at once."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from helpers import made_once
from patience import LOOK_SECONDS, patience
from sample_shards import make_shards

from hpc_galaxy.files import lock
from hpc_galaxy.ledger import LOCK

SITE = {
    "about": "the tests' own cluster",
    "source": "",
    "scheduler": "slurm",
    "cores_per_node": 2,
    "gpus_per_node": 0,
    "account": False,
    "ended": "",
    "launcher": {"line": "srun --mpi=pmix --kill-on-bad-exit=1", "why": "Open MPI speaks PMIx", "source": ""},
    "ranks": {"extract": 1, "split": 1, "train": 1, "realism": 1},
}
SETTLE_SECONDS = 8
LIMIT = "00:05:00"
STARTS = 3
GOES_ON = ("PENDING", "RUNNING", "COMPLETING")
HPC_GALAXY = (sys.executable, "-m", "hpc_galaxy")
SLOW = Path(__file__).parent / "slurm" / "slow"


def configure(root: Path, content: dict[str, Any], environment: dict[str, str] | None = None) -> tuple[str, ...]:
    """Write a configuration and the site, and return the options that name them."""
    variables = [{"name": name, "value": value, "why": "a test's", "source": ""} for name, value in (environment or {}).items()]
    (root / "run.toml").write_text(tomli_w.dumps(content))
    (root / "tests.toml").write_text(tomli_w.dumps(SITE | {"environment": variables}))
    return ("-c", str(root / "run.toml"), "--site", str(root / "tests.toml"))


def wait_until(ready: Callable[[], Any], seconds: float, complaint: Callable[[], str]) -> float:
    """Wait until something is so, for the seconds that a usual machine needs at most; return how long that took.

    `complaint` says what was the matter when it never was.
    """
    start = time.monotonic()
    while not ready():
        if time.monotonic() > start + patience(seconds):
            pytest.fail(f"after {patience(seconds):g} s: {complaint()}", pytrace=False)
        time.sleep(LOOK_SECONDS)
    return time.monotonic() - start


@dataclass(frozen=True)
class Training:
    """A training on two nodes whose pace can be set, see ``slurm/slow/sitecustomize.py``."""

    slurm: Any
    root: Path
    options: tuple[str, ...]

    @classmethod
    def make(cls, slurm: Any, root: Path, shards: Path, **settings: Any) -> Training:
        """Configure one, in a directory of its own."""
        root.mkdir(parents=True)
        environment = {"PYTHONPATH": str(SLOW), "HPC_GALAXY_SLOW": str(root)}
        options = configure(root, {"paths": {"shards": str(shards)}, "train": TRAINING | settings}, environment)
        return cls(slurm, root, options)

    def submit(self, limit: str = LIMIT) -> str:
        """Submit it, and return the job's number."""
        done = self.slurm.run(*HPC_GALAXY, "submit", "train", "--nodes", "2", "--time", limit, *self.options)
        assert done.returncode == 0, done.stderr
        return re.findall(r"job (\d+): train", done.stdout)[0]

    def begin(self, more: int, limit: str = LIMIT, seconds: float = 60) -> str:
        """Submit it, wait until so many more steps have begun, and return the job's number.

        Open MPI 5.0.11 itself crashes in a start now and then, on a machine that is as busy as this one (open-mpi/ompi issue 11438): where
        it did so before there was a step, the training is submitted again, as a user would do.
        """
        before = self.begun()
        for _ in range(STARTS):
            job = self.submit(limit)
            begun = partial(self._begun_or_crashed, job, before + more)
            wait_until(begun, seconds, lambda: f"no {more} steps:\n{self.log()}")
            if not self.crashed(job):
                return job
        pytest.fail(f"Open MPI crashed at {STARTS} starts:\n{self.log()}", pytrace=False)

    def _begun_or_crashed(self, job: str, steps: int) -> bool:
        return self.begun() >= steps or self.crashed(job)

    def crashed(self, job: str) -> bool:
        """Return whether Open MPI itself has ended a job at its start."""
        log = self.root / "jobs" / f"hpc-galaxy-train-{job}.log"
        return log.exists() and "ompi_mpi_init" in log.read_text() and self.show(job, "JobState") not in GOES_ON

    def show(self, job: str, field: str) -> str:
        """Return what Slurm says of a job."""
        found = re.search(rf"\b{field}=(\S+)", self.slurm.run("scontrol", "--oneliner", "show", "job", job).stdout)
        return found[1] if found else ""

    def pace(self, seconds: float) -> None:
        """Let each step take so much longer."""
        (self.root / "pace").write_text(str(seconds) if seconds else "")

    def begun(self) -> int:
        """Return how many steps rank 0 has begun, in all jobs."""
        path = self.root / "begun-0"
        return path.stat().st_size if path.exists() else 0

    def wait_for_steps(self, more: int, seconds: float = 60) -> None:
        """Wait until so many more steps have begun."""
        before = self.begun()
        wait_until(lambda: self.begun() >= before + more, seconds, lambda: f"no {more} steps:\n{self.log()}")

    def saved(self) -> int:
        """Return the step of the newest checkpoint."""
        return max((int(path.stem.split("_")[1]) for path in (self.root / "run" / "checkpoints").glob("step_*.pt")), default=0)

    def wait_for_end(self, job: str, seconds: float = 60) -> tuple[str, str, float]:
        """Wait until a job has left the queue; return its state, its exit code as Slurm writes it, and how long that took."""
        queue = ("squeue", "--noheader", f"--jobs={job}")
        took = wait_until(lambda: not self.slurm.run(*queue).stdout.strip(), seconds, lambda: f"job {job} is still there:\n{self.log()}")
        return self.show(job, "JobState"), self.show(job, "ExitCode"), took

    def start_again(self, job: str, nodes: int = 4, seconds: float = 60) -> None:
        """Wait until a job that was stopped waits in the queue again, and let it start at once."""
        wait_until(lambda: self.show(job, "JobState") == "PENDING", seconds, lambda: f"job {job} was not queued again:\n{self.log()}")
        states = ("sinfo", "--noheader", "--Node", "--format=%T")
        wait_until(lambda: self.slurm.run(*states).stdout.split().count("idle") >= nodes, seconds, lambda: "its nodes are busy")
        # Slurm lets two minutes pass before it starts such a job again. A step that is started while its predecessor, which has the same
        # number, is still being cleared away fails; that takes the seconds of KillWait.
        time.sleep(SETTLE_SECONDS)
        self.slurm.run("scontrol", "update", f"JobId={job}", "StartTime=now")

    def finish(self, job: str) -> None:
        """Let a job go on to its end, without another limit."""
        self.slurm.run("scontrol", "update", f"JobId={job}", "TimeLimit=01:00:00")
        under_way = time.monotonic()
        deadline = under_way + patience(180)
        while (state := self.show(job, "JobState")) != "COMPLETED":
            now = time.monotonic()
            # On its way back into the queue a job is TIMEOUT or FAILED for a moment, and a busy controller may not answer.
            under_way = now if state in ("PENDING", "RUNNING", "COMPLETING") else under_way
            assert now < min(deadline, under_way + patience(15)), f"job {job} is {state or 'not known'}:\n{self.log()}"
            if state == "PENDING":
                self.start_again(job, nodes=2)
                wait_until(lambda: self.show(job, "JobState") != "PENDING", 30, lambda: f"job {job} does not start")
            time.sleep(LOOK_SECONDS)
        assert self.show(job, "ExitCode") == "0:0"

    def log(self) -> str:
        """Return what all its jobs have said."""
        return "".join(path.read_text() for path in sorted((self.root / "jobs").glob("*.log")))

    def status(self) -> str:
        """Return what the user is told."""
        return str(self.slurm.run(*HPC_GALAXY, "status", str(self.root)).stdout)

    def require_free(self) -> None:
        """Nobody holds the directory, and no file in it is half-written."""
        with lock(self.root / "run" / LOCK):
            pass

    def tensors(self) -> bytes:
        """Return the weights, bit by bit, once it is done."""
        assert json.loads((self.root / "run" / "DONE").read_text())["epochs"] == TRAINING["epochs"]
        content = (self.root / "run" / "weights.safetensors").read_bytes()
        return content[8 + int.from_bytes(content[:8], "little") :]


TRAINING = {
    "epochs": 6,
    "batch_size": 8,
    "threads": 1,
    "backend": "mpi",
    "saving": {"every_steps": 8, "curve": False},
    "watchdog": {"silent_seconds": patience(5)},
}
EXAMPLES = 512  # 32 steps an epoch, 192 in all


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What they are trained on."""
    return made_once(tmp_path_factory, "queued", lambda root: make_shards(root, train=EXAMPLES, valid=16, test=16, size=16))


@pytest.fixture(scope="session")
def undisturbed(slurm: Any, shards: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The weights of a run that nothing happens to."""

    def make(root: Path) -> None:
        training = Training.make(slurm, root / "training", shards)
        state, code, _ = training.wait_for_end(training.begin(1), 120)
        assert (state, code) == ("COMPLETED", "0:0"), training.log()
        (root / "weights").write_bytes(training.tensors())

    return (made_once(tmp_path_factory, "undisturbed", make) / "weights").read_bytes()
