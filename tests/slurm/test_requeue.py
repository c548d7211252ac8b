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
        warned.start_again(job, nodes=2, seconds=90)
        warned.wait_for_steps(1)
        assert warned.show(job, "Restarts") == str(restart)
    warned.pace(0)
    assert warned.wait_for_end(job, 60)[:2] == ("COMPLETED", "0:0"), warned.log()
    log = warned.log()
    assert log.count("stopped by SIGUSR1 after") == log.count("training: continuing from") == 2, log
    assert warned.tensors() == undisturbed

    # A step that the warning does not end before the limit comes: the job is queued again all the same.
    wait_until(lambda: "DUE TO TIME LIMIT" in late.log(), 180, late.log)
    assert 0 < late.begun() - late.saved() <= TRAINING["saving"]["every_steps"]
    (late.root / "stuck").unlink()
    late.start_again(stuck, nodes=2)
    assert late.wait_for_end(stuck, 60)[:2] == ("COMPLETED", "0:0"), late.log()
    assert late.tensors() == undisturbed
