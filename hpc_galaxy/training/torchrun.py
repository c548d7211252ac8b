"""A job that torchrun has started: the ranks find each other through torch, without MPI."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import distributed

from hpc_galaxy.errors import LaunchError
from hpc_galaxy.world import World

T = TypeVar("T")
VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def launched_by_torchrun(environ: Mapping[str, str]) -> bool:
    """Return whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in environ


def join_torchrun(environ: Mapping[str, str]) -> TorchWorld:
    """Meet the other ranks and return the world. Collective.

    Raises
    ------
    LaunchError
        A variable that torchrun sets is missing.
    """
    missing = [name for name in VARIABLES if name not in environ]
    if missing:
        raise LaunchError("torchrun", f"{', '.join(missing)} not set", "start with torchrun, mpirun or srun")
    rank, size, local_rank, local_size = (int(environ[name]) for name in VARIABLES[:4])
    distributed.init_process_group("gloo", rank=rank, world_size=size)
    return TorchWorld(rank, size, local_rank, local_size, "torchrun")


@dataclass(frozen=True)
class TorchWorld(World):
    """The world of such a job; everything goes through torch's gloo."""

    def barrier(self) -> None:
        """Wait until every rank is here."""
        distributed.barrier()

    def bcast(self, value: T) -> T:
        """Return rank 0's `value` on every rank."""
        box = [value]
        distributed.broadcast_object_list(box, src=0)
        return box[0]

    def gather(self, value: T) -> list[T]:
        """Return every rank's `value`, in rank order, on rank 0; an empty list elsewhere."""
        everything = self.allgather(value)
        return everything if self.is_root else []

    def allgather(self, value: T) -> list[T]:
        """Return every rank's `value`, in rank order, on every rank."""
        box: list[T] = [value] * self.size
        distributed.all_gather_object(box, value)
        return box

    def sum(self, values: np.ndarray) -> np.ndarray:
        """Return the element-wise sum of `values` over the ranks, on every rank."""
        total = np.ascontiguousarray(values).copy()
        self.sum_in_place(total)
        return total

    def max(self, value: int) -> int:
        """Return the largest `value` of all ranks, on every rank."""
        box = torch.tensor([value])
        distributed.all_reduce(box, op=distributed.ReduceOp.MAX)
        return int(box.item())

    def sum_in_place(self, values: np.ndarray) -> None:
        """Replace `values` by their element-wise sum over the ranks."""
        distributed.all_reduce(torch.from_numpy(values))

    def abort(self, code: int) -> None:
        """End this process with `code`; torchrun then ends the others."""
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
