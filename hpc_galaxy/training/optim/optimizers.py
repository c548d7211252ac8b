"""The optimizer that the configuration asks for, and the norm of the gradient."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from hpc_galaxy.config.training import Optimizer
from hpc_galaxy.errors import ConfigError
from hpc_galaxy.training.optim.eager import eager
from hpc_galaxy.training.optim.large_batch import LAMB, LARS

KINDS: dict[str, type[torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "adagrad": torch.optim.Adagrad,
    "rmsprop": torch.optim.RMSprop,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "lars": LARS,
    "lamb": LAMB,
}
EAGER = {name: eager(kind) for name, kind in KINDS.items()}


def make_optimizer(settings: Optimizer, model: nn.Module, *, fused_later: bool = False) -> torch.optim.Optimizer:
    """Return the optimizer of `model`'s parameters; vectors (biases) are a group of their own, without weight decay.

    Parameters
    ----------
    fused_later : bool
        Whether an extension will replace the optimizer's step, which it does for PyTorch's own classes alone.

    Raises
    ------
    ConfigError
        Nesterov's momentum was asked for where there is none.
    """
    if settings.nesterov and (settings.name != "sgd" or not settings.momentum):
        got = f"true with '{settings.name}' and momentum {settings.momentum:g}"
        raise ConfigError(
            "train.optimizer.nesterov", f"{got}, expected 'sgd' with momentum", "set train.optimizer.name to 'sgd', or leave it out"
        )
    kind = (KINDS if fused_later else EAGER)[settings.name]
    return kind(_groups(settings, model), **_options(settings))


def _options(settings: Optimizer) -> dict[str, Any]:
    """Return the keyword arguments of the optimizer's class.

    Microseconds a step of GalaxyCNN (10 tensors, 353,786 parameters) on one core of an AMD EPYC, plain / foreach / fused:
    sgd 242 / 255 / 101, adagrad 1272 / 527 / 176, rmsprop 1436 / 636 / -, adam 2133 / 691 / 234, adamw 685 / 651 / 233;
    LARS 666 and LAMB 1131.
    Not fused: on CPUs it walks through the bytes of weight and gradient side by side, whatever their strides, and so is silently
    wrong for weights that lie channels-last with gradients that do not (a flat buffer's). Half a millisecond a step is not worth that.
    """
    options: dict[str, dict[str, Any]] = {
        "sgd": {"momentum": settings.momentum, "nesterov": settings.nesterov, "foreach": True},
        "adagrad": {"eps": settings.eps, "foreach": True},
        "rmsprop": {"momentum": settings.momentum, "eps": settings.eps, "foreach": True},
        "adam": {"betas": settings.betas, "eps": settings.eps, "foreach": True},
        "adamw": {"betas": settings.betas, "eps": settings.eps, "foreach": True},
        "lars": {"momentum": settings.momentum, "trust": settings.trust},
        "lamb": {"betas": settings.betas, "eps": settings.eps},
    }
    return {"lr": settings.learning_rate, **options[settings.name]}


def _groups(settings: Optimizer, model: nn.Module) -> list[dict[str, Any]]:
    """Return the parameters in two groups, either of which may be empty: matrices and convolutions, then vectors."""
    groups: list[dict[str, Any]] = [{"params": [], "weight_decay": settings.weight_decay}, {"params": [], "weight_decay": 0.0}]
    for parameter in model.parameters():
        groups[parameter.ndim <= 1]["params"].append(parameter)
    if settings.name in ("lars", "lamb"):
        groups[1]["adapt"] = False
    return groups


def peak_learning_rate(settings: Optimizer, global_batch: int) -> float:
    """Return the learning rate for a global batch of so many examples, before any schedule.

    Linear: Goyal et al. 2017, arXiv:1706.02677, section 2.1. Square root: You et al. 2020, arXiv:1904.00962, section 4.
    """
    times = global_batch / settings.scale_from
    return settings.learning_rate * {"none": 1.0, "linear": times, "sqrt": math.sqrt(times)}[settings.scaling]


def clip_gradients(parameters: Iterable[torch.Tensor], clip_norm: float) -> torch.Tensor:
    """Shorten the gradients, in place, to a norm of `clip_norm` where they are longer; 0: only measure.

    Returns
    -------
    Tensor, shape ()
        Their norm over all parameters before that; not finite if one of them is not.
    """
    owners = [parameter for parameter in parameters if parameter.grad is not None]
    norm = nn.utils.get_total_norm([parameter.grad for parameter in owners if parameter.grad is not None])
    if clip_norm:
        nn.utils.clip_grads_with_norm_(owners, clip_norm, norm)
    return norm
