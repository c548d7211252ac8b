"""Which device a rank computes with, and which way of averaging the configuration means."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

import torch

from hpc_galaxy.config import Train
from hpc_galaxy.errors import ConfigError, LaunchError
from hpc_galaxy.training.parallel.base import DataParallel, Serial
from hpc_galaxy.training.parallel.ddp import DDP
from hpc_galaxy.training.parallel.flat import FlatMpi
from hpc_galaxy.world import World


def pick_device(world: World) -> torch.device:
    """Return this rank's GPU where there is one, otherwise the CPU.

    A launcher that shows each rank only its own GPU (``--gpus-per-task=1``) is served by the remainder.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", world.local_rank % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device


def choose_backend(train: Train, world: World, device: torch.device) -> DataParallel:
    """Return the backend that ``train.backend`` asks for, started. Collective.

    Raises
    ------
    LaunchError
        'serial' was asked for and there are several ranks, or torchrun started what needs MPI.
    ConfigError
        What was asked for cannot be used here.
    """
    asked = train.backend
    if asked == "serial" and world.size > 1:
        raise LaunchError("train.backend", f"'serial' with {world.size} ranks, expected 1", "use 'auto', or start one process")
    if asked == "serial" or (asked == "auto" and world.size == 1):
        return Serial()
    if world.launcher == "torchrun" and asked in ("horovod", "mpi"):
        raise LaunchError("train.backend", f"'{asked}' under torchrun, expected 'ddp'", "start with mpirun or srun, or set it to 'ddp'")
    if asked == "ddp" or world.launcher == "torchrun":
        return DDP(world, device, train.ddp)
    if asked == "mpi":
        return FlatMpi(world, device)
    horovod, reason = _find_horovod(device)
    if horovod is not None:
        return _started(horovod, train, world)
    if asked == "horovod":
        raise ConfigError("train.backend", f"'horovod', but {reason}", "'make horovod' builds it; or set train.backend to 'ddp'")
    backend = DDP(world, device, train.ddp)
    world.say(f"training: {reason}: training with {backend.description}; 'make horovod' builds Horovod")
    return backend


def _started(horovod: ModuleType, train: Train, world: World) -> DataParallel:
    backend = horovod.start(world, train.horovod)
    assert isinstance(backend, DataParallel)
    return backend


def _find_horovod(device: torch.device) -> tuple[ModuleType | None, str]:
    """Return the Horovod module, or None and why it cannot be used."""
    try:
        horovod_backend = import_module("hpc_galaxy.training.parallel.horovod_backend")
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError)
        return None, "Horovod is not installed" if missing else f"Horovod cannot be imported ({error})"
    if device.type == "cuda" and not horovod_backend.knows_gpus():
        return None, "Horovod was built without GPUs"
    return horovod_backend, ""
