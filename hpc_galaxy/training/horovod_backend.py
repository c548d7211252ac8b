"""Gradient averaging by Horovod. The only module that imports it."""

from __future__ import annotations

import os

import horovod
import horovod.torch as hvd
import torch
from torch import nn

from hpc_galaxy.errors import LaunchError
from hpc_galaxy.training.parallel import STALL_SECONDS, DataParallel
from hpc_galaxy.world import World

# Horovod's cycle time stays at its default of 1 ms: with one message a step, 0.2 ms and 5 ms were measured to be no faster.
SETTINGS = {
    # A warning that names the ranks that are late, then the end of the job instead of a wait for ever.
    "HOROVOD_STALL_CHECK_TIME_SECONDS": "60",
    "HOROVOD_STALL_SHUTDOWN_TIME_SECONDS": str(STALL_SECONDS),
}


def knows_gpus() -> bool:
    """Return whether Horovod was built with CUDA or ROCm."""
    return bool(hvd.cuda_built() or hvd.rocm_built())


class Horovod(DataParallel):
    """All gradients in one flat buffer, averaged by one allreduce.

    One message a step instead of one a tensor: nothing is left for Horovod's tensor fusion to wait for.
    """

    name = "horovod"

    def __init__(self, world: World) -> None:
        for name, value in SETTINGS.items():
            os.environ.setdefault(name, value)
        hvd.init()
        if (hvd.rank(), hvd.size()) != (world.rank, world.size):
            found = f"Horovod sees rank {hvd.rank()} of {hvd.size()}, MPI {world.rank} of {world.size}"
            raise LaunchError("Horovod", found, "build it for the MPI that mpi4py uses ('make horovod'), or set train.backend to 'ddp'")
        transport = "MPI" if hvd.mpi_enabled() else "gloo"
        self.description = f"Horovod {horovod.__version__} ({transport}, one flat buffer)"
        self._flat: torch.Tensor | None = None

    def prepare(self, model: nn.Module) -> nn.Module:
        """Return `model` itself, with rank 0's parameters."""
        hvd.broadcast_parameters(model.state_dict(), root_rank=0)
        return model

    def average_gradients(self, model: nn.Module) -> None:
        """Replace the gradients by views of the averaged buffer."""
        parameters = [parameter for parameter in model.parameters() if parameter.grad is not None]
        gradients = [parameter.grad.reshape(-1) for parameter in parameters if parameter.grad is not None]
        self._flat = torch.cat(gradients, out=self._flat) if self._flat is not None else torch.cat(gradients)
        hvd.allreduce_(self._flat, op=hvd.Average, name="gradients")
        for parameter, mean in zip(parameters, self._flat.split([gradient.numel() for gradient in gradients]), strict=True):
            parameter.grad = mean.view_as(parameter)

    def close(self) -> None:
        """Stop Horovod's background thread."""
        hvd.shutdown()
