"""Several networks that differ in their seed alone: where they are, what is trained again, and what is not."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
import sample_shards
import torch

from hpc_galaxy.config import Config
from hpc_galaxy.errors import OutputError, PreemptedError
from hpc_galaxy.files import lock
from hpc_galaxy.ledger import LOCK
from hpc_galaxy.shards.manifest import load_manifest
from hpc_galaxy.slurm.status import is_done
from hpc_galaxy.training.checkpoint import training_fingerprint
from hpc_galaxy.training.loop import Trainer
from hpc_galaxy.training.networks import network_config, network_path, network_paths
from hpc_galaxy.training.train import train
from hpc_galaxy.training.weights import load_weights
from hpc_galaxy.world import World

Capture = pytest.CaptureFixture[str]


def make_config(root: Path, networks: int, *overrides: str) -> Config:
    if not (root / "shards").exists():
        sample_shards.make_shards(root / "shards", train=40, valid=20, test=20, size=32)
    return sample_shards.make_config(root, "train.epochs=1", f"train.networks={networks}", *overrides)


def weights(directory: Path) -> dict[str, torch.Tensor]:
    return load_weights(directory / "weights.safetensors").state


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_each_is_what_it_would_be_by_itself(tmp_path: Path, capsys: Capture) -> None:
    config = make_config(tmp_path, 2)
    train(config, World(), False)
    said = capsys.readouterr().out
    assert f"training: network 1 of 2 (seed 1) in {tmp_path}/run\n" in said
    assert f"training: network 2 of 2 (seed 2) in {tmp_path}/run/network_2\n" in said
    first, second = tmp_path / "run", tmp_path / "run" / "network_2"
    assert [json.loads((path / "DONE").read_text())["seed"] for path in (first, second)] == [1, 2]
    assert {path.name for path in second.iterdir()} == {path.name for path in first.iterdir()} - {"network_2"}
    assert not same(weights(first), weights(second))
    alone = make_config(tmp_path, 1, "seed=2", f"paths.run='{tmp_path}/alone'")
    train(alone, World(), False)
    assert "network 1 of" not in capsys.readouterr().out
    assert same(weights(second), weights(tmp_path / "alone"))


def test_more_networks_later_train_the_missing_ones_alone(tmp_path: Path, capsys: Capture) -> None:
    train(make_config(tmp_path, 1), World(), False)
    assert is_done(make_config(tmp_path, 1), "train") and not is_done(make_config(tmp_path, 2), "train")
    before = (tmp_path / "run" / "weights.safetensors").stat().st_mtime_ns
    capsys.readouterr()
    train(make_config(tmp_path, 2), World(), False)
    said = capsys.readouterr().out
    assert said.count("done already") == 1 and said.count("1 epoch done") == 1
    assert (tmp_path / "run" / "weights.safetensors").stat().st_mtime_ns == before
    assert is_done(make_config(tmp_path, 2), "train")


def test_a_signal_ends_the_network_it_was_at_and_the_run_continues_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    step, config = Trainer.step, make_config(tmp_path, 3)

    def signalled(trainer: Trainer, *arguments: object) -> None:
        step(trainer, *arguments)
        if trainer.seed == 2:
            signal.raise_signal(signal.SIGUSR1)

    monkeypatch.setattr(Trainer, "step", signalled)
    with pytest.raises(PreemptedError, match=r"stopped by SIGUSR1 .*network_2/checkpoints/step_00000001.pt"):
        train(config, World(), False)
    monkeypatch.undo()
    assert (tmp_path / "run" / "DONE").exists() and not (tmp_path / "run" / "network_3").exists()
    capsys.readouterr()
    train(config, World(), False)
    said = capsys.readouterr().out
    assert said.count("done already") == 1 and said.count("continuing from epoch 1, step 1") == 1 and said.count("1 epoch done") == 2
    assert [(network_path(tmp_path / "run", number) / "DONE").exists() for number in (1, 2, 3)] == [True] * 3


def test_overwrite_forgets_all_and_nothing_else(tmp_path: Path) -> None:
    train(make_config(tmp_path, 2), World(), False)
    second = tmp_path / "run" / "network_2"
    (second / "notes.txt").write_text("mine")
    (tmp_path / "run" / "network_old").mkdir()
    (tmp_path / "run" / "network_old" / "DONE").touch()
    train(make_config(tmp_path, 1, "train.epochs=2"), World(), True)
    assert not (second / "DONE").exists() and not (second / "checkpoints").exists() and not (second / "weights.safetensors").exists()
    assert (second / "notes.txt").read_text() == "mine" and (tmp_path / "run" / "network_old" / "DONE").exists()
    assert network_paths(tmp_path / "run") == [second]


def test_nobody_may_forget_the_first_while_the_second_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step, config, seen = Trainer.step, make_config(tmp_path, 2), []

    def watched(trainer: Trainer, *arguments: object) -> None:
        if trainer.seed == 2 and not seen:
            with pytest.raises(OutputError, match="another job is writing here"), lock(tmp_path / "run" / LOCK):
                pass
            seen.append(True)
        step(trainer, *arguments)

    monkeypatch.setattr(Trainer, "step", watched)
    train(config, World(), False)
    assert seen


def test_smoke_tries_the_first_alone(tmp_path: Path, capsys: Capture) -> None:
    train(make_config(tmp_path, 3), World(), False, smoke=True)
    assert capsys.readouterr().out.count("smoke: trained") == 1
    assert not (tmp_path / "run" / "network_2").exists()


def test_the_number_of_networks_decides_no_network_s_weights(tmp_path: Path) -> None:
    one, three = make_config(tmp_path, 1), make_config(tmp_path, 3)
    manifest = load_manifest(one.paths.shards)
    assert training_fingerprint(one, manifest) == training_fingerprint(three, manifest)
    assert training_fingerprint(network_config(three, 2), manifest) != training_fingerprint(three, manifest)
    assert network_config(three, 1) == three and network_config(three, 3).seed == 3
    assert network_config(three, 3).paths.shards == three.paths.shards
