"""Clocks that jump, and that differ between nodes and file servers: nothing that is done depends on which of two times is later."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import sample_shards
import torch
from sample_survey import content, survey

from hpc_galaxy.bricks.survey import make_survey
from hpc_galaxy.config import Config, load_config
from hpc_galaxy.cutouts.extract import extract
from hpc_galaxy.splits import outputs
from hpc_galaxy.splits.split import split
from hpc_galaxy.training.checkpoint import checkpoint_path, read_checkpoint
from hpc_galaxy.training.train import train
from hpc_galaxy.world import World

HOUR = 3600 * 10**9
YEAR = 365 * 24 * HOUR


def shift(root: Path, nanoseconds: int) -> None:
    """Change the date of every file below `root`."""
    for path in root.rglob("*"):
        status = path.stat()
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + nanoseconds))


@pytest.mark.parametrize("jump", [-YEAR, YEAR])
def test_inputs_of_another_clock_are_cut_once(tmp_path: Path, jump: int) -> None:
    """Dates in the future would have every start of the extraction begin anew, and a queue with short limits never end."""
    overrides = [f"paths.{name}='{tmp_path}/{name}'" for name in ("survey", "cutouts")]
    overrides += ["survey.bricks=2", "survey.npix=256", "extract.classes=['real']", "extract.real_from='survey'", "extract.selection='all'"]
    config = load_config(None, overrides)
    make_survey(config, World())
    shift(tmp_path / "survey", jump)
    extract(config, World())
    made = {path: path.stat().st_mtime_ns for path in config.paths.cutouts.rglob("*.h5")}
    extract(config, World())
    assert len(made) == 2 and made == {path: path.stat().st_mtime_ns for path in made}
    one = next((tmp_path / "survey").rglob("*invvar-z*"))
    os.utime(one, ns=(0, max(made.values()) + HOUR))  # written again, by that clock
    extract(config, World())
    assert sum(path.stat().st_mtime_ns != modified for path, modified in made.items()) == 1


@pytest.mark.parametrize("jump", [-YEAR, YEAR])
def test_a_split_continues_whatever_the_dates(
    tmp_path: Path, jump: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of cutouts that are newer, by their clock, than the shards made of them; and of cutouts that were made again and look older."""
    config = survey(tmp_path, 12, 100)
    shift(tmp_path / "cutouts", jump)
    split(config, World())
    before = content(tmp_path)
    (config.paths.shards / "xtrain_000000.npy").unlink()
    capsys.readouterr()
    split(config, World())
    assert "split: 5 of 6 files are there already" in capsys.readouterr().out
    assert content(tmp_path) == before
    shift(tmp_path / "cutouts" / "real", -HOUR)
    written: list[int] = []
    real = outputs.write_shard
    monkeypatch.setattr(outputs, "write_shard", lambda *arguments: written.append(1) or real(*arguments))
    split(config, World())
    assert len(written) == 6  # all of them: whose pixels have changed is not known


class JumpingClock:
    """The time of day, an hour back or forth at each call."""

    def __init__(self) -> None:
        self.calls = 0

    def nanoseconds(self) -> int:
        self.calls += 1
        return 1_700_000_000 * 10**9 + (-1) ** self.calls * HOUR * self.calls

    def seconds(self) -> float:
        return self.nanoseconds() / 1e9


def configure(root: Path, run: str) -> Config:
    settings = ["train.epochs=2", "train.batch_size=16", "train.threads=1", "train.backend='serial'", "train.saving.every_minutes=0.01"]
    settings += ["train.watchdog.stalled_seconds=60", "trace.spans=true"]
    return load_config(None, [f"paths.shards='{root}/shards'", f"paths.run='{root}/{run}'", *settings])


def test_a_training_takes_no_notice_of_the_time_of_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints, watchdog, traces and speeds: the same weights, finite speeds, one run of the same length."""
    sample_shards.make_shards(tmp_path / "shards", train=64, valid=16, test=0, size=32)
    train(configure(tmp_path, "steady"), World(), False)
    clock = JumpingClock()
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", clock.seconds)
        patch.setattr(time, "time_ns", clock.nanoseconds)
        train(configure(tmp_path, "jumping"), World(), False)
        assert clock.calls > 3
    steady, jumping = (read_checkpoint(checkpoint_path(tmp_path / run, 8)) for run in ("steady", "jumping"))
    for name, tensor in steady["model"].items():
        assert torch.equal(tensor, jumping["model"][name])
    speeds = [row["images_per_second"] for row in jumping["rows"]]
    assert np.all(np.array(speeds) > 0) and max(speeds) < 1e6
    shutil.rmtree(tmp_path / "steady")
