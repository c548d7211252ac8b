"""The real intel-extension-for-pytorch against plain PyTorch. It needs an environment of its own: ``make test-ipex`` makes it."""

from __future__ import annotations

import copy
import io
import json
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import sample_shards
import torch
from torch import nn

from hpc_galaxy.config.training import Optimizer
from hpc_galaxy.training.checkpoint import checkpoint_path, read_checkpoint
from hpc_galaxy.training.ipex import MODULE, optimise, status
from hpc_galaxy.training.model import GalaxyCNN, MajorityClass
from hpc_galaxy.training.optim.optimizers import clip_gradients, make_optimizer
from hpc_galaxy.training.parallel.flat import FlatGradients
from hpc_galaxy.training.train import train
from hpc_galaxy.world import World

STEPS, BATCH = 10, 16
# AdamW, RMSProp and our own LARS and LAMB have no fused step: they take the same path as one another.
FUSED = {"sgd": "SGD fused", "adagrad": "Adagrad fused", "adam": "Adam fused", "adamw": "AdamW not fused", "lamb": "LAMB not fused"}
CASES = [(name, "float32") for name in FUSED] + [("adam", "bfloat16")]
# Of the loss after ten steps; each test prints what it measures. Sums in another order differ in the last bits; Adam divides small
# gradients by their own size, and in bfloat16 an activation may round to the next number. The loss itself falls by 0.2 to 0.8.
TOLERANCES = {("float32", False): 1e-5, ("float32", True): 1e-3, ("bfloat16", True): 2e-2}
EPOCHS, LAST = 2, 10  # of whole trainings: 65 examples in global batches of 16 are 5 steps an epoch
OVERRIDES = ("train.batch_size=16", "train.optimizer.name='sgd'")


@dataclass
class Student:
    """A network in training, without any data-parallelism but with its gradients in one buffer."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    sentence: str = ""

    @classmethod
    def new(cls, name: str, extended: bool) -> Student:
        torch.manual_seed(1)
        model = GalaxyCNN()
        optimizer = make_optimizer(Optimizer(name=name), model, fused_later=True)
        return cls(*optimise(model.train(), optimizer)) if extended else cls(model, optimizer)

    def learn(self, steps: range, precision: str = "float32") -> list[float]:
        """Return the loss at each of some steps."""
        gradients, losses = FlatGradients(self.model), []
        for step in steps:
            images, labels = examples(step)
            gradients.zero()
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
                logits = self.model(images)
            loss = nn.functional.cross_entropy(logits.float(), labels)
            loss.backward()
            clip_gradients(self.model.parameters(), 5.0)
            self.optimizer.step()
            losses.append(loss.item())
        return losses

    def save(self) -> dict[str, Any]:
        """Return what a checkpoint gives back."""
        file = io.BytesIO()
        torch.save({"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}, file)
        file.seek(0)
        return dict(torch.load(file, weights_only=True))

    def load(self, content: dict[str, Any]) -> Student:
        self.model.load_state_dict(content["model"])
        # torch takes the tensors themselves, and would change them.
        self.optimizer.load_state_dict(copy.deepcopy(content["optimizer"]))
        return self

    def weights(self) -> torch.Tensor:
        return torch.cat([tensor.flatten() for tensor in self.model.state_dict().values()])


def examples(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise, in which fakes are a little brighter."""
    generator = torch.Generator().manual_seed(step)
    labels = torch.randint(0, 2, (BATCH,), generator=generator)
    images = torch.randn(BATCH, 6, 64, 64, generator=generator) + 0.3 * labels[:, None, None, None]
    return images.to(memory_format=torch.channels_last), labels


@dataclass
class Plain:
    """What plain PyTorch learns, before the extension is imported, which changes torch's own autocast."""

    losses: dict[tuple[str, str], list[float]]
    students: dict[tuple[str, str], Student]
    middle: dict[str, Any]
    root: Path


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Plain:
    assert MODULE not in sys.modules
    torch.set_num_threads(1)
    students = {case: Student.new(case[0], extended=False) for case in CASES}
    losses = {case: student.learn(range(STEPS), case[1]) for case, student in students.items()}
    half = Student.new("adam", extended=False)
    half.learn(range(STEPS // 2))
    root = tmp_path_factory.mktemp("plain")
    sample_shards.make_shards(root / "shards", train=65, valid=40, test=40)
    config = sample_shards.make_config(root, *OVERRIDES, f"train.epochs={EPOCHS}")
    config.save(root / "config.toml")
    train(config, World(), False)
    assert MODULE not in sys.modules
    return Plain(losses, students, half.save(), root)


def test_this_environment_has_it() -> None:
    assert status() == (True, f"intel-extension-for-pytorch {metadata.version('intel-extension-for-pytorch')}")


@pytest.mark.parametrize(("name", "precision"), CASES)
def test_it_learns_as_plain_torch_does(name: str, precision: str, plain: Plain, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        student = Student.new(name, extended=True)
    assert student.sentence == f"{status()[1]}, channels-last weights, {FUSED[name]}"
    assert not [record for record in caplog.records if "deprecated" in record.message]
    reference, expected = plain.students[name, precision], plain.losses[name, precision]
    losses = student.learn(range(STEPS), precision)
    off = max(abs(one - other) for one, other in zip(losses, expected, strict=True))
    apart = (student.weights() - reference.weights()).abs().max().item()
    print(f"{name} {precision}: loss {losses[0]:.3f} to {losses[-1]:.3f}, off by {off:.2g}; weights by {apart:.2g}")
    assert off < TOLERANCES[precision, name.startswith("adam")]
    assert losses[-1] < losses[0]
    state, plain_state = student.model.state_dict(), reference.model.state_dict()
    assert [(key, value.shape, value.dtype) for key, value in state.items()] == [
        (key, value.shape, value.dtype) for key, value in plain_state.items()
    ]


def test_checkpoints_go_both_ways(plain: Plain) -> None:
    rest, expected = range(STEPS // 2, STEPS), plain.losses["adam", "float32"][STEPS // 2 :]
    extended = Student.new("adam", extended=True).load(plain.middle)
    assert extended.learn(rest) == pytest.approx(expected, abs=1e-3)
    first = Student.new("adam", extended=True)
    first.learn(range(STEPS // 2))
    saved = first.save()
    assert Student.new("adam", extended=True).load(saved).learn(rest) == first.learn(rest)
    assert Student.new("adam", extended=False).load(saved).learn(rest) == pytest.approx(expected, abs=1e-3)


def test_the_baseline_survives_it() -> None:
    model = MajorityClass()
    model.learn(torch.tensor([10, 30]))
    found, optimizer, sentence = optimise(model.train(), make_optimizer(Optimizer(), model, fused_later=True))
    found(torch.zeros(4, 6, 64, 64)).sum().backward()
    optimizer.step()
    assert not sentence.startswith("plain") and found(torch.zeros(1, 6, 64, 64)).exp()[0].tolist() == pytest.approx([0.25, 0.75])


def learned(run: Path) -> torch.Tensor:
    return torch.cat([tensor.flatten() for tensor in read_checkpoint(checkpoint_path(run, LAST))["model"].values()])


@pytest.mark.parametrize(("ranks", "backend"), [(1, "serial"), (2, "mpi"), (2, "ddp")])
def test_whole_trainings(ranks: int, backend: str, plain: Plain, tmp_path: Path, mpirun: Callable[..., CompletedProcess[str]]) -> None:
    settings = ("train.ipex=true", f"train.backend='{backend}'", f"train.batch_size={16 // ranks}", f"paths.run='{tmp_path}'")
    command = ["-m", "hpc_galaxy", "train", "-c", str(plain.root / "config.toml")]
    done = mpirun(ranks, [*command, *(word for setting in settings for word in ("--set", setting))])
    assert done.returncode == 0, done.stderr
    assert f"training: {status()[1]}, channels-last weights, SGD fused\n" in done.stdout
    off = (learned(tmp_path) - learned(plain.root / "run")).abs().max().item()
    losses = [json.loads(line)["valid_loss"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    print(f"{backend}: weights off by {off:.2g}, validation loss {losses}")
    assert off < 1e-5
    assert losses[-1] < losses[0]
