"""How the ranks of a node share its cores: threads, binding, and the environment that torch reads when it is imported."""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping
from dataclasses import dataclass
from pathlib import Path

from hpc_galaxy.config import Train
from hpc_galaxy.errors import ConfigError
from hpc_galaxy.processor import bf16_is_fast, cpu_model
from hpc_galaxy.world import World

CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Layout:
    """What a rank has of its node.

    Attributes
    ----------
    world : World
        The job.
    threads : int
        Threads of each rank.
    sentence : str
        Binding and environment, for the user.
    """

    world: World
    threads: int
    sentence: str

    @property
    def ranks(self) -> str:
        """``2 ranks x 1 thread``."""
        return f"{_count(self.world.size, 'rank')} x {_count(self.threads, 'thread')}"


def prepare_node(train: Train, world: World) -> Layout:
    """Set this rank's threads, cores and environment, before torch is imported. Collective.

    What the user or the launcher has set stands.

    Raises
    ------
    ConfigError
        bfloat16 was asked for where it is slow.
    """
    if train.precision == "bfloat16":
        require_bfloat16(CPUINFO.read_text() if CPUINFO.exists() else "", train.force_bfloat16, _has_gpu())
    threads, shared = threads_per_rank(world, train.threads), share_of_cores(world)
    bound = f"bound to {_count(len(os.sched_getaffinity(0)), 'core')} each by the launcher"
    if shared:
        own = shared[threads * world.local_rank :][:threads]
        bound = f"free to roam over {_count(len(shared), 'core')}"
        if train.bind and world.local_size > 1 and len(own) == threads and threads * world.local_size <= len(shared):
            os.sched_setaffinity(0, own)
            bound = f"each bound to {_count(threads, 'core')} of its own"
    settings = set_environment(os.environ, threads)
    return Layout(world, threads, f"ranks {bound}; {', '.join(f'{name}={value}' for name, value in settings.items())}")


def threads_per_rank(world: World, asked: int) -> int:
    """Return the threads for each rank: `asked`, or with 0 the cores this node lets the job use over its ranks here. Collective."""
    # The union over the ranks of a node is right whether each rank is bound to cores of its own or all share the node's.
    cores = set().union(*_cores_of_ranks(world))
    return asked or max(1, len(cores) // world.local_size)


def share_of_cores(world: World) -> list[int]:
    """Return the cores that all ranks of this node may roam over, in order; empty where the launcher has bound them. Collective."""
    ranks = _cores_of_ranks(world)
    return sorted(ranks[0]) if all(cores == ranks[0] for cores in ranks) else []


def _cores_of_ranks(world: World) -> list[set[int]]:
    here = socket.gethostname()
    return [cores for host, cores in world.allgather((here, os.sched_getaffinity(0))) if host == here]


def set_environment(environ: MutableMapping[str, str], threads: int) -> dict[str, str]:
    """Set what OpenMP libraries read when they are loaded, where nobody has set it; return what holds now.

    Idle threads of a team go to sleep after 1 ms instead of spinning (Intel's library: KMP_BLOCKTIME, GNU's: OMP_WAIT_POLICY),
    because Horovod's thread and the reading thread need the core.
    """
    wanted = {
        "OMP_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "PASSIVE",
        "KMP_BLOCKTIME": "1",
        "KMP_AFFINITY": "granularity=fine,compact,1,0",
    }
    for name, value in wanted.items():
        environ.setdefault(name, value)
    return {name: environ[name] for name in wanted}


def require_bfloat16(cpuinfo: str, forced: bool, gpu: bool) -> None:
    """Refuse bfloat16 on a processor that has to emulate it.

    Raises
    ------
    ConfigError
        It has no instructions for it, there is no GPU, and it is not forced.
    """
    if gpu or forced or bf16_is_fast(cpuinfo):
        return
    problem = f"'bfloat16' on {cpu_model(cpuinfo)}, which has neither AVX512_BF16 nor AMX: twenty times slower than float32"
    raise ConfigError("train.precision", problem, "leave it at 'float32', or set train.force_bfloat16 to true")


def _has_gpu() -> bool:
    return Path("/dev/nvidia0").exists() or Path("/dev/kfd").exists()


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"
