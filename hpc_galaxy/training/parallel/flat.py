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
        Its trainable parameters, all on one device, float32.

    Attributes
    ----------
    buffer : Tensor, shape (number of parameters,), float32
        All of them.
    """

    def __init__(self, model: nn.Module) -> None:
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        first = self._parameters[0]
        sizes = [parameter.numel() for parameter in self._parameters]
        self.buffer = torch.zeros(sum(sizes), dtype=first.dtype, device=first.device)
        self._views = [_view(part, parameter) for part, parameter in zip(self.buffer.split(sizes), self._parameters, strict=True)]

    def zero(self) -> None:
        """Set all to zero, and see to it that they are where the backward pass adds to."""
        self.buffer.zero_()
        for parameter, view in zip(self._parameters, self._views, strict=True):
            parameter.grad = view


def _view(part: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """See a piece of the buffer as a gradient; it lies in memory as its parameter does, which may be channels-last."""
    if parameter.ndim == 4 and parameter.is_contiguous(memory_format=torch.channels_last):
        outputs, inputs, height, width = parameter.shape
        return part.view(outputs, height, width, inputs).permute(0, 3, 1, 2)
    return part.view(parameter.shape)


def share_parameters(model: nn.Module, world: World) -> None:
    """Give every rank the parameters and buffers of rank 0. Collective."""
    state = {name: tensor.detach().cpu().numpy() for name, tensor in model.state_dict().items()} if world.is_root else None
    shared = world.bcast(state)
    assert shared is not None
    model.load_state_dict({name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in shared.items()})


class FlatMpi(DataParallel):
    """One buffer, one MPI allreduce a step; for CPUs."""

    name = "mpi"
    description = "MPI (one flat buffer)"

    def __init__(self, world: World, device: torch.device) -> None:
        if device.type != "cpu":
            raise ConfigError("train.backend", f"'mpi' on device {device.type}, expected the CPU", "use 'horovod' or 'ddp'")
        self._world = world

    def prepare(self, model: nn.Module) -> nn.Module:
        """Return `model` itself, with rank 0's parameters."""
        share_parameters(model, self._world)
        self._flat = FlatGradients(model)
        return model

    def zero_gradients(self) -> None:
        """Set the buffer to zero."""
        self._flat.zero()

    def average_gradients(self) -> None:
        """Average the buffer."""
        self._world.sum_in_place(self._flat.buffer.numpy())
        self._flat.buffer.div_(self._world.size)
