"""A loss that is no number on one rank ends all ranks, with the examples' names; what was saved before is sound."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import sample_shards
import torch
from patience import patience

from hpc_galaxy.training.checkpoint import checkpoint_path, read_checkpoint

NAN_ON_RANK_1 = """
import time
import torch
from hpc_galaxy import cli
from hpc_galaxy.training.objective import Objective
from hpc_galaxy.world import detect

if detect().rank == 1:
    count, real = 0, Objective.__call__

    def spoiled(self, logits, labels):
        global count
        count += 1
        losses = real(self, logits, labels)
        if count == 7:
            print(f"SPOILED AT {time.time()}", flush=True)
            losses = losses + torch.where(torch.arange(len(labels)) == 3, torch.nan, 0.0)
        return losses

    Objective.__call__ = spoiled
cli.main()
"""


@pytest.mark.parametrize("backend", ["horovod", "mpi", "ddp"])
def test_a_loss_that_is_no_number_on_one_rank(
    backend: str, mpirun: Callable[..., CompletedProcess[str]], require: Callable[[str], None], tmp_path: Path
) -> None:
    if backend == "horovod":
        require("horovod")
    sample_shards.make_shards(tmp_path / "shards", train=160, valid=20, test=0, size=32)
    settings = [f"paths.{name}='{tmp_path}/{name}'" for name in ("shards", "run")]
    settings += [f"train.backend='{backend}'", "train.batch_size=8"]
    settings += ["train.saving.every_steps=1", "train.saving.keep=20", "train.saving.curve=false"]
    options = [word for setting in settings for word in ("--set", setting)]
    done = mpirun(2, ["-c", NAN_ON_RANK_1, "train", *options], timeout=90)
    ended = time.time()
    assert done.returncode == 1, done.stdout + done.stderr
    spoiled = next(float(line.split()[-1]) for line in done.stdout.splitlines() if "SPOILED AT" in line)
    print(f"{backend}: gone {ended - spoiled:.1f} s after it")
    assert ended - spoiled < patience(30)
    assert "hpc-galaxy: error: epoch 1, step 7, rank 1: the loss is nan, with examples train-" in done.stderr
    assert "checkpoints before this are sound" in done.stderr
    if backend != "ddp":  # with gloo the other rank is told that the connection is gone, before it is ended
        assert "Traceback" not in done.stderr
    assert not checkpoint_path(tmp_path / "run", 7).exists()
    content = read_checkpoint(checkpoint_path(tmp_path / "run", 6))
    assert content["steps"] == 6 and all(torch.isfinite(tensor).all() for tensor in content["model"].values())
