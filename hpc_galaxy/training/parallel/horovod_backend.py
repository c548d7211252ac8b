"""Gradient averaging by Horovod. The only module that imports it."""

from __future__ import annotations

import os

import horovod
import horovod.torch as hvd
import torch
from torch import nn

from hpc_galaxy.config.training import Horovod as Settings
from hpc_galaxy.errors import LaunchError
from hpc_galaxy.training.parallel.base import STALL_SECONDS, DataParallel
from hpc_galaxy.training.parallel.flat import FlatGradients, share_parameters
from hpc_galaxy.world import World


def knows_gpus() -> bool:
    """Return whether Horovod was built with CUDA or ROCm."""
    return bool(hvd.cuda_built() or hvd.rocm_built())


def environment(settings: Settings) -> dict[str, str]:
    """Return the variables that Horovod reads when it starts."""
    variables = {
        # A warning that names the ranks that are late, then the end of the job instead of a wait for ever.
        "HOROVOD_STALL_CHECK_TIME_SECONDS": "60",
        "HOROVOD_STALL_SHUTDOWN_TIME_SECONDS": str(STALL_SECONDS),
    }
    if settings.cycle_time_ms:
        variables["HOROVOD_CYCLE_TIME"] = str(settings.cycle_time_ms)
    if settings.fusion_mb:
        variables["HOROVOD_FUSION_THRESHOLD"] = str(int(settings.fusion_mb * 2**20))
    return variables


def start(world: World, settings: Settings) -> DataParallel:
    """Start Horovod and return what averages as the section [train.horovod] asks for. Collective.

    Raises
    ------
    LaunchError
        Horovod speaks to other ranks than MPI.
    """
    for name, value in environment(settings).items():
        os.environ.setdefault(name, value)
    hvd.init()
    if (hvd.rank(), hvd.size()) != (world.rank, world.size):
        found = f"Horovod sees rank {hvd.rank()} of {hvd.size()}, MPI {world.rank} of {world.size}"
        raise LaunchError("Horovod", found, "build it for the MPI that mpi4py uses ('make horovod'), or set train.backend to 'ddp'")
    return (FlatHorovod if settings.flat else TensorHorovod)(world, settings)


class FlatHorovod(DataParallel):
    """All gradients in one flat buffer, averaged by one allreduce.

    One message a step instead of one a tensor: nothing is left for Horovod's tensor fusion to wait for, and weights may lie in
    memory as they like, while Horovod itself refuses tensors that are not contiguous.
    """

    name = "horovod"

    def __init__(self, world: World, settings: Settings) -> None:
        self._world = world
        self._compression = hvd.Compression.fp16 if settings.compression == "fp16" else hvd.Compression.none
        how = "one flat buffer" if settings.flat else "tensor fusion"
        self.description = f"Horovod {horovod.__version__} ({'MPI' if hvd.mpi_enabled() else 'gloo'}, {how}"
        self.description += ")" if settings.compression == "none" else f", {settings.compression})"

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
        small, context = self._compression.compress(self._flat.buffer)
        hvd.allreduce_(small, op=hvd.Average, name="gradients")
        if context is not None:
            self._flat.buffer.copy_(self._compression.decompress(small, context))

    def close(self) -> None:
        """Stop Horovod's background thread."""
        hvd.shutdown()


class TensorHorovod(FlatHorovod):
    """A message a tensor, as soon as the backward pass has its gradient; Horovod fuses those that come close together."""

    overlaps = True

    def prepare(self, model: nn.Module) -> nn.Module:
        """Return `model` itself, with rank 0's parameters, and with hooks on them."""
        share_parameters(model, self._world)
        self._model, self._last = model, True
        self._handles: list[tuple[int, torch.Tensor, torch.Tensor, object]] = []
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(lambda ready, name=name: self._send(name, ready))
        return model

    def zero_gradients(self) -> None:
        """Forget the gradients."""
        self._model.zero_grad()

    def backward(self, last: bool) -> _Noting:
        """Return a context in which only the last pass of a step sends gradients."""
        return _Noting(self, last)

    def _send(self, name: str, parameter: torch.Tensor) -> None:
        gradient = parameter.grad
        if self._last and gradient is not None:
            # Horovod takes contiguous tensors only; a gradient that lies channels-last travels as a copy.
            small, context = self._compression.compress(gradient.contiguous())
            self._handles.append((hvd.allreduce_async_(small, op=hvd.Average, name=name), gradient, small, context))

    def average_gradients(self) -> None:
        """Wait for what is under way."""
        for handle, gradient, small, context in self._handles:
            hvd.synchronize(handle)
            if context is not None or small.data_ptr() != gradient.data_ptr():
                gradient.copy_(self._compression.decompress(small, context))
        self._handles.clear()


class _Noting:
    """Tells whether the pass that it encloses is the last one of a step."""

    def __init__(self, parallel: TensorHorovod, last: bool) -> None:
        self._parallel, self._last = parallel, last

    def __enter__(self) -> None:
        self._parallel._last = self._last

    def __exit__(self, *details: object) -> None:
        self._parallel._last = True
