"""Gradient averaging by Horovod. The only module that imports it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import horovod
import horovod.torch as hvd
import torch
from torch import nn

from hpc_galaxy.config.training import Horovod as Settings
from hpc_galaxy.errors import LaunchError
from hpc_galaxy.training.parallel.base import STALL_SECONDS, DataParallel
from hpc_galaxy.training.parallel.flat import Flat
from hpc_galaxy.world import World

Sent = tuple[int, torch.Tensor, torch.Tensor]  # Horovod's handle, what travels, and the gradient that it stands for


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


class FlatHorovod(Flat):
    """All gradients in one flat buffer, averaged by one allreduce.

    One message a step instead of one a tensor: nothing is left for Horovod's tensor fusion to wait for. The weights may lie in memory
    as they like, while Horovod itself refuses tensors that are not contiguous.

    Parameters
    ----------
    world : World
        Its ranks are Horovod's.
    settings : Horovod
        The section [train.horovod].
    """

    name = "horovod"

    def __init__(self, world: World, settings: Settings) -> None:
        super().__init__(world)
        self._compression = hvd.Compression.fp16 if settings.compression == "fp16" else hvd.Compression.none
        ways = ["MPI" if hvd.mpi_enabled() else "gloo", "one flat buffer" if settings.flat else "tensor fusion"]
        if settings.compression != "none":
            ways.append(settings.compression)
        self.description = f"Horovod {horovod.__version__} ({', '.join(ways)})"

    def average_gradients(self) -> None:
        """Average the buffer."""
        self._finish(*self._send(self._flat.buffer, "gradients"))

    def _send(self, gradient: torch.Tensor, name: str) -> Sent:
        """Hand a gradient to Horovod's thread."""
        sent, _ = self._compression.compress(gradient)
        return hvd.allreduce_async_(sent, op=hvd.Average, name=name), sent, gradient

    def _finish(self, handle: int, sent: torch.Tensor, gradient: torch.Tensor) -> None:
        """Wait for a gradient's mean, and put it where the gradient is."""
        hvd.synchronize(handle)
        if sent is not gradient:
            gradient.copy_(sent)

    def close(self) -> None:
        """Stop Horovod's background thread."""
        hvd.shutdown()


class TensorHorovod(FlatHorovod):
    """A message a tensor, as soon as the backward pass has its gradient; Horovod fuses those that come close together."""

    overlaps = True

    def prepare(self, model: nn.Module) -> nn.Module:
        """Return `model` itself, with rank 0's parameters, and with hooks on them."""
        super().prepare(model)
        self._last = False
        self._under_way: list[Sent] = []
        for number, (parameter, part) in enumerate(zip(self._flat.parameters, self._flat.parts, strict=True)):
            parameter.register_post_accumulate_grad_hook(partial(self._ready, part, f"gradient {number}"))
        return model

    def _ready(self, part: torch.Tensor, name: str, parameter: torch.Tensor) -> None:
        if self._last:
            self._under_way.append(self._send(part, name))

    @contextmanager
    def backward(self, last: bool) -> Iterator[None]:
        """Return a context in which only the last pass of a step sends gradients."""
        self._last = last
        yield
        self._last = False

    def average_gradients(self) -> None:
        """Wait for what is under way."""
        for sent in self._under_way:
            self._finish(*sent)
        self._under_way.clear()
