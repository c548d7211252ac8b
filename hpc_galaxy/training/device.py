"""Which device and how many threads a rank computes with."""

from __future__ import annotations

import os
import socket

import torch

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


def threads_per_rank(world: World, asked: int) -> int:
    """Return the threads for each rank: `asked`, or with 0 the cores this node lets the job use over its ranks here. Collective."""
    # The union over the ranks of a node is right whether each rank is bound to cores of its own or all share the node's.
    ranks = world.allgather((socket.gethostname(), os.sched_getaffinity(0)))
    cores = set().union(*(cores for host, cores in ranks if host == socket.gethostname()))
    return asked or max(1, len(cores) // world.local_size)


def set_threads(world: World, asked: int) -> int:
    """Set torch's threads for this rank and return their number. Collective."""
    threads = threads_per_rank(world, asked)
    torch.set_num_threads(threads)
    return threads
