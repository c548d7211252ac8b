"""Model, scores, device and choice of backend; no MPI."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from patience import patience
from sklearn.metrics import log_loss, roc_auc_score

from hpc_galaxy.config import Train
from hpc_galaxy.errors import ConfigError, LaunchError
from hpc_galaxy.training import node, scores
from hpc_galaxy.training.model import GalaxyCNN, count_parameters
from hpc_galaxy.training.parallel import choose
from hpc_galaxy.training.parallel.base import Serial
from hpc_galaxy.world import World

CPU = torch.device("cpu")


def test_the_network_of_2018() -> None:
    model = GalaxyCNN()
    assert count_parameters(model) == 353_786
    assert [tuple(p.shape) for p in model.parameters() if p.ndim == 4] == [(18, 6, 7, 7), (36, 18, 7, 7), (54, 36, 7, 7)]
    assert model(torch.zeros(3, 6, 64, 64)).shape == (3, 2)
    assert all(parameter.is_contiguous() for parameter in model.parameters())


def test_a_rank_without_examples_has_gradients_of_zero() -> None:
    model = GalaxyCNN()
    torch.nn.functional.cross_entropy(model(torch.empty(0, 6, 64, 64)), torch.empty(0, dtype=torch.int64), reduction="sum").backward()
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in model.parameters())


def test_scores_agree_with_scikit_learn() -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, 300).astype(np.uint8)
    # Rounded, so that there are ties.
    logits = np.round(rng.normal(size=(300, 2)) + np.stack([1 - labels, labels], axis=1), 1)
    probability = scores.fake_probability(logits)
    assert np.allclose(probability, np.asarray(torch.softmax(torch.from_numpy(logits), 1))[:, 1])
    assert scores.auc(labels, probability) == pytest.approx(roc_auc_score(labels, probability))
    assert scores.cross_entropy(labels, logits) == pytest.approx(log_loss(labels, probability))
    assert scores.accuracy(labels, logits) == pytest.approx(np.mean((probability > 0.5) == labels))


def test_scores_at_the_extremes() -> None:
    assert scores.auc(np.array([0, 0, 1, 1]), np.array([0.1, 0.2, 0.3, 0.4])) == 1
    assert scores.auc(np.array([0, 1]), np.array([0.5, 0.5])) == 0.5
    assert np.isnan(scores.auc(np.array([1, 1]), np.array([0.5, 0.6])))
    far = np.array([[-2000.0, 2000.0], [2000.0, -2000.0]])
    assert scores.fake_probability(far).tolist() == [1, 0]
    assert scores.cross_entropy(np.array([0, 0]), far) == 2000


def test_threads_are_a_rank_s_share_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    assert node.threads_per_rank(World(), 0) == 8
    assert node.threads_per_rank(World(rank=1, size=4, local_rank=1, local_size=4), 0) == 2
    assert node.threads_per_rank(World(size=64, local_size=64), 0) == 1
    assert node.threads_per_rank(World(), 3) == 3


def test_backend_of_one_process_is_serial() -> None:
    for asked in ("auto", "serial"):
        assert choose.choose_backend(Train(backend=asked), World(), CPU).name == "serial"


def test_serial_with_several_ranks_is_refused() -> None:
    with pytest.raises(LaunchError, match="'serial' with 2 ranks, expected 1"):
        choose.choose_backend(Train(backend="serial"), World(size=2), CPU)


def test_without_horovod_auto_says_why_it_takes_ddp(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    class FakeDDP(Serial):
        description = "torch DDP (gloo)"

        def __init__(self, *arguments: object) -> None:
            pass

    monkeypatch.setattr(choose, "DDP", FakeDDP)
    monkeypatch.delitem(sys.modules, "hpc_galaxy.training.parallel.horovod_backend", raising=False)
    monkeypatch.setitem(sys.modules, "horovod", None)
    assert isinstance(choose.choose_backend(Train(), World(size=2), CPU), FakeDDP)
    expected = "training: Horovod is not installed: training with torch DDP (gloo); 'make horovod' builds Horovod\n"
    assert capsys.readouterr().out == expected
    with pytest.raises(ConfigError, match="'horovod', but Horovod is not installed; 'make horovod' builds it"):
        choose.choose_backend(Train(backend="horovod"), World(size=2), CPU)


def test_importing_the_packages_is_light() -> None:
    code = "import sys, hpc_galaxy.training, hpc_galaxy.realism; print({'torch', 'matplotlib', 'horovod', 'mpi4py'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=patience(30), check=True)
    assert done.stdout == "set()\n"
