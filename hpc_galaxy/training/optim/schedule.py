"""The learning rate over a training: a function of the examples seen, so that a resumed run needs no memory of it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from hpc_galaxy.config.training import Schedule
from hpc_galaxy.errors import ConfigError


@dataclass(frozen=True)
class LearningRate:
    """The learning rate of each step.

    On the way up a step takes what it *ends* with, on the way down what it *begins* with, so that neither the first step nor the last
    is in vain where the rate begins or ends at zero. Nothing here depends on the number of ranks.

    Attributes
    ----------
    schedule : Schedule
        The section [train.schedule].
    peak : float
        The learning rate that the schedule starts from or rises to.
    epochs, examples : int
        Epochs of the training, and examples of each.
    global_batch : int
        Examples a step.

    Raises
    ------
    ConfigError
        The schedule's parts do not go together.
    """

    schedule: Schedule
    peak: float
    epochs: int
    examples: int
    global_batch: int

    def __post_init__(self) -> None:
        schedule = self.schedule
        if schedule.name == "step" and not schedule.milestones:
            problem = "empty, but train.schedule.name is 'step'"
            raise ConfigError("train.schedule.milestones", problem, "list the epochs at which the rate falls, or choose 'constant'")
        if schedule.name == "one_cycle" and schedule.warmup:
            problem = f"{schedule.warmup:g} epochs with 'one_cycle', which rises by itself"
            raise ConfigError("train.schedule.warmup", problem, "set train.schedule.rise instead, or choose 'cosine'")
        if schedule.name == "cosine" and schedule.warmup >= self.epochs:
            problem = (
                f"{schedule.warmup:g} epochs, expected fewer than the {self.epochs} of the training, or nothing is left for the cosine"
            )
            raise ConfigError("train.schedule.warmup", problem, "shorten it, or raise train.epochs")

    def __call__(self, seen: int) -> float:
        """Return the learning rate of the step that begins after `seen` examples, counted from the beginning of the training."""
        epoch = seen / self.examples
        match self.schedule.name:
            case "constant":
                return self.peak * self._warmup(seen)
            case "step":
                passed = sum(epoch >= milestone for milestone in self.schedule.milestones)
                return self.peak * self._warmup(seen) * self.schedule.factor**passed
            case "cosine":
                down = _share(epoch, self.schedule.warmup, self.epochs)
                return self.peak * self._warmup(seen) * _half_cosine(1.0, self.schedule.floor, down)
            case "one_cycle":
                return self.peak * self._one_cycle(epoch)

    def _warmup(self, seen: int) -> float:
        """Return the factor of the linear warm-up (Goyal et al. 2017, arXiv:1706.02677, section 2.2)."""
        warm = self.schedule.warmup * self.examples
        return min(1.0, (seen + self.global_batch) / warm) if warm else 1.0

    def _one_cycle(self, epoch: float) -> float:
        """Return the factor of one rise and fall (Smith & Topin 2017, arXiv:1708.07120; half cosines as in torch's OneCycleLR)."""
        floor, top = self.schedule.floor, self.schedule.rise * self.epochs
        if epoch < top:
            return _half_cosine(floor, 1.0, _share(epoch + self.global_batch / self.examples, 0.0, top))
        return _half_cosine(1.0, floor, _share(epoch, top, self.epochs))


def _share(epoch: float, begin: float, end: float) -> float:
    """Return which part of the way from `begin` to `end` is done, 0 to 1."""
    return min(1.0, max(0.0, (epoch - begin) / (end - begin)))


def _half_cosine(start: float, stop: float, share: float) -> float:
    """Go from `start` to `stop` along half a cosine (Loshchilov & Hutter 2017, ICLR, equation 5)."""
    return stop + (start - stop) * (1 + math.cos(math.pi * share)) / 2


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Give all groups of the optimizer this learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = value
