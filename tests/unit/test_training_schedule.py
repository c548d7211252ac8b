"""The learning rate, against torch's schedulers and values worked out by hand; no MPI."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from hpc_galaxy.config.training import Optimizer, Schedule
from hpc_galaxy.errors import ConfigError
from hpc_galaxy.training.model import GalaxyCNN
from hpc_galaxy.training.optim.optimizers import make_optimizer
from hpc_galaxy.training.optim.schedule import LearningRate, set_learning_rate

PEAK, EPOCHS, EXAMPLES, BATCH = 0.4, 5, 800, 32
STEPS = EPOCHS * EXAMPLES // BATCH  # 125, 25 an epoch


def rates(steps: int = STEPS, batch: int = BATCH, **settings: Any) -> list[float]:
    """Return the learning rate of each step of the training."""
    learning_rate = LearningRate(Schedule(**settings), PEAK, EPOCHS, EXAMPLES, batch)
    return [learning_rate(step * batch) for step in range(steps)]


def torch_rates(make: Any, steps: int = STEPS, **settings: Any) -> list[float]:
    """Return what one of torch's schedulers gives for the same steps."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=PEAK, momentum=0.9)
    scheduler, found = make(optimizer, **settings), []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def test_constant() -> None:
    assert set(rates()) == {PEAK}


def test_steps_agree_with_torch() -> None:
    expected = torch_rates(lr_scheduler.MultiStepLR, milestones=[50, 90, 100], gamma=0.3)
    assert rates(name="step", milestones=(2, 3.6, 4), factor=0.3) == pytest.approx(expected, rel=1e-12)
    assert rates(name="step", milestones=(4, 2, 3.6), factor=0.3) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("floor", [0.0, 0.1])
def test_cosine_agrees_with_torch(floor: float) -> None:
    expected = torch_rates(lr_scheduler.CosineAnnealingLR, T_max=STEPS, eta_min=floor * PEAK)
    assert rates(name="cosine", floor=floor) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("floor", [0.0, 0.1])
def test_one_cycle_agrees_with_torch(floor: float) -> None:
    """torch begins at the floor itself, one step earlier than we do, and arrives at the top and at the end a step later."""
    rise = 50
    division = 1 / floor if floor else 1e300
    cycle = {"max_lr": PEAK, "total_steps": STEPS + 1, "pct_start": (rise + 1) / (STEPS + 1), "div_factor": division, "final_div_factor": 1}
    expected = torch_rates(lr_scheduler.OneCycleLR, steps=STEPS, cycle_momentum=False, **cycle)
    ours = rates(name="one_cycle", rise=0.4, floor=floor)

    assert ours[:rise] == pytest.approx(expected[1 : rise + 1], rel=1e-9)
    assert ours[rise:] == pytest.approx(expected[rise:], rel=1e-9)
    assert max(ours) == ours[rise] == PEAK


def test_warm_up_agrees_with_torch() -> None:
    expected = torch_rates(lr_scheduler.LambdaLR, lr_lambda=lambda step: min(1, (step + 1) / 50))
    assert rates(warmup=2) == pytest.approx(expected, rel=1e-12)


def test_warm_up_goes_before_a_cosine_and_into_steps() -> None:
    up = [PEAK * (step + 1) / 25 for step in range(25)]
    down = [PEAK * (0.1 + 0.9 * (1 + math.cos(math.pi * step / 100)) / 2) for step in range(100)]
    assert rates(name="cosine", floor=0.1, warmup=1) == pytest.approx(up + down, rel=1e-12)

    stepped = rates(name="step", milestones=(3,), warmup=1)
    assert stepped == pytest.approx(up + [PEAK] * 50 + [PEAK / 10] * 50, rel=1e-12)


@pytest.mark.parametrize("settings", [{"warmup": 2}, {"name": "cosine", "warmup": 1}, {"name": "cosine"}, {"name": "one_cycle"}])
def test_no_step_is_in_vain(settings: dict[str, Any]) -> None:
    """However many examples the last step of an epoch has, and be the warm-up shorter than a step."""
    for batch in (BATCH, 300, EXAMPLES, 4 * EXAMPLES):
        learning_rate = LearningRate(Schedule(**settings), PEAK, EPOCHS, EXAMPLES, batch)
        found = [learning_rate(epoch * EXAMPLES + seen) for epoch in range(EPOCHS) for seen in range(0, EXAMPLES, batch)]
        assert all(0 < rate <= PEAK for rate in found)


def test_a_global_batch_twice_as_large_goes_through_the_same_schedule() -> None:
    """Where both begin a step, apart from the way up, on which each step takes what it ends with."""
    for settings in ({"name": "cosine"}, {"name": "step", "milestones": (2.0,)}):
        assert rates(steps=STEPS // 2, batch=2 * BATCH, **settings) == rates(**settings)[: 2 * (STEPS // 2) : 2]
    assert rates(steps=25, batch=2 * BATCH, warmup=2) == rates(steps=50, warmup=2)[1::2]


def test_beyond_the_last_epoch_the_rate_stays_at_its_floor() -> None:
    for name in ("cosine", "one_cycle"):
        learning_rate = LearningRate(Schedule(name=name, floor=0.1), PEAK, EPOCHS, EXAMPLES, BATCH)
        assert learning_rate(2 * EPOCHS * EXAMPLES) == pytest.approx(0.1 * PEAK)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"name": "step"}, "train.schedule.milestones: empty, but train.schedule.name is 'step'; list the epochs"),
        ({"name": "one_cycle", "warmup": 1}, "train.schedule.warmup: 1 epochs with 'one_cycle', which rises by itself; set"),
        ({"name": "cosine", "warmup": 5}, "train.schedule.warmup: 5 epochs, expected fewer than the 5 of the training"),
    ],
)
def test_what_does_not_go_together_is_refused(settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        LearningRate(Schedule(**settings), PEAK, EPOCHS, EXAMPLES, BATCH)


def test_all_groups_get_the_learning_rate() -> None:
    optimizer = make_optimizer(Optimizer(), GalaxyCNN())
    set_learning_rate(optimizer, 0.125)
    assert [group["lr"] for group in optimizer.param_groups] == [0.125, 0.125]
