"""Optimizers without their ties to torch.compile, whose import costs a rank more time than that of torch."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch


def eager(kind: type[torch.optim.Optimizer]) -> type[torch.optim.Optimizer]:
    """Return a class that does what `kind` does, in the same order and to the last bit, and never imports ``torch._dynamo``.

    PyTorch imports that package, 860 modules, to keep the compiler from tracing an optimizer, be there a compiler or not: where the first
    parameters are added and again at each step. Hundreds of ranks would read them from one file system to say nothing to nobody. The
    methods that PyTorch wraps for that purpose are taken out of their wrappers; the hooks of a step stay.

    Parameters
    ----------
    kind : type
        A class of optimizers whose steps are not differentiated through. Its state dicts fit both classes.
    """
    unwrapped = {
        name: inspect.unwrap(method)
        for name, method in vars(torch.optim.Optimizer).items()
        if inspect.isfunction(method) and hasattr(method, "__wrapped__")
    }
    change = inspect.unwrap(kind.step)

    def step(self: torch.optim.Optimizer, closure: Callable[[], Any] | None = None) -> Any:
        with torch.no_grad():
            return change(self, closure)

    return type(kind.__name__, (kind,), {**unwrapped, "step": step, "__doc__": kind.__doc__})
