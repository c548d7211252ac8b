"""All gradients in one piece of memory, averaged by one message: on CPU nodes the fastest way measured."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from hpc_galaxy.errors import ConfigError
from hpc_galaxy.training.parallel.base import DataParallel
from hpc_galaxy.world import World


class FlatGradients:
    """The gradients of a model as views of one buffer, into which the backward pass writes by itself.

    Parameters
    ----------
    model : Module
        Its trainable parameters, all on one device and of one type.

    Attributes
    ----------
    buffer : Tensor, shape (number of parameters,)
        All of them, in the order of ``model.parameters()``, each as its parameter lies in memory.
    parameters, parts : list of Parameter, list of Tensor
        The parameters, and the piece of the buffer, of one dimension, that is the gradient of each.
    """

    def __init__(self, model: nn.Module) -> None:
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        sizes = [parameter.numel() for parameter in self.parameters]
        first = self.parameters[0]
        self.buffer = torch.zeros(sum(sizes), dtype=first.dtype, device=first.device)
        self.parts = list(self.buffer.split(sizes))
        self._views = [_view(part, parameter) for part, parameter in zip(self.parts, self.parameters, strict=True)]

    def zero(self) -> None:
        """Set all to zero, and see to it that they are where the backward pass adds to."""
        self.buffer.zero_()
        for parameter, view in zip(self.parameters, self._views, strict=True):
            parameter.grad = view


def _view(part: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """See a piece of the buffer as a gradient with its parameter's order of axes in memory, which may be channels-last."""
    # An empty twin has the strides of the parameter without any gaps.
    return part.as_strided(parameter.shape, torch.empty_like(parameter, device="meta").stride())


def share_parameters(model: nn.Module, world: World) -> None:
    """Give every rank the parameters and buffers of rank 0. Collective."""
    state = {name: tensor.detach().cpu().numpy() for name, tensor in model.state_dict().items()} if world.is_root else None
    shared = world.bcast(state)
    assert shared is not None
    model.load_state_dict({name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in shared.items()})


class Flat(DataParallel):
    """All gradients in one buffer; its heirs say how it is averaged.

    Parameters
    ----------
    world : World
        The ranks.
    """

    def __init__(self, world: World) -> None:
        self._world = world

    def prepare(self, model: nn.Module) -> nn.Module:
        """Return `model` itself, with rank 0's parameters."""
        share_parameters(model, self._world)
        self._flat = FlatGradients(model)
        return model

    def zero_gradients(self) -> None:
        """Set the buffer to zero."""
        self._flat.zero()


class FlatMpi(Flat):
    """One MPI allreduce a step; for CPUs."""

    name = "mpi"
    description = "MPI (one flat buffer)"

    def __init__(self, world: World, device: torch.device) -> None:
        if device.type != "cpu":
            raise ConfigError("train.backend", f"'mpi' on device {device.type}, expected the CPU", "use 'horovod' or 'ddp'")
        super().__init__(world)

    def average_gradients(self) -> None:
        """Average the buffer."""
        # A rank that comes late finds the others' pieces waiting and sends those of several rounds side by side, which holds up the first,
        # for which all wait: over TCP twice as slow as if they meet before (benchmarks/README.md, "The scaling model").
        self._world.meet()
        self._world.sum_in_place(self._flat.buffer.numpy())
        self._flat.buffer.div_(self._world.size)
