"""``hpc-galaxy predict`` writes the same bytes at any number of ranks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import sample_shards

from hpc_galaxy.training.train import train
from hpc_galaxy.world import World


def test_one_and_three_ranks_write_the_same_bytes(mpirun: Callable[..., CompletedProcess[str]], tmp_path: Path) -> None:
    sample_shards.make_shards(tmp_path / "shards", train=140, valid=70, test=200)
    train(sample_shards.make_config(tmp_path, "train.epochs=1"), World(), False)
    for ranks in (1, 3):
        for ending in ("csv", "npy"):
            out = str(tmp_path / f"scores-{ranks}.{ending}")
            done = mpirun(ranks, ["-m", "hpc_galaxy", "predict", str(tmp_path / "run"), str(tmp_path / "shards"), "--out", out])
            assert done.returncode == 0, done.stderr
            assert "predict: 410 images in" in done.stdout
    for ending in ("csv", "npy"):
        assert (tmp_path / f"scores-1.{ending}").read_bytes() == (tmp_path / f"scores-3.{ending}").read_bytes()
