"""A training longer than the limit of its queue, on a real Slurm with a real limit. It mostly waits: Slurm looks every 30 s."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from patience import patience
from queueing import TRAINING, Training, wait_until

# Where a start takes most of a minute the limit has to be longer, and each step, so that the work does not fit into two of them.
MINUTES = max(1, round(patience(1) / 3))
LIMIT = f"00:{MINUTES:02}:00"


def test_a_run_goes_through_a_queue_with_a_limit_of_a_minute(slurm: Any, shards: Path, undisturbed: bytes, tmp_path: Path) -> None:
    warned = Training.make(slurm, tmp_path / "warned", shards)
    warned.pace(0.5 * MINUTES)
    job = warned.begin(1, LIMIT)
    late = Training.make(slurm, tmp_path / "late", shards)
    (late.root / "stuck").write_text("20")
    stuck = late.begin(1, LIMIT)

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
