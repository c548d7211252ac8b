"""How ranks agree on gradients: one small interface, and who implements it here. Horovod's is in `horovod_backend`."""

from __future__ import annotations

import socket
from abc import ABC, abstractmethod
from datetime import timedelta
from types import ModuleType

import torch
from torch import distributed, nn

from hpc_galaxy.errors import ConfigError, LaunchError
from hpc_galaxy.world import World

# A rank that lets the others wait this long is lost. Longer than the slowest legitimate wait: a checkpoint or a cold read.
STALL_SECONDS = 600


class DataParallel(ABC):
    """Averages gradients over the ranks.

    Attributes
    ----------
    name : str
        The backend, as in ``train.backend``.
    description : str
        One phrase for the user.
    overlaps : bool
        Whether the averaging happens during the backward pass, so that its time cannot be told from the computation's.
    """

    name: str
    description: str
    overlaps: bool = False

    @abstractmethod
    def prepare(self, model: nn.Module) -> nn.Module:
        """Give every rank the parameters of rank 0 and return what the forward pass must go through. Collective."""

    @abstractmethod
    def average_gradients(self, model: nn.Module) -> None:
        """Replace every gradient by its mean over the ranks, unless the backward pass has done so already. Collective."""

    def close(self) -> None:
        """Leave the group of ranks."""
        return


class Serial(DataParallel):
    """One process."""

    name = "serial"
    description = "serial"

    def prepare(self, model: nn.Module) -> nn.Module:
        """Return `model` itself."""
        return model

    def average_gradients(self, model: nn.Module) -> None:
        """Do nothing: the mean over one rank is there already."""
        return


class DDP(DataParallel):
    """``torch.nn.parallel.DistributedDataParallel``, over NCCL on GPUs and gloo on CPUs; MPI only introduces the ranks."""

    name = "ddp"
    overlaps = True

    def __init__(self, world: World, device: torch.device) -> None:
        transport = "nccl" if device.type == "cuda" else "gloo"
        self.description = f"torch DDP ({transport})"
        self.device = device
        distributed.init_process_group(
            transport, store=_meet(world), rank=world.rank, world_size=world.size, timeout=timedelta(seconds=STALL_SECONDS)
        )

    def prepare(self, model: nn.Module) -> nn.Module:
        """Return the model wrapped; wrapping broadcasts the parameters."""
        return nn.parallel.DistributedDataParallel(model, device_ids=[self.device.index] if self.device.type == "cuda" else None)

    def average_gradients(self, model: nn.Module) -> None:
        """Do nothing: the wrapped model averaged while it went backward."""
        return

    def close(self) -> None:
        """Destroy the process group."""
        distributed.destroy_process_group()


def _meet(world: World) -> distributed.TCPStore:
    """Open a store on rank 0, at a port the system chose, and connect every rank to it."""
    timeout = timedelta(seconds=STALL_SECONDS)
    store = None
    if world.is_root:
        store = distributed.TCPStore("127.0.0.1", 0, world.size, is_master=True, timeout=timeout, wait_for_workers=False)
    one_node = world.local_size == world.size
    host, port = world.bcast((("127.0.0.1" if one_node else socket.gethostname()), store.port if store else 0))
    return store or distributed.TCPStore(host, port, world.size, is_master=False, timeout=timeout)


def choose_backend(asked: str, world: World, device: torch.device) -> DataParallel:
    """Return the backend that ``train.backend`` asks for, started. Collective.

    Raises
    ------
    LaunchError
        'serial' was asked for and there are several ranks.
    ConfigError
        'horovod' was asked for and cannot be used here.
    """
    if asked == "serial" and world.size > 1:
        raise LaunchError("train.backend", f"'serial' with {world.size} ranks, expected 1", "use 'auto', or start one process")
    if asked == "serial" or (asked == "auto" and world.size == 1):
        return Serial()
    if asked == "ddp":
        return DDP(world, device)
    horovod, reason = _find_horovod(device)
    if horovod is not None:
        return horovod.Horovod(world)
    if asked == "horovod":
        raise ConfigError("train.backend", f"'horovod', but {reason}", "'make horovod' builds it; or set train.backend to 'ddp'")
    backend = DDP(world, device)
    world.say(f"training: {reason}: training with {backend.description}; 'make horovod' builds Horovod")
    return backend


def _find_horovod(device: torch.device) -> tuple[ModuleType | None, str]:
    """Return the Horovod module, or None and why it cannot be used."""
    try:
        from hpc_galaxy.training import horovod_backend
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError)
        return None, "Horovod is not installed" if missing else f"Horovod cannot be imported ({error})"
    if device.type == "cuda" and not horovod_backend.knows_gpus():
        return None, "Horovod was built without GPUs"
    return horovod_backend, ""
