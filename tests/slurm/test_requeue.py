"""A training longer than the limit of its queue, on a real Slurm with real limits of a minute. It mostly waits: Slurm looks every 30 s."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from queueing import TRAINING, Training, wait_until


def test_a_run_goes_through_a_queue_with_a_limit_of_a_minute(slurm: Any, shards: Path, undisturbed: bytes, tmp_path: Path) -> None:
    warned = Training.make(slurm, tmp_path / "warned", shards)
    warned.pace(0.5)
    job = warned.submit("00:01:00")
    late = Training.make(slurm, tmp_path / "late", shards)
    (late.root / "stuck").write_text("20")
    stuck = late.submit("00:01:00")

    for restart in (1, 2):
        wait_until(lambda count=str(restart): warned.show(job, "Restarts") == count, 120, warned.log)
        warned.start_again(job, nodes=2)
        warned.wait_for_steps(1)
    warned.pace(0)
    warned.finish(job)
    log = warned.log()
    assert log.count("stopped by SIGUSR1 after") == log.count("training: continuing from") >= 2, log
    assert warned.tensors() == undisturbed

    # A step that the warning does not end before the limit comes: the job is queued again all the same.
    wait_until(lambda: "DUE TO TIME LIMIT" in late.log(), 180, late.log)
    assert 0 < late.begun() - late.saved() <= TRAINING["saving"]["every_steps"]
    (late.root / "stuck").unlink()
    wait_until(lambda: late.show(stuck, "JobState") == "PENDING", 30, late.log)
    late.finish(stuck)
    assert late.tensors() == undisturbed
