"""Optimizers, against their papers' formulas written out in numpy; scaling and clipping; no MPI."""

from __future__ import annotations

import copy
import io
import math
import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from helpers import run_group
from torch import nn

from hpc_galaxy.config.training import Optimizer
from hpc_galaxy.errors import ConfigError
from hpc_galaxy.training.model import GalaxyCNN, MajorityClass
from hpc_galaxy.training.optim.large_batch import LAMB, LARS
from hpc_galaxy.training.optim.optimizers import clip_gradients, make_optimizer, peak_learning_rate
from hpc_galaxy.training.optim.schedule import set_learning_rate

NAMES = ("sgd", "adagrad", "rmsprop", "adam", "adamw", "lars", "lamb")
RATES = (0.01, 0.03, 0.02, 0.02, 0.005)  # unequal: where a rate enters a running mean matters
Step = Callable[[np.ndarray, np.ndarray, dict[str, Any], float, float, Optimizer], np.ndarray]


def network() -> nn.Module:
    """Double precision, so that only the formulas decide; two weights, a weight of zeros, three biases."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Linear(4, 5), nn.Linear(5, 2)).double()
    nn.init.zeros_(model[2].weight)
    return model


def gradients(model: nn.Module) -> list[list[torch.Tensor]]:
    """Return one list a step of RATES; the first weight's gradient is zero in the second step."""
    generator = torch.Generator().manual_seed(2)
    steps = [[torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in model.parameters()] for _ in RATES]
    steps[1][0].zero_()
    return steps


def descend(model: nn.Module, optimizer: torch.optim.Optimizer, steps: list[list[torch.Tensor]], rates: tuple[float, ...] = RATES) -> None:
    for step, rate in zip(steps, rates, strict=True):
        for parameter, gradient in zip(model.parameters(), step, strict=True):
            parameter.grad = gradient.clone()
        set_learning_rate(optimizer, rate)
        optimizer.step()


def weights(model: nn.Module) -> np.ndarray:
    return np.concatenate([parameter.detach().numpy().ravel() for parameter in model.parameters()])


# Each takes weights, gradients, what it remembers (counting steps from 1 in "t"), learning rate and weight decay, and returns the weights.


def sgd(w: np.ndarray, g: np.ndarray, memory: dict[str, Any], rate: float, decay: float, settings: Optimizer) -> np.ndarray:
    g = g + decay * w
    memory["v"] = settings.momentum * memory.get("v", 0) + g
    return w - rate * (g + settings.momentum * memory["v"] if settings.nesterov else memory["v"])


def adagrad(w: np.ndarray, g: np.ndarray, memory: dict[str, Any], rate: float, decay: float, settings: Optimizer) -> np.ndarray:
    g = g + decay * w
    memory["s"] = memory.get("s", 0) + g**2
    return w - rate * g / (np.sqrt(memory["s"]) + settings.eps)


def rmsprop(w: np.ndarray, g: np.ndarray, memory: dict[str, Any], rate: float, decay: float, settings: Optimizer) -> np.ndarray:
    g = g + decay * w
    memory["s"] = 0.99 * memory.get("s", 0) + 0.01 * g**2
    memory["v"] = settings.momentum * memory.get("v", 0) + g / (np.sqrt(memory["s"]) + settings.eps)
    return w - rate * memory["v"]


def adam_direction(g: np.ndarray, memory: dict[str, Any], settings: Optimizer) -> np.ndarray:
    first, second = settings.betas
    memory["m"] = first * memory.get("m", 0) + (1 - first) * g
    memory["s"] = second * memory.get("s", 0) + (1 - second) * g**2
    mean, square = memory["m"] / (1 - first ** memory["t"]), memory["s"] / (1 - second ** memory["t"])
    return mean / (np.sqrt(square) + settings.eps)


def adam(w: np.ndarray, g: np.ndarray, memory: dict[str, Any], rate: float, decay: float, settings: Optimizer) -> np.ndarray:
    return w - rate * adam_direction(g + decay * w, memory, settings)


def adamw(w: np.ndarray, g: np.ndarray, memory: dict[str, Any], rate: float, decay: float, settings: Optimizer) -> np.ndarray:
    return w - rate * decay * w - rate * adam_direction(g, memory, settings)


def lars(w: np.ndarray, g: np.ndarray, memory: dict[str, Any], rate: float, decay: float, settings: Optimizer) -> np.ndarray:
    local, size, slope = 1.0, np.sqrt((w**2).sum()), np.sqrt((g**2).sum())
    if w.ndim > 1 and size > 0 and slope > 0:
        local = settings.trust * size / (slope + decay * size)
    memory["v"] = settings.momentum * memory.get("v", 0) + rate * local * (g + decay * w)
    return w - memory["v"]


def lamb(w: np.ndarray, g: np.ndarray, memory: dict[str, Any], rate: float, decay: float, settings: Optimizer) -> np.ndarray:
    change = adam_direction(g, memory, settings) + decay * w
    size, length = np.sqrt((w**2).sum()), np.sqrt((change**2).sum())
    return w - rate * (size / length if w.ndim > 1 and size > 0 and length > 0 else 1.0) * change


REFERENCES: dict[str, Step] = {f.__name__: f for f in (sgd, adagrad, rmsprop, adam, adamw, lars, lamb)}


def by_hand(settings: Optimizer) -> np.ndarray:
    """Return all weights of `network` after the steps of `gradients`."""
    model, results = network(), []
    steps = gradients(model)
    for number, parameter in enumerate(model.parameters()):
        value, memory = parameter.detach().numpy().copy(), {"t": 0}
        decay = settings.weight_decay if value.ndim > 1 else 0.0
        for step, rate in zip(steps, RATES, strict=True):
            memory["t"] += 1
            value = REFERENCES[settings.name](value, step[number].numpy(), memory, rate, decay, settings)
        results.append(value.ravel())
    return np.concatenate(results)


@pytest.mark.parametrize(
    "settings",
    [
        *({"name": name, "weight_decay": decay} for name in NAMES for decay in (0.0, 0.1)),
        {"name": "sgd", "nesterov": True, "weight_decay": 0.1},
        {"name": "sgd", "momentum": 0.0},
        {"name": "rmsprop", "momentum": 0.0, "eps": 1e-3},
        {"name": "adagrad", "eps": 1e-2},
        {"name": "adam", "betas": (0.8, 0.95), "eps": 1e-3},
        {"name": "lars", "momentum": 0.5, "trust": 0.02, "weight_decay": 0.1},
        {"name": "lamb", "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.1},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
def test_five_steps_agree_with_the_formulas(settings: dict[str, Any]) -> None:
    chosen, model = Optimizer(**settings), network()
    before = weights(model)
    descend(model, make_optimizer(chosen, model), gradients(model))

    np.testing.assert_allclose(weights(model), by_hand(chosen), rtol=1e-11, atol=1e-13)
    assert np.all(weights(model) != before)


@pytest.mark.parametrize("name", NAMES)
def test_a_training_continued_from_a_file_agrees_to_the_last_bit(name: str) -> None:
    settings = Optimizer(name=name, weight_decay=0.1)
    whole, model = GalaxyCNN(), GalaxyCNN()
    model.load_state_dict(whole.state_dict())
    steps = gradients(whole)
    descend(whole, make_optimizer(settings, whole), steps)

    optimizer = make_optimizer(settings, model)
    descend(model, optimizer, steps[:2], RATES[:2])
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    content = torch.load(file, weights_only=True)
    resumed = GalaxyCNN()
    optimizer = make_optimizer(settings, resumed)
    resumed.load_state_dict(content["model"])
    optimizer.load_state_dict(content["optimizer"])
    descend(resumed, optimizer, steps[2:], RATES[2:])

    assert np.array_equal(weights(resumed), weights(whole))


@pytest.mark.parametrize("name", NAMES)
def test_without_the_compiler_it_is_the_same_optimizer(name: str) -> None:
    settings = Optimizer(name=name, weight_decay=0.1)
    own, same = GalaxyCNN(), GalaxyCNN()
    same.load_state_dict(own.state_dict())
    pairs = ((own, make_optimizer(settings, own, fused_later=True)), (same, make_optimizer(settings, same)))
    steps, hooked = gradients(own), []
    for model, optimizer in pairs:
        optimizer.register_step_post_hook(lambda optimizer, *_: hooked.append(type(optimizer)))
        descend(model, optimizer, steps[:3], RATES[:3])
    (_, theirs), (_, ours) = pairs
    # Each goes on with what the other one knows.
    known = copy.deepcopy(theirs.state_dict())
    theirs.load_state_dict(copy.deepcopy(ours.state_dict()))
    ours.load_state_dict(known)
    for model, optimizer in pairs:
        descend(model, optimizer, steps[3:], RATES[3:])

    assert np.array_equal(weights(own), weights(same))
    assert [hooked.count(type(optimizer)) for _, optimizer in pairs] == [len(RATES)] * 2
    assert issubclass(type(ours), type(theirs)) and type(ours).__name__ == type(theirs).__name__


def test_nothing_imports_the_compiler() -> None:
    """It is 860 modules, which every rank would read; in a process of its own, as another test may have imported it."""
    program = """
import sys
import torch
from hpc_galaxy.config.training import Optimizer
from hpc_galaxy.training.optim.optimizers import KINDS, make_optimizer
for name in KINDS:
    model = torch.nn.Linear(4, 2)
    optimizer = make_optimizer(Optimizer(name=name), model)
    model(torch.ones(3, 4)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    optimizer.load_state_dict(optimizer.state_dict())
print(len(KINDS), "torch._dynamo" in sys.modules)
"""
    ended = run_group([sys.executable, "-c", program], timeout=60, env=os.environ)

    assert (ended.stdout, ended.stderr, ended.returncode) == ("7 False\n", "", 0)


@pytest.mark.parametrize("name", NAMES)
def test_strides_of_weights_and_gradients_do_not_matter(name: str) -> None:
    """torch's fused optimizers on CPUs fail this: they pair up what lies at the same place in memory."""
    settings = Optimizer(name=name)
    plain, strided = network(), network().to(memory_format=torch.channels_last)
    assert not next(strided.parameters()).is_contiguous()
    for model in (plain, strided):
        descend(model, make_optimizer(settings, model), gradients(model))

    np.testing.assert_allclose(weights(strided), weights(plain), rtol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_vectors_are_a_group_of_their_own(name: str) -> None:
    model = GalaxyCNN()
    matrices, vectors = make_optimizer(Optimizer(name=name, weight_decay=0.1), model).param_groups

    assert [p.ndim for p in matrices["params"]] == [4, 4, 4, 2, 2]
    assert [p.ndim for p in vectors["params"]] == [1] * 5
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.1, 0.0)


@pytest.mark.parametrize("name", NAMES)
def test_a_network_of_one_vector_can_be_trained(name: str) -> None:
    model = MajorityClass()
    model.unused.grad = torch.ones(1)
    make_optimizer(Optimizer(name=name), model).step()

    assert model.unused.item() < 0


@pytest.mark.parametrize("kind", [LARS, LAMB])
def test_large_batch_optimizers_leave_alone_what_has_no_gradient(kind: type[LARS] | type[LAMB]) -> None:
    used, unused = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2, 2))
    optimizer = kind([used, unused], lr=0.1)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = (used**2).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure) == 4
    assert optimizer.step() is None
    assert torch.all(used < 1)
    assert torch.equal(unused, torch.ones(2, 2))


@pytest.mark.parametrize(("name", "momentum"), [*((name, 0.9) for name in NAMES if name != "sgd"), ("sgd", 0.0)])
def test_nesterov_needs_sgd_with_momentum(name: str, momentum: float) -> None:
    with pytest.raises(ConfigError, match=rf"train.optimizer.nesterov: true with '{name}' and momentum {momentum:g}, expected 'sgd' with"):
        make_optimizer(Optimizer(name=name, momentum=momentum, nesterov=True), network())


@pytest.mark.parametrize(
    ("scaling", "global_batch", "expected"),
    [("none", 8192, 0.1), ("linear", 256, 0.1), ("linear", 8192, 3.2), ("linear", 64, 0.025), ("sqrt", 1024, 0.2), ("sqrt", 64, 0.05)],
)
def test_the_peak_grows_with_the_global_batch(scaling: Any, global_batch: int, expected: float) -> None:
    settings = Optimizer(learning_rate=0.1, scaling=scaling)
    assert peak_learning_rate(settings, global_batch) == pytest.approx(expected, rel=1e-15)
    doubled = Optimizer(learning_rate=0.1, scaling=scaling, scale_from=512)
    assert peak_learning_rate(doubled, 2 * global_batch) == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize("clip_norm", [0.5, 100.0, 1e6])
def test_clipping_agrees_with_torch(clip_norm: float) -> None:
    ours, reference = GalaxyCNN(), GalaxyCNN()
    step = gradients(ours)[0]
    for mine, other, gradient in zip(ours.parameters(), reference.parameters(), step, strict=True):
        mine.grad, other.grad = gradient.clone(), gradient.clone()
    norm = clip_gradients(ours.parameters(), clip_norm)

    assert norm.shape == ()
    assert norm.item() == pytest.approx(math.sqrt(sum(np.sum(gradient.numpy().astype(float) ** 2) for gradient in step)), rel=1e-5)
    assert norm == nn.utils.clip_grad_norm_(reference.parameters(), clip_norm)
    left = [(mine.grad, other.grad) for mine, other in zip(ours.parameters(), reference.parameters(), strict=True)]
    assert all(mine is not None and other is not None and torch.equal(mine, other) for mine, other in left)
    assert clip_gradients(ours.parameters(), 0).item() == pytest.approx(min(clip_norm, norm.item()), rel=1e-5)


def test_clipping_by_zero_only_measures() -> None:
    parameters = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(3))]
    parameters[0].grad, parameters[1].grad = torch.tensor([3.0, 0.0]), torch.tensor([4.0])

    assert clip_gradients(iter(parameters), 0) == 5
    assert parameters[0].grad.tolist() == [3, 0]
    assert parameters[1].grad.tolist() == [4]
    assert parameters[2].grad is None
    assert clip_gradients(iter(parameters), 1) == 5
    assert parameters[1].grad.item() == pytest.approx(0.8)
    parameters[1].grad.fill_(math.nan)
    assert math.isnan(clip_gradients(parameters, 0).item())
