"""How the ranks of a node share its cores: threads, binding, and the environment that torch reads when it is imported."""

from __future__ import annotations

import ctypes
import os
import socket
from collections.abc import Collection, Mapping, MutableMapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from hpc_galaxy.config import Train
from hpc_galaxy.errors import ConfigError
from hpc_galaxy.processor import bf16_is_fast, cpu_model
from hpc_galaxy.world import World

CPUINFO = Path("/proc/cpuinfo")
CPUS = Path("/sys/devices/system/cpu")
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h
NAMED = 3  # ranks of a node whose cores are printed, at most

Core = tuple[int, ...]  # the numbers that Linux has for one core: one, or as many as it runs threads at once


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


@dataclass(frozen=True)
class Share:
    """How the ranks of a node share it.

    Attributes
    ----------
    threads : int
        What each rank may compute with: one a core, unless asked otherwise.
    numbers : list of list of int
        Linux's numbers for the cores of each rank, by local rank.
    free : bool
        Whether the launcher lets all of them roam over the same cores, of which these are equal parts.
    """

    threads: int
    numbers: list[list[int]]
    free: bool


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
    share = share_node(_allowed(world), world.local_size, train.threads, read_cores(CPUS))
    environment = set_environment(os.environ, share.threads)
    keep_freed_memory()
    if train.bind and share.free and world.local_size > 1:
        os.sched_setaffinity(0, share.numbers[world.local_rank])
    return Layout(world, share.threads, f"{_describe(share, train.bind)}; {', '.join(f'{k}={v}' for k, v in environment.items())}")


def keep_freed_memory() -> None:
    """Let glibc keep what is freed, up to 1 GiB, and use it again (``man 3 mallopt``); other C libraries are left as they are.

    By itself it gives the tens of megabytes that a step frees back to the system, which has to clear each page anew in the next one:
    thousands of page faults a step (benchmarks/bench_train.py counts them). Blocks of more than 32 MB go back in any case.
    """
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, 1 << 25)
        mallopt(M_TRIM_THRESHOLD, 1 << 30)


def threads_per_rank(world: World, asked: int) -> int:
    """Return the threads for each rank: `asked`, or with 0 the cores this node lets the job use over its ranks here. Collective."""
    return share_node(_allowed(world), world.local_size, asked, read_cores(CPUS)).threads


def _allowed(world: World) -> list[set[int]]:
    """Return the numbers that each rank of this node may run on, by local rank. Collective."""
    here = socket.gethostname()
    ranks = world.allgather((here, world.local_rank, sorted(os.sched_getaffinity(0))))
    return [set(numbers) for _, numbers in sorted((local_rank, numbers) for host, local_rank, numbers in ranks if host == here)]


def share_node(allowed: Sequence[set[int]], ranks: int, asked: int, cores: Sequence[Core]) -> Share:
    """Share a node among its ranks.

    Parameters
    ----------
    allowed : sequence of set of int
        The numbers that each rank of it may run on.
    ranks : int
        How many they are.
    asked : int
        Threads a rank; 0: as many as there are cores for each.
    cores : sequence of tuple of int
        All cores of the node, neighbours side by side. What the ranks may not use is left out; a number in none is a core by itself.

    Returns
    -------
    Share
        Where all may run on the same: equal parts of whole cores, so that a core's second thread serves the rank that has its
        first; no parts where there are fewer cores than ranks or than threads.
    """
    # The union is right whether each rank is bound to cores of its own or all share the node's.
    union = set().union(*allowed)
    usable = [core for core in (tuple(number for number in core if number in union) for core in cores) if core]
    usable += [(number,) for number in sorted(union - set().union(*usable))]
    own = len(usable) // ranks
    threads = asked or max(1, own)
    free = all(numbers == union for numbers in allowed) and own >= threads
    parts = [usable[rank * own :][:own] for rank in range(ranks)]
    return Share(threads, [sorted(chain.from_iterable(part)) for part in parts] if free else [sorted(numbers) for numbers in allowed], free)


def read_cores(cpus: Path) -> list[Core]:
    """Return the cores below ``/sys/devices/system/cpu``, those of a socket side by side."""
    found = {}
    for siblings in cpus.glob("cpu[0-9]*/topology/thread_siblings_list"):
        core = tuple(_numbers(siblings.read_text()))
        found[core] = (int((siblings.parent / "physical_package_id").read_text()), core)
    return sorted(found, key=lambda core: found[core])


def _numbers(text: str) -> list[int]:
    """Return 0, 1, 2, 3 and 8 for ``0-3,8``."""
    ends = [part.split("-") for part in text.strip().split(",")]
    return [number for end in ends for number in range(int(end[0]), int(end[-1]) + 1)]


def set_environment(environ: MutableMapping[str, str], threads: int) -> Mapping[str, str]:
    """Set what OpenMP libraries read when they are loaded, where nobody has set it; return what holds now.

    Idle threads of Intel's library go to sleep after 1 ms instead of 200, because the thread that reads ahead and Horovod's need the
    core. OMP_PROC_BIND stays unset: with it those two would be tied to the one core of the thread that starts them.
    """
    wanted = {"OMP_NUM_THREADS": str(threads), "KMP_BLOCKTIME": "1", "KMP_AFFINITY": "granularity=fine,compact,1,0"}
    wanted |= {"MKL_NUM_THREADS": str(threads)}
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
    problem = f"'bfloat16' on {cpu_model(cpuinfo)}, which has neither AVX512_BF16 nor AMX: far slower than float32"
    raise ConfigError("train.precision", problem, "leave it at 'float32', or set train.force_bfloat16 to true")


def _has_gpu() -> bool:
    return Path("/dev/nvidia0").exists() or Path("/dev/kfd").exists()


def _describe(share: Share, bind: bool) -> str:
    """Say where the ranks of a node may run."""
    if len(share.numbers) == 1:
        return f"1 rank a node, on cores {_ranges(share.numbers[0])}"
    places = [_ranges(numbers) for numbers in share.numbers]
    shown = "; ".join(places[:NAMED] + ["..."] * (len(places) > NAMED))
    if share.free:
        return f"{len(places)} ranks a node, {'bound to' if bind else 'free to roam, where each has'} cores {shown}"
    shared = len(set(places)) < len(places)
    return f"{len(places)} ranks a node, {'which share' if shared else 'bound by the launcher to'} cores {places[0] if shared else shown}"


def _ranges(numbers: Collection[int]) -> str:
    """Return ``0-3,8`` for 0, 1, 2, 3 and 8."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"
