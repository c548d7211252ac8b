"""A whole training in one process: learning, resuming, refusing."""

from __future__ import annotations

import json
import math
import shutil
import struct
import threading
from pathlib import Path

import pytest
import sample_shards
import torch
from tensorboardX.proto.event_pb2 import Event

from hpc_galaxy.config import load_config
from hpc_galaxy.errors import FormatError, InputError, OutputError, StageError, StaleOutputError
from hpc_galaxy.files import lock
from hpc_galaxy.training import run as run_module
from hpc_galaxy.training.checkpoint import checkpoint_path, read_checkpoint
from hpc_galaxy.training.loop import Trainer
from hpc_galaxy.training.metrics import TIMINGS
from hpc_galaxy.training.objective import Objective
from hpc_galaxy.training.parallel.base import Serial
from hpc_galaxy.training.train import train
from hpc_galaxy.training.weights import load_weights
from hpc_galaxy.world import World

EPOCHS, STEPS = 3, 5  # 70 examples in global batches of 16: 5 steps an epoch, the last one of 6
LAST = EPOCHS * STEPS
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards and an uninterrupted run of three epochs on them."""
    root = tmp_path_factory.mktemp("finished")
    sample_shards.make_shards(root / "shards", train=70, valid=40, test=40, size=32)
    train(sample_shards.make_config(root, f"train.epochs={EPOCHS}", "train.saving.curve=true"), World(), False)
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
    first, second = (read_checkpoint(checkpoint_path(root / "run", LAST)) for root in (one, other))
    for name, tensor in first["model"].items():
        assert torch.equal(tensor, second["model"][name]), name
    for number, state in first["optimizer"]["state"].items():
        assert all(torch.equal(tensor, second["optimizer"]["state"][number][name]) for name, tensor in state.items())
    timeless = [name for name in rows(one)[0] if name not in TIMINGS]
    assert [[row[name] for name in timeless] for row in rows(one)] == [[row[name] for name in timeless] for row in rows(other)]


def test_it_learns_and_leaves_everything(finished: Path) -> None:
    run = finished / "run"
    done = json.loads((run / "DONE").read_text())
    best = min(rows(finished), key=lambda row: row["valid_loss"])
    assert done["epochs"] == EPOCHS and done["ranks"] == 1 and done["backend"] == "serial"
    assert done["best_epoch"] == best["epoch"] and done["best"] == best
    assert best["valid_auc"] > 0.9
    assert [row["epoch"] for row in rows(finished)] == [1, 2, 3]
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == [f"step_{steps:08d}.pt" for steps in (5, 10, 15)]
    assert (run / "learning_curve.png").stat().st_size > 10_000
    expected = {
        (name.replace("_", "/", 1), row["steps"]): value
        for row in rows(finished)
        for name, value in row.items()
        if name not in ("epoch", "steps")
    }
    found = tensorboard_scalars(run / "tensorboard")
    assert {key: value for key, value in found.items() if not key[0].startswith("step/")} == pytest.approx(expected)
    assert {key for key in found if key[0].startswith("step/")} == {
        (f"step/{name}", 10) for name in ("loss", "gradient_norm", "learning_rate")
    }
    weights = load_weights(run / "weights.safetensors")
    kept = read_checkpoint(checkpoint_path(run, best["steps"]))["model"]
    assert all(torch.equal(weights.state[name], tensor) for name, tensor in kept.items())
    assert load_config(run / "config.toml").train.epochs == EPOCHS


def test_it_says_what_it_does(root: Path, capsys: Capture) -> None:
    train(sample_shards.make_config(root, "train.epochs=1"), World(), True)
    said = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("epoch 1: ")]  # how far it was after some seconds
    first, node, epoch, last = said
    assert first == "training: serial, 1 rank x 1 thread, global batch 16, 187,898 parameters, adam at 0.001, device cpu, seed 1"
    assert node.startswith("training: ")
    assert epoch.startswith("epoch 1/1: train loss ") and "images/s, waiting for data " in epoch
    assert last.startswith("training: 1 epoch done; best is epoch 1 with validation loss ")


def test_resumed_is_uninterrupted_to_the_bit(root: Path, finished: Path, capsys: Capture) -> None:
    # As a job killed in epoch 3 leaves it: the last whole checkpoint is epoch 1's, rows of a later one were written.
    for epoch in (2, 3):
        checkpoint_path(root / "run", epoch * STEPS).unlink()
    (root / "run" / "DONE").unlink()
    train(sample_shards.make_config(root, f"train.epochs={EPOCHS}"), World(), False)
    assert "continuing from the beginning of epoch 2 of 3" in capsys.readouterr().out
    assert_same_result(root, finished)


@pytest.mark.parametrize(("method", "stop"), [("step", 7), ("validate", 10)], ids=["within an epoch", "in the validation"])
def test_resumed_within_an_epoch_is_uninterrupted_to_the_bit(
    method: str, stop: int, tmp_path: Path, finished: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(finished / "shards", tmp_path / "shards")
    saving = (f"train.epochs={EPOCHS}", "train.saving.every_steps=1")
    done = getattr(Trainer, method)

    def killed(trainer: Trainer, *arguments: object) -> object:
        if checkpoint_path(tmp_path / "run", stop).exists():
            raise KeyboardInterrupt
        return done(trainer, *arguments)

    monkeypatch.setattr(Trainer, method, killed)
    with pytest.raises(KeyboardInterrupt):
        train(sample_shards.make_config(tmp_path, *saving), World(), False)
    monkeypatch.undo()
    train(sample_shards.make_config(tmp_path, *saving), World(), False)
    assert f"continuing from epoch 2, step {stop - STEPS} of 3 epochs" in capsys.readouterr().out
    assert_same_result(tmp_path, finished)


def test_only_the_newest_and_the_best_checkpoint_are_kept(root: Path) -> None:
    train(sample_shards.make_config(root, f"train.epochs={EPOCHS}", "train.saving.every_steps=2", "train.saving.keep=2"), World(), True)
    best = min(rows(root), key=lambda row: row["valid_loss"])
    kept = {path.name for path in (root / "run" / "checkpoints").iterdir()}
    assert kept == {f"step_{steps:08d}.pt" for steps in (14, 15, best["steps"])}


def test_a_run_keeps_its_global_batch_and_its_order_with_smaller_pieces(root: Path, finished: Path) -> None:
    """The same global batch in pieces of 5: the weights differ by rounding alone."""
    train(sample_shards.make_config(root, f"train.epochs={EPOCHS}", "train.batch_size=5", "train.global_batch=16"), World(), True)
    first, second = (read_checkpoint(checkpoint_path(where / "run", LAST))["model"] for where in (root, finished))
    assert all(torch.allclose(tensor, second[name], atol=1e-4) for name, tensor in first.items())
    assert [row["train_loss"] for row in rows(root)] == pytest.approx([row["train_loss"] for row in rows(finished)], rel=1e-4)


@pytest.mark.parametrize("damage", ["cut short", "flipped byte", "not a checkpoint", "code inside"])
def test_a_damaged_checkpoint_is_reported_and_the_one_before_it_used(damage: str, root: Path, finished: Path, capsys: Capture) -> None:
    newest = checkpoint_path(root / "run", LAST)
    content = bytearray(newest.read_bytes())
    if damage == "flipped byte":
        content[len(content) // 2] ^= 255
    newest.write_bytes({"cut short": content[: len(content) // 2], "not a checkpoint": b"hello"}.get(damage, content))
    if damage == "code inside":
        torch.save({"version": 2, "epoch": EPOCHS, "model": Path("x")}, newest)
    train(sample_shards.make_config(root, f"train.epochs={EPOCHS}"), World(), False)
    out = capsys.readouterr().out
    assert f"{newest.name}: not a readable checkpoint (" in out and "trying the one before it" in out
    assert "continuing from the beginning of epoch 3 of 3" in out
    assert_same_result(root, finished)


def test_done_already(root: Path, capsys: Capture) -> None:
    before = checkpoint_path(root / "run", LAST).stat().st_mtime_ns
    train(sample_shards.make_config(root, f"train.epochs={EPOCHS}"), World(), False)
    assert capsys.readouterr().out.startswith("training: done already (")
    assert checkpoint_path(root / "run", LAST).stat().st_mtime_ns == before


def test_more_epochs_go_on(root: Path, capsys: Capture) -> None:
    train(sample_shards.make_config(root, f"train.epochs={EPOCHS + 1}"), World(), False)
    assert "continuing from the beginning of epoch 4 of 4" in capsys.readouterr().out
    assert [row["epoch"] for row in rows(root)] == [1, 2, 3, 4]
    assert json.loads((root / "run" / "DONE").read_text())["epochs"] == 4


def test_another_configuration_or_other_shards_are_stale(root: Path) -> None:
    for override in ("train.optimizer.learning_rate=0.1", "seed=2", "train.batch_size=8", "train.schedule.name='cosine'"):
        with pytest.raises(StaleOutputError, match="use --overwrite, or another paths"):
            train(sample_shards.make_config(root, override), World(), False)
    sample_shards.make_shards(root / "shards", train=72, valid=40, test=40, size=32)
    with pytest.raises(StaleOutputError, match="from other shards"):
        train(sample_shards.make_config(root, f"train.epochs={EPOCHS}"), World(), False)
    train(sample_shards.make_config(root, "train.epochs=1"), World(), True)
    assert [row["epoch"] for row in rows(root)] == [1]


def test_a_loss_that_is_not_a_number_names_step_rank_and_examples(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    objective = Objective.__call__

    def poisoned(self: Objective, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        losses = objective(self, logits, labels)
        calls.append(len(labels))
        return losses + torch.where(torch.arange(len(labels)) == 2, torch.nan, 0.0) if len(calls) == STEPS + 3 else losses

    calls: list[int] = []
    monkeypatch.setattr(Objective, "__call__", poisoned)
    with pytest.raises(StageError, match=r"epoch 2, step 3, rank 0: the loss is nan, with examples train-\d+; lower train.optimizer"):
        train(sample_shards.make_config(root), World(), True)
    assert not (root / "run" / "DONE").exists()
    assert read_checkpoint(checkpoint_path(root / "run", STEPS))["epoch"] == 2


def test_the_ranks_are_watched_while_the_data_are_opened(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, seen = run_module.open_data, []

    def watched(*arguments: object) -> object:
        seen.append([thread.name for thread in threading.enumerate()])
        return made(*arguments)

    monkeypatch.setattr(run_module, "open_data", watched)
    train(sample_shards.make_config(root), World(), False)
    assert len(seen) == 1 and "watchdog" in seen[0]


def test_a_gradient_that_is_not_a_number_ends_the_job(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zero = Serial.average_gradients

    def spoil(self: Serial) -> None:
        zero(self)
        parameter.grad.view(-1)[7] = torch.inf

    made = run_module.build

    def build(*arguments: object) -> Trainer:
        nonlocal parameter
        trainer = made(*arguments)
        parameter = next(trainer.model.parameters())
        return trainer

    parameter = torch.nn.Parameter(torch.zeros(1))
    monkeypatch.setattr(run_module, "build", build)
    monkeypatch.setattr(Serial, "average_gradients", spoil)
    monkeypatch.setattr(Serial, "waits", True)
    with pytest.raises(StageError, match="epoch 1, step 1, rank 0: the gradient's norm is inf, with examples train-"):
        train(sample_shards.make_config(root), World(), True)


def test_the_dummy_predicts_the_commoner_class(tmp_path: Path) -> None:
    sample_shards.make_shards(tmp_path / "shards", train=71, valid=40, test=40, size=32)
    train(sample_shards.make_config(tmp_path, "train.model='dummy'", "train.epochs=2"), World(), False)
    last = rows(tmp_path)[-1]
    assert last["train_accuracy"] == pytest.approx(36 / 71) and last["valid_accuracy"] == 0.5 and last["valid_auc"] == 0.5
    share = 36 / 71
    assert last["train_loss"] == pytest.approx(-share * math.log(share) - (1 - share) * math.log(1 - share), rel=1e-5)


def test_early_stopping(tmp_path: Path, capsys: Capture) -> None:
    sample_shards.make_shards(tmp_path / "shards", train=40, valid=40, test=40, size=32)
    # The dummy never becomes better than in its first epoch.
    settings = ["train.model='dummy'", "train.epochs=9", "train.patience=2"]
    train(sample_shards.make_config(tmp_path, *settings), World(), False)
    assert "no lower validation loss for 2 epochs, so this is the end" in capsys.readouterr().out
    assert [row["epoch"] for row in rows(tmp_path)] == [1, 2, 3]
    assert json.loads((tmp_path / "run" / "DONE").read_text())["best_epoch"] == 1


def test_options_of_the_objective_and_the_step(root: Path) -> None:
    settings = [
        "train.label_smoothing=0.1",
        "train.class_weights='balanced'",
        "train.optimizer.clip_norm=0.5",
        "train.optimizer.name='lamb'",
    ]
    settings += ["train.data.augment=['flip', 'rotate', 'shift']", "train.data.inputs=['image', 'snr']", "train.channels_last=true"]
    settings += ["train.schedule.name='one_cycle'", "train.optimizer.scaling='sqrt'", "train.optimizer.learning_rate=0.02"]
    train(sample_shards.make_config(root, f"train.epochs={EPOCHS}", *settings), World(), True)
    assert rows(root)[-1]["valid_auc"] > 0.8


def test_smoke_tries_everything_and_leaves_nothing(root: Path, capsys: Capture) -> None:
    def found() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in (root / "run").rglob("*") if path.is_file() and path.name != ".lock"}

    before = found()
    train(sample_shards.make_config(root, "train.optimizer.name='sgd'"), World(), False, smoke=True)
    assert found() == before and not (root / "run" / "smoke").exists()
    assert "smoke: trained, saved, read back, went on, validated; about " in capsys.readouterr().out


def test_two_jobs_in_one_directory_are_refused(root: Path) -> None:
    with lock(root / "run" / ".lock"), pytest.raises(OutputError, match="another job is writing here"):
        train(sample_shards.make_config(root), World(), False)


def test_a_missing_or_short_shard_is_found_before_the_first_step(root: Path) -> None:
    shard = root / "shards" / "xvalid_000000.npy"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(FormatError, match=r"xvalid_000000.npy: has \d+ bytes, expected"):
        train(sample_shards.make_config(root), World(), False)
    shard.unlink()
    with pytest.raises(FormatError, match=r"xvalid_000000.npy: cannot be found \(No such file"):
        train(sample_shards.make_config(root), World(), False)


def test_without_shards(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="run 'hpc-galaxy split' first"):
        train(sample_shards.make_config(tmp_path), World(), False)
    sample_shards.make_shards(tmp_path / "shards", train=8, valid=0, test=0, size=32)
    with pytest.raises(InputError, match="split 'valid': holds no examples"):
        train(sample_shards.make_config(tmp_path), World(), False)
