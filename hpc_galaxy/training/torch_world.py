"""The world of a job that torchrun has started."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import numpy as np
import torch
from torch import distributed

from hpc_galaxy.errors import LaunchError
from hpc_galaxy.training.parallel import groups
from hpc_galaxy.training.parallel.base import STALL_SECONDS
from hpc_galaxy.world import World

T = TypeVar("T")


def meet(rank: int, size: int) -> None:
    """Join torch's group of all ranks, where the environment says. Collective."""
    groups.join("gloo", rank=rank, world_size=size, timeout=timedelta(seconds=STALL_SECONDS))


@dataclass(frozen=True)
class TorchWorld(World):
    """As `World`, but everything goes through torch's group of all ranks."""

    def barrier(self) -> None:
        """Wait until every rank is here."""
        distributed.barrier()

    def meet(self) -> None:
        """Wait until every rank is here."""
        distributed.barrier()

    def bcast(self, value: T) -> T:
        """Return rank 0's `value` on every rank."""
        box = [value]
        distributed.broadcast_object_list(box, src=0)
        return box[0]

    def gather(self, value: T) -> list[T]:
        """Return every rank's `value`, in rank order, on rank 0; an empty list elsewhere."""
        box: list[T] | None = [value] * self.size if self.is_root else None
        distributed.gather_object(value, box, dst=0)
        return box or []

    def allgather(self, value: T) -> list[T]:
        """Return every rank's `value`, in rank order, on every rank."""
        box: list[T] = [value] * self.size
        distributed.all_gather_object(box, value)
        return box

    def exchange(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        """Refuse: training moves no examples between ranks, and the stages that do need MPI."""
        raise LaunchError("torchrun", "this stage moves data between ranks through MPI", "start with mpirun or srun")

    def sum(self, values: np.ndarray) -> np.ndarray:
        """Return the element-wise sum of `values` over the ranks, on every rank."""
        total = np.array(values, order="C")
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

    def send_number(self, number: int, to: int) -> None:
        """Send a number to the rank `to`."""
        distributed.send(torch.tensor([number]), to)

    def receive_number(self, source: int) -> int:
        """Return the number that the rank `source` sends."""
        box = torch.zeros(1, dtype=torch.int64)
        distributed.recv(box, source)
        return int(box.item())

    def abort(self, code: int) -> None:
        """End this process with `code`; torchrun then ends the others."""
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
