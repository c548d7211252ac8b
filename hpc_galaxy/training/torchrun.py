"""A job that torchrun has started: the ranks find each other through torch, without MPI. Imports torch only to join one."""

from __future__ import annotations

from collections.abc import Mapping

from hpc_galaxy.collector import spare_the_collector
from hpc_galaxy.errors import LaunchError
from hpc_galaxy.world import World, expected_size

MARK = "TORCHELASTIC_RUN_ID"
VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def launched_by_torchrun(environ: Mapping[str, str]) -> bool:
    """Return whether torchrun started this process."""
    return MARK in environ


def join_torchrun(environ: Mapping[str, str]) -> World:
    """Meet the other ranks and return the world; its communication goes through torch's gloo. Collective.

    Raises
    ------
    LaunchError
        A variable that torchrun sets is missing, or several torchruns were started that do not know each other.
    """
    rank, size, local_rank, local_size = check_launch(environ)
    spare_the_collector()
    from hpc_galaxy.training.torch_world import TorchWorld, meet

    meet(rank, size)
    return TorchWorld(rank, size, local_rank, local_size, "torchrun")


def check_launch(environ: Mapping[str, str]) -> tuple[int, int, int, int]:
    """Return rank, size, local rank and local size.

    Raises
    ------
    LaunchError
        As `join_torchrun` says.
    """
    missing = [name for name in VARIABLES if name not in environ]
    if missing:
        raise LaunchError("torchrun", f"{', '.join(missing)} not set", "start with torchrun, mpirun or srun")
    rank, size, local_rank, local_size, nodes = (int(environ[name]) for name in VARIABLES[:5])
    launch = expected_size(environ)
    # A cluster's launcher may start torchrun, once a node.
    if launch and launch[1] > nodes:
        problem = f"{launch[0]} started it {launch[1]} times, each as a job of its own on {nodes} node{'s'[: nodes != 1]}"
        raise LaunchError("torchrun", problem, f"give torchrun --nnodes={launch[1]} and --rdzv-endpoint, and start it once a node")
    return rank, size, local_rank, local_size
