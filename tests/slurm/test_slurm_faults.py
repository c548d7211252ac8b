"""What happens to a training under a real Slurm: nodes, ranks and users that end it. Each time what the user sees, and how it goes on."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import psutil
from queueing import TRAINING, Training, wait_until

PACE = 0.2
INTERVAL = TRAINING["saving"]["every_steps"]
GONE_WITHIN = 20.0  # seconds; measured: 1 to 8


def rank(training: Training, number: int) -> psutil.Process:
    """Return the process of a rank."""
    for process in psutil.process_iter(["cmdline", "environ"]):
        environ, command = process.info["environ"] or {}, process.info["cmdline"] or []
        mine = environ.get("HPC_GALAXY_SLOW") == str(training.root) and environ.get("SLURM_PROCID") == str(number)
        if mine and command[1:3] == ["-m", "hpc_galaxy"]:
            return process
    raise AssertionError(f"no rank {number}")


def daemon(slurm: Any, node: str) -> psutil.Process:
    """Return the slurmd of a node."""
    for process in psutil.process_iter(["cmdline", "environ"]):
        mine = (process.info["environ"] or {}).get("SLURM_CONF") == slurm.env["SLURM_CONF"]
        if mine and (process.info["cmdline"] or [])[1:] == ["-D", "-N", node]:
            return process
    raise AssertionError(f"no slurmd of {node}")


def lose_node_of(slurm: Any, victim: psutil.Process, node: str) -> None:
    """Kill the node on which a rank runs: the rank, the daemon of its step, and the node's own."""
    for process in (daemon(slurm, node), *[parent for parent in victim.parents() if parent.name().startswith("slurmstepd")], victim):
        process.kill()


def test_a_node_that_is_lost_costs_less_than_a_checkpoint(slurm: Any, shards: Path, undisturbed: bytes, tmp_path: Path) -> None:
    training = Training.make(slurm, tmp_path / "lost", shards)
    training.pace(PACE)
    job = training.begin(20)
    # The second node; the batch script runs on the first.
    nodes = slurm.run("scontrol", "show", "hostnames", training.show(job, "NodeList")).stdout.split()
    every = slurm.run("sinfo", "--noheader", "--Node", "--format=%N").stdout.split()
    others = f"NodeName={','.join(sorted({*every} - {*nodes}))}"
    # So that the job waits until it has been looked at: when a node is lost it may start again at once.
    slurm.run("scontrol", "update", others, "State=DRAIN", "Reason=test")
    lose_node_of(slurm, rank(training, 1), nodes[1])
    try:
        lost_at = time.monotonic()
        wait_until(lambda: training.show(job, "JobState") == "PENDING", 90, lambda: f"job {job} was not queued again:\n{training.log()}")
        print(f"queued again after {time.monotonic() - lost_at:.0f} s")
        assert 0 <= training.begun() - training.saved() <= INTERVAL
        assert "PENDING" in training.status()
        training.require_free()
        slurm.run("scontrol", "update", others, "State=RESUME")
        training.start_again(job, nodes=3)
        training.wait_for_steps(1)
        training.pace(0)
        assert training.wait_for_end(job)[:2] == ("COMPLETED", "0:0"), training.log()
        assert nodes[1] not in slurm.run("scontrol", "show", "hostnames", training.show(job, "NodeList")).stdout.split()
        assert training.show(job, "Restarts") == "1" and "training: continuing from epoch" in training.log()
        assert training.tensors() == undisturbed
    finally:
        slurm.run("scontrol", "update", others, "State=RESUME")
        slurm.start_node(nodes[1])


def test_one_fault_after_another_and_the_same_weights(slurm: Any, shards: Path, undisturbed: bytes, tmp_path: Path) -> None:
    training = Training.make(slurm, tmp_path / "faults", shards)
    training.pace(PACE)

    # Warned, queued again, and cancelled while it waits: nothing is lost.
    job = training.begin(10)
    slurm.run("scancel", "--signal=USR1", "--batch", job)
    wait_until(lambda: training.show(job, "JobState") == "PENDING", 30, training.log)
    slurm.run("scancel", job)
    assert "stopped by SIGUSR1 after" in training.log() and training.begun() - training.saved() <= 1
    check_ended(training, job, "CANCELLED")

    # Cancelled without a warning.
    job = go_on(training)
    slurm.run("scancel", job)
    check_ended(training, job, "CANCELLED")
    assert training.show(job, "Restarts") == "0"
    # Ranks that Slurm gives the time for save upon its TERM.
    said = rf"train: (last error: slurmstepd\S*: error: \*\*\* (JOB|STEP) {job}\S* ON \S+ CANCELLED|stopped by SIGTERM after)"
    assert re.search(said, training.status())

    # A rank is killed, as by the system when memory runs out.
    job = go_on(training)
    rank(training, 1).kill()
    check_ended(training, job, "FAILED")  # with the exit code that the other rank leaves with
    assert re.search(r"train: last error: srun: error: \S+ task 1: Killed", training.status()), training.status()

    # A rank stands still, which neither Slurm nor MPI notices.
    job = go_on(training)
    rank(training, 1).suspend()
    took = wait_until(lambda: training.show(job, "JobState") == "PENDING", GONE_WITHIN, training.log)
    print(f"a silent rank: queued again after {took:.1f} s\n{training.status()}")
    said = r"train: last error: hpc-galaxy: watchdog: rank 1 on \S+ has been silent for \d+ s"
    assert re.search(said, training.status()), training.log()
    slurm.run("scancel", job)
    check_ended(training, job, "CANCELLED")

    # A bug shows on one rank.
    job = go_on(training)
    (training.root / "broken").write_text("1")
    check_ended(training, job, "FAILED", "1:0")
    assert "rank 1: RuntimeError: this node is broken" in training.log()
    assert "train: last error: rank 1: RuntimeError: this node is broken" in training.status()
    (training.root / "broken").unlink()

    training.pace(0)
    job = training.begin(1)
    assert training.wait_for_end(job)[:2] == ("COMPLETED", "0:0"), training.log()
    assert training.tensors() == undisturbed


def go_on(training: Training) -> str:
    """Submit the training again, and wait until it has gone on from where it was."""
    before = training.saved()
    job = training.begin(5)
    assert before and "training: continuing from epoch" in (training.root / "jobs" / f"hpc-galaxy-train-{job}.log").read_text()
    return job


def check_ended(training: Training, job: str, state: str, code: str | None = None) -> None:
    """The job is gone soon, in this state; less than what lies between two checkpoints is lost, and another may go on."""
    found, said, took = training.wait_for_end(job, GONE_WITHIN)
    print(f"{state}: gone after {took:.1f} s, exit code {said}; {training.begun()} steps begun, {training.saved()} saved")
    print(training.status())
    assert found == state and (said == code if code else state != "FAILED" or said != "0:0"), training.log()
    training.require_free()
