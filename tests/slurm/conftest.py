"""A real Slurm with four nodes on this machine, started for the tests and stopped afterwards by process id."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import helpers
import pytest
from patience import LOOK_SECONDS, patience
from queueing import shards, undisturbed

__all__ = ["shards", "slurm", "undisturbed"]

NODES = 4
START_SECONDS = 30
FINAL_STATES = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE", "PREEMPTED"}

# Nodes on one host need ports, spool and temporary directories of their own; without the last, PMIx's files collide.
# A munge socket of our own makes the fixture independent of a munged that runs, or does not, on this machine.
CONFIGURATION = """\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={root}/munge.socket
CredType=cred/munge
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool/%n
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd-%n.pid
TmpFS={root}/tmp/%n
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SwitchType=switch/none
MailProg=/bin/true
MpiDefault=none
SlurmdTimeout=10
KillWait=5
MinJobAge=86400
JobRequeue=1
ReturnToService=2
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=10 State=UP
"""


@dataclass(frozen=True)
class Slurm:
    """A running cluster: its directory, the environment in which its commands work, and what will be stopped at the end."""

    root: Path
    env: Mapping[str, str] = field(repr=False)
    daemons: ExitStack = field(default_factory=ExitStack, repr=False)

    def run(self, *command: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a command against this cluster; a hang fails the test, the exit code is the caller's to check."""
        return helpers.run_group(command, timeout=timeout, env=self.env, cwd=self.root)

    def srun(self, *arguments: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run ``srun`` with a time limit: jobs wait 20 s at most for nodes, and die with their first failing rank."""
        return self.run("srun", "--immediate=20", *arguments, timeout=timeout)

    def sbatch(self, script: str, *options: str, timeout: float = 60) -> tuple[str, str]:
        """Submit a script, wait for its end, and return its final state and its output."""
        output = self.root / f"job-{time.monotonic_ns()}.out"
        file = output.with_suffix(".sbatch")
        file.write_text(f"#!/bin/bash\n{script}\n")
        submitted = self.run("sbatch", "--parsable", f"--output={output}", *options, str(file))
        assert submitted.returncode == 0, submitted.stderr
        job, end = submitted.stdout.strip(), time.monotonic() + patience(timeout)
        while (state := self._state(job)) not in FINAL_STATES:
            if time.monotonic() > end:
                self.run("scancel", job)
                pytest.fail(f"job {job} is {state} after {timeout:g} s:\n{_tail(output)}", pytrace=False)
            time.sleep(LOOK_SECONDS)
        return state, output.read_text()

    def start_node(self, name: str) -> None:
        """Start a node's daemon again after it was killed, and wait until all nodes are there."""
        self.daemons.callback(_stop, _start(f"slurmd-{name}", ["slurmd", "-D", "-N", name], self))
        _wait(lambda: _idle_nodes(self) == NODES, self, f"{name} did not come back")

    def _state(self, job: str) -> str:
        match = re.search(r"JobState=(\w+)", self.run("scontrol", "--oneliner", "show", "job", job).stdout)
        return match[1] if match else "unknown"


@pytest.fixture(scope="session")
def slurm(require: Callable[[str], None]) -> Iterator[Slurm]:
    """A Slurm of four nodes, n1 to n4, four CPUs each."""
    require("slurm")
    # Not pytest's own temporary directory: a munge socket's path may have 107 characters.
    root = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
    cluster = Slurm(root, _environment(root))
    try:
        with cluster.daemons as daemons:
            _configure(root)
            for name, command in _commands(root).items():
                daemons.callback(_stop, _start(name, command, cluster))
                if name == "munged":
                    _wait(lambda: (root / "munge.socket").exists(), cluster, "munged made no socket")
            _wait(lambda: _idle_nodes(cluster) == NODES, cluster, f"not all of {NODES} nodes became idle")
            daemons.callback(cluster.run, "scancel", "--user=root")
            yield cluster
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _environment(root: Path) -> dict[str, str]:
    """Return an environment without any outer Slurm or MPI, and with this Python's programs first."""
    outer = {name: value for name, value in helpers.mpi_environ().items() if not name.startswith(("SLURM_", "PMI", "PRTE_"))}
    path = os.pathsep.join((str(Path(sys.executable).parent), outer.get("PATH", ""), "/usr/sbin", "/sbin"))
    return outer | {"PATH": path, "SLURM_CONF": str(root / "slurm.conf")}


def _configure(root: Path) -> None:
    names = [f"n{number}" for number in range(1, NODES + 1)]
    for folder in ("state", *(f"{kind}/{name}" for kind in ("spool", "tmp") for name in names)):
        (root / folder).mkdir(parents=True)
    root.chmod(0o755)  # munged refuses a socket in a directory that others cannot enter
    key = root / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(os.urandom(1024))
    host, ports = socket.gethostname().split(".")[0], _free_ports(NODES + 1)
    nodes = "\n".join(
        f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=4 RealMemory=2000 State=UNKNOWN"
        for name, port in zip(names, ports[1:], strict=True)
    )
    (root / "slurm.conf").write_text(CONFIGURATION.format(host=host, ports=ports, root=root, nodes=nodes))


def _free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on now; all are held until the last is found, so that they differ."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _commands(root: Path) -> dict[str, list[str]]:
    files = {f"--{kind}-file": root / f"munge.{kind}" for kind in ("key", "pid", "log", "seed")}
    munged = ["--foreground", "--force", f"--socket={root}/munge.socket", *(f"{option}={path}" for option, path in files.items())]
    commands = {"munged": ["munged", *munged], "slurmctld": ["slurmctld", "-D", "-i"]}
    return commands | {f"slurmd-n{number}": ["slurmd", "-D", "-N", f"n{number}"] for number in range(1, NODES + 1)}


def _start(name: str, command: Sequence[str], cluster: Slurm) -> subprocess.Popen[bytes]:
    program = helpers.beside_python(command[0]) or command[0]
    with open(cluster.root / f"{name}.log", "wb") as log:
        return subprocess.Popen([program, *command[1:]], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=dict(cluster.env))


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(patience(10))
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(patience(10))


def _idle_nodes(cluster: Slurm) -> int:
    states = cluster.run("sinfo", "--noheader", "--Node", "--format=%T").stdout.split()
    return states.count("idle")


def _wait(ready: Callable[[], bool], cluster: Slurm, complaint: str) -> None:
    end = time.monotonic() + patience(START_SECONDS)
    while not ready():
        if time.monotonic() > end:
            logs = "\n".join(f"--- {log.name}\n{_tail(log)}" for log in sorted(cluster.root.glob("*.log")))
            pytest.fail(f"{complaint} within {START_SECONDS} s\n{logs}", pytrace=False)
        time.sleep(LOOK_SECONDS)


def _tail(path: Path) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-20:]) if path.exists() else ""
