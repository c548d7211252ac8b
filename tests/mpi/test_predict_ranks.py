"""``hpc-galaxy predict`` writes the same bytes at any number of ranks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import sample_shards

from hpc_galaxy.training.train import train
from hpc_galaxy.world import World

ENDINGS = ("csv", "npy")
# The command once for each table, after one start of the ranks.
PREDICT = """
import sys
from hpc_galaxy.cli import app

for out in sys.argv[3:]:
    app(["predict", *sys.argv[1:3], "--out", out], standalone_mode=False)
"""


def test_one_and_three_ranks_write_the_same_bytes(mpirun: Callable[..., CompletedProcess[str]], tmp_path: Path) -> None:
    # Five blocks of at most 64, so that each of three ranks has some.
    sample_shards.make_shards(tmp_path / "shards", train=80, valid=30, test=100, size=32)
    train(sample_shards.make_config(tmp_path, "train.epochs=1"), World(), False)
    for ranks in (1, 3):
        tables = [str(tmp_path / f"scores-{ranks}.{ending}") for ending in ENDINGS]
        done = mpirun(ranks, ["-c", PREDICT, str(tmp_path / "run"), str(tmp_path / "shards"), *tables])
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("predict: 210 images in") == 2
        assert f"on {ranks} rank" in done.stdout
    for ending in ENDINGS:
        assert (tmp_path / f"scores-1.{ending}").read_bytes() == (tmp_path / f"scores-3.{ending}").read_bytes()
