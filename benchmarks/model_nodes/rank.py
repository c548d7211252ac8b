"""One rank of a measured job: ``rank.py SIZES TURNS``; rank 0 prints a line of JSON, see `Found`."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from resource import RUSAGE_SELF, getrusage

import numpy as np
import torch

from hpc_galaxy.bench.model.allreduce import GRADIENT, sweep
from hpc_galaxy.config.training import Train
from hpc_galaxy.training.model import GalaxyCNN
from hpc_galaxy.training.parallel.choose import choose_backend
from hpc_galaxy.world import World, detect, guard

BATCH = 16
STEPS = 3  # a turn
SWITCHING = 3  # allreduces whose switches are counted
LATE = 0.15  # seconds by which rank 0 comes last; eight ranks that share two cores end a step about so far apart
Step = Callable[[], None]


@dataclass(frozen=True)
class Found:
    """What a job measured.

    Attributes
    ----------
    allreduce : dict of int to list of float
        Seconds of the slowest rank, by bytes.
    late : list of float
        Seconds that an allreduce of the gradients takes from the arrival of rank 0, `LATE` seconds after the others, to the last one's end.
    switches : float
        How often a core went from one process to another during an allreduce of the gradients, over all ranks.
    alone : list of float
        Seconds a step of every rank, when none speaks to the others.
    alone_slowest : list of float
        The slowest rank's of `alone`.
    together : list of float
        Seconds a step of the slowest rank, when they average their gradients; turn by turn with `alone_slowest`.
    unmet : list of float
        As `together`, but ranks do not wait for each other before they average.
    resent, timeouts : float
        TCP segments that were sent again in a step of `together`, and how often because no answer had come in time, over all ranks.
    others : float
        Cores that the kernel's network and everything else on this machine kept busy during the steps.
    """

    allreduce: dict[int, list[float]]
    late: list[float]
    switches: float
    alone: list[float]
    alone_slowest: list[float]
    together: list[float]
    unmet: list[float]
    resent: float
    timeouts: float
    others: float

    @classmethod
    def read(cls, line: str) -> Found:
        """Return what a line of JSON says."""
        entries = json.loads(line)
        entries["allreduce"] = {int(size): seconds for size, seconds in entries["allreduce"].items()}
        return cls(**entries)


class Hasty(World):
    """Ranks that do not wait for each other."""

    def barrier(self) -> None:
        """Do nothing."""


def measure(world: World, sizes: Sequence[int], turns: int) -> Found:
    """Measure allreduces, and steps alone and together in turn. Collective."""
    torch.set_num_threads(1)
    allreduce = sweep(world, sizes, turns) if world.size > 1 else {}
    late = time_late(world, turns) if world.size > 1 else []
    alone, together, unmet = make_step(World()), make_step(world), make_step(world, meet=False)
    switches = count_switches(world) if world.size > 1 else 0
    time_steps(alone, world), time_steps(together, world), time_steps(unmet, world)  # to warm up
    every, slowest, joint, hasty, resent = [], [], [], [], np.zeros(2)
    start, busy, own = time.perf_counter(), busy_seconds(), time.process_time()
    for _ in range(turns):
        times = time_steps(alone, world)
        every.extend(times)
        slowest.append(max(times))
        before = count_resent()
        joint.append(max(time_steps(together, world)))
        resent += count_resent() - before
        hasty.append(max(time_steps(unmet, world)))
    own = sum(world.allgather(time.process_time() - own))
    others = (busy_seconds() - busy - own) / (time.perf_counter() - start)
    sent_again, timeouts = world.sum(resent) / (turns * STEPS)
    return Found(allreduce, late, switches, every, slowest, joint, hasty, float(sent_again), float(timeouts), others)


def time_late(world: World, repeats: int) -> list[float]:
    """Return `Found.late`. Collective; the nodes are namespaces of one machine, whose clock they share."""
    values, seconds = np.zeros(GRADIENT // 4, np.float32), []
    for _ in range(1 + repeats):
        world.barrier()
        time.sleep(LATE if world.rank == 0 else 0)
        arrived = time.monotonic_ns()
        world.sum_in_place(values)
        seconds.append((world.max(time.monotonic_ns()) - world.max(arrived)) / 1e9)
    return seconds[1:]


def busy_seconds() -> float:
    """Return the seconds that this machine's cores have computed since it started, all together."""
    user, nice, system, _, _, interrupts, soft, *_ = map(int, Path("/proc/stat").read_text().splitlines()[0].split()[1:])
    return (user + nice + system + interrupts + soft) / os.sysconf("SC_CLK_TCK")


def count_switches(world: World) -> float:
    """Return how often the ranks' cores change processes during an allreduce of the gradients. Collective."""
    values = np.zeros(GRADIENT // 4, np.float32)
    before = getrusage(RUSAGE_SELF)
    for _ in range(SWITCHING):
        world.sum_in_place(values)
    after = getrusage(RUSAGE_SELF)
    own = after.ru_nvcsw + after.ru_nivcsw - before.ru_nvcsw - before.ru_nivcsw
    return sum(world.allgather(own)) / SWITCHING


def count_resent() -> np.ndarray:
    """Return how many TCP segments this node has sent again so far, and how often an answer had not come in time."""
    found = []
    for path, group, name in (("/proc/net/snmp", "Tcp", "RetransSegs"), ("/proc/net/netstat", "TcpExt", "TCPTimeouts")):
        names, values = (line.split()[1:] for line in Path(path).read_text().splitlines() if line.startswith(f"{group}: "))
        found.append(float(values[names.index(name)]))
    return np.array(found)


def time_steps(step: Step, world: World) -> list[float]:
    """Return the seconds a step of every rank, over a turn. Collective."""
    world.barrier()
    start = time.perf_counter()
    for _ in range(STEPS):
        step()
    return world.allgather((time.perf_counter() - start) / STEPS)


def make_step(world: World, meet: bool = True) -> Step:
    """Return a training step of the CNN on a batch in memory; its gradients go through one MPI message where there are other ranks.

    Without `meet` they do not wait for each other before, as `FlatMpi` has them do.
    """
    torch.manual_seed(1)
    model = GalaxyCNN()
    images = torch.randn(BATCH, 6, 64, 64).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(BATCH) % 2
    backend = "mpi" if world.size > 1 else "serial"
    parallel = choose_backend(Train(backend=backend), world if meet else Hasty(**vars(world)), torch.device("cpu"))
    wrapped, optimizer = parallel.prepare(model), torch.optim.Adam(model.parameters())

    def step() -> None:
        parallel.zero_gradients()
        torch.nn.functional.cross_entropy(wrapped(images), labels).backward()
        parallel.average_gradients()
        optimizer.step()

    return step


if __name__ == "__main__":
    everyone = detect()
    with guard(everyone):
        everyone.say(json.dumps(asdict(measure(everyone, json.loads(sys.argv[1]), int(sys.argv[2])))))
