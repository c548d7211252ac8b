"""Optimizers for large global batches, which scale each tensor's step by the size of that tensor."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

import torch


class _Layerwise(torch.optim.Optimizer):
    """Takes a step of its own for each tensor. A group whose ``adapt`` is false is not scaled by the tensor's size."""

    # Overloaded in torch for the closure's sake; one signature says the same.
    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Change every parameter that has a gradient.

        Parameters
        ----------
        closure : callable, optional
            Computes the loss and the gradients anew, before the step.

        Returns
        -------
        Any
            What the closure returned, otherwise None.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._change(parameter, parameter.grad, group, self.state[parameter])
        return loss

    @abstractmethod
    def _change(self, parameter: torch.Tensor, gradient: torch.Tensor, group: dict[str, Any], state: dict[str, Any]) -> None:
        """Take the step of one tensor."""


class LARS(_Layerwise):
    """Layer-wise adaptive rate scaling: SGD with momentum whose step is a fixed share of each tensor's norm.

    You, Gitman & Ginsburg 2017, arXiv:1708.03888, algorithm 1. Where the norm of a tensor or of its gradient is zero the share is
    not defined, and plain SGD's step is taken.

    Parameters
    ----------
    params : iterable
        Parameters or groups of them. Groups with ``adapt`` false (biases, usually) take plain SGD's step.
    lr, momentum, weight_decay : float
        As SGD's; `lr` is the paper's gamma, and is in the momentum already when it is added up.
    trust : float
        The paper's eta.
    """

    def __init__(self, params: Iterable[Any], lr: float, momentum: float = 0.9, weight_decay: float = 0.0, trust: float = 1e-3) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust, "adapt": True})

    def _change(self, parameter: torch.Tensor, gradient: torch.Tensor, group: dict[str, Any], state: dict[str, Any]) -> None:
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        decay, rate = group["weight_decay"], group["lr"]
        if group["adapt"]:
            size, slope = parameter.norm(), gradient.norm()
            rate = rate * _ratio(group["trust"] * size, slope + decay * size, slope)
        change = torch.add(gradient, parameter, alpha=decay).mul_(rate)
        state["momentum"].mul_(group["momentum"]).add_(change)
        parameter.sub_(state["momentum"])


class LAMB(_Layerwise):
    """AdamW whose step is scaled to each tensor's norm.

    You et al. 2020, ICLR, arXiv:1904.00962, algorithm 2, with phi the identity and Adam's bias correction. Where the norm of a tensor
    or of its step is zero the scale is not defined, and AdamW's step is taken.

    Parameters
    ----------
    params : iterable
        Parameters or groups of them. Groups with ``adapt`` false (biases, usually) take AdamW's step.
    lr, betas, eps, weight_decay : float, tuple of float, float, float
        As AdamW's.
    """

    def __init__(
        self, params: Iterable[Any], lr: float, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-6, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "adapt": True})

    def _change(self, parameter: torch.Tensor, gradient: torch.Tensor, group: dict[str, Any], state: dict[str, Any]) -> None:
        if not state:
            state.update(step=torch.tensor(0.0), mean=torch.zeros_like(parameter), square=torch.zeros_like(parameter))
        state["step"] += 1
        first, second = group["betas"]
        state["mean"].lerp_(gradient, 1 - first)
        state["square"].mul_(second).addcmul_(gradient, gradient, value=1 - second)
        steps = state["step"].item()
        # In place: a fresh 1.3 MB tensor an operation costs more than the operation (page faults).
        change = torch.div(state["square"], 1 - second**steps).sqrt_().add_(group["eps"])
        torch.div(state["mean"], change, out=change)
        change.div_(1 - first**steps).add_(parameter, alpha=group["weight_decay"])
        rate = group["lr"]
        if group["adapt"]:
            size, length = parameter.norm(), change.norm()
            rate = rate * _ratio(size, length, length)
        parameter.sub_(change.mul_(rate))


def _ratio(above: torch.Tensor, below: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
    """Return above / below, or 1 where `above` or `length` is zero; shape (). Without waiting for a GPU, as an `if` would."""
    return torch.where((above > 0) & (length > 0), above / below, torch.ones_like(above))
