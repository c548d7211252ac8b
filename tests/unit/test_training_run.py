"""A whole training in one process: learning, resuming, refusing."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

import pytest
import sample_shards
import torch
from tensorboardX.proto.event_pb2 import Event

from hpc_galaxy.config import load_config
from hpc_galaxy.errors import InputError, StageError, StaleOutputError
from hpc_galaxy.training.checkpoint import checkpoint_path, read_checkpoint
from hpc_galaxy.training.loop import Trainer
from hpc_galaxy.training.train import train
from hpc_galaxy.world import World

EPOCHS = 3
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards and an uninterrupted run of three epochs on them."""
    root = tmp_path_factory.mktemp("finished")
    sample_shards.make_shards(root / "shards", train=70, valid=40, test=40)
    train(sample_shards.make_config(root, f"train.epochs={EPOCHS}"), World(), False)
    return root


@pytest.fixture
def root(finished: Path, tmp_path: Path) -> Path:
    """A copy of it to spoil."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    return tmp_path


def rows(root: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (root / "run" / "metrics.jsonl").read_text().splitlines()]


def tensorboard_scalars(directory: Path) -> dict[tuple[str, int], float]:
    """Read what TensorBoard would show: length (8 bytes), checksum (4), an Event, checksum (4), and so on."""
    (path,) = directory.glob("events*")
    content, scalars = path.read_bytes(), {}
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        event = Event.FromString(content[12 : 12 + length])
        scalars |= {(value.tag, event.step): value.simple_value for value in event.summary.value}
        content = content[16 + length :]
    return scalars


def assert_same_result(one: Path, other: Path) -> None:
    first, second = (read_checkpoint(checkpoint_path(root / "run", EPOCHS)) for root in (one, other))
    for name, tensor in first["model"].items():
        assert torch.equal(tensor, second["model"][name]), name
    for number, state in first["optimizer"]["state"].items():
        assert all(torch.equal(tensor, second["optimizer"]["state"][number][name]) for name, tensor in state.items())
    timeless = [name for name in rows(one)[0] if name not in ("images_per_second", "data_share", "allreduce_share")]
    assert [[row[name] for name in timeless] for row in rows(one)] == [[row[name] for name in timeless] for row in rows(other)]


def test_it_learns_and_leaves_everything(finished: Path) -> None:
    run = finished / "run"
    done = json.loads((run / "DONE").read_text())
    best = min(rows(finished), key=lambda row: row["valid_loss"])
    assert done["epochs"] == EPOCHS and done["ranks"] == 1 and done["backend"] == "serial"
    assert done["best_epoch"] == best["epoch"] and done["best"] == best
    assert best["valid_auc"] > 0.9
    assert [row["epoch"] for row in rows(finished)] == [1, 2, 3]
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == [f"epoch_000{epoch}.pt" for epoch in (1, 2, 3)]
    assert (run / "learning_curve.png").stat().st_size > 10_000
    expected = {
        (name.replace("_", "/", 1), row["epoch"]): value for row in rows(finished) for name, value in row.items() if name != "epoch"
    }
    assert tensorboard_scalars(run / "tensorboard") == pytest.approx(expected)
    assert load_config(run / "config.toml").train.epochs == EPOCHS


def test_it_says_what_it_does(root: Path, capsys: Capture) -> None:
    train(sample_shards.make_config(root, "train.epochs=1"), World(), True)
    first, epoch, last = capsys.readouterr().out.splitlines()
    assert first == "training: serial, 1 rank x 1 thread, global batch 16, 353,786 parameters, device cpu, seed 1"
    assert epoch.startswith("epoch 1/1: train loss ") and "images/s, waiting for data " in epoch
    assert last.startswith("training: 1 epoch done; best is epoch 1 with validation loss ")


def test_resumed_is_uninterrupted_to_the_bit(root: Path, finished: Path, capsys: Capture) -> None:
    # As a job killed in epoch 3 leaves it: the last whole checkpoint is epoch 1's, rows of a later one were written.
    for epoch in (2, 3):
        checkpoint_path(root / "run", epoch).unlink()
    (root / "run" / "DONE").unlink()
    train(sample_shards.make_config(root, f"train.epochs={EPOCHS}"), World(), False)
    assert "continuing after epoch 1 of 3" in capsys.readouterr().out
    assert_same_result(root, finished)


@pytest.mark.parametrize("damage", ["cut short", "flipped byte", "not a checkpoint", "code inside"])
def test_a_damaged_checkpoint_is_reported_and_the_one_before_it_used(damage: str, root: Path, finished: Path, capsys: Capture) -> None:
    newest = checkpoint_path(root / "run", EPOCHS)
    content = bytearray(newest.read_bytes())
    if damage == "flipped byte":
        content[len(content) // 2] ^= 255
    newest.write_bytes({"cut short": content[: len(content) // 2], "not a checkpoint": b"hello"}.get(damage, content))
    if damage == "code inside":
        torch.save({"version": 1, "epoch": EPOCHS, "model": Path("x")}, newest)
    train(sample_shards.make_config(root, f"train.epochs={EPOCHS}"), World(), False)
    out = capsys.readouterr().out
    assert f"{newest}: not a readable checkpoint (" in out and "trying the one before it" in out
    assert "continuing after epoch 2 of 3" in out
    assert_same_result(root, finished)


def test_done_already(root: Path, capsys: Capture) -> None:
    before = checkpoint_path(root / "run", EPOCHS).stat().st_mtime_ns
    train(sample_shards.make_config(root, f"train.epochs={EPOCHS}"), World(), False)
    assert capsys.readouterr().out.startswith("training: done already (3 epochs, ")
    assert checkpoint_path(root / "run", EPOCHS).stat().st_mtime_ns == before


def test_more_epochs_go_on(root: Path, capsys: Capture) -> None:
    train(sample_shards.make_config(root, f"train.epochs={EPOCHS + 1}"), World(), False)
    assert "continuing after epoch 3 of 4" in capsys.readouterr().out
    assert [row["epoch"] for row in rows(root)] == [1, 2, 3, 4]
    assert json.loads((root / "run" / "DONE").read_text())["epochs"] == 4


def test_another_configuration_or_other_shards_are_stale(root: Path) -> None:
    for override in ("train.learning_rate=0.1", "seed=2", "train.batch_size=8"):
        with pytest.raises(StaleOutputError, match="use --overwrite, or another paths"):
            train(sample_shards.make_config(root, override), World(), False)
    sample_shards.make_shards(root / "shards", train=72, valid=40, test=40)
    with pytest.raises(StaleOutputError, match="from other shards"):
        train(sample_shards.make_config(root, f"train.epochs={EPOCHS}"), World(), False)
    train(sample_shards.make_config(root, "train.epochs=1"), World(), True)
    assert [row["epoch"] for row in rows(root)] == [1]


def test_a_loss_that_is_not_a_number_names_epoch_step_and_rank(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = Trainer.step

    def poisoned(trainer: Trainer, batch: object, watch: object, where: str) -> object:
        if where.startswith("epoch 2, step 3"):
            with torch.no_grad():
                next(trainer.model.parameters()).fill_(torch.nan)
        return step(trainer, batch, watch, where)

    monkeypatch.setattr(Trainer, "step", poisoned)
    with pytest.raises(StageError, match="epoch 2, step 3, rank 0: the loss is nan; lower train"):
        train(sample_shards.make_config(root), World(), True)
    assert not (root / "run" / "DONE").exists()


def test_without_shards(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="run 'hpc-galaxy split' first"):
        train(sample_shards.make_config(tmp_path), World(), False)
    sample_shards.make_shards(tmp_path / "shards", train=8, valid=0, test=0)
    with pytest.raises(InputError, match="split 'valid': holds no examples"):
        train(sample_shards.make_config(tmp_path), World(), False)
