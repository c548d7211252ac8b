"""``hpc-galaxy bench allreduce``: how long adding up numbers takes these ranks, and the link that the scaling model needs."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from hpc_galaxy.bench.measuring import Log, spread
from hpc_galaxy.bench.model.fit import fit_link
from hpc_galaxy.bench.model.messages import fastest
from hpc_galaxy.errors import LaunchError
from hpc_galaxy.world import World

GRADIENT = 1_415_144  # bytes: 353,786 parameters of the CNN
SIZES = (4, 1024, 16_384, 65_536, 262_144, GRADIENT, 4 * GRADIENT)  # bytes
WARM_UP = 2  # repeats that do not count
TURN = 1_000_000  # bytes that a repeat adds up at least, in several messages where they are small
MOST = 10  # messages a repeat


def sweep(world: World, sizes: Sequence[int] = SIZES, repeats: int = 20) -> dict[int, list[float]]:
    """Time allreduces of float32. Collective.

    Parameters
    ----------
    world : World
        The ranks.
    sizes : sequence of int
        Bytes, multiples of 4.
    repeats : int
        How often each; the sizes take turns.

    Returns
    -------
    dict of int to list of float
        Seconds of the slowest rank, by size; the same on every rank.
    """
    seconds: dict[int, list[float]] = {size: [] for size in sizes}
    buffers = {size: np.zeros(size // 4, np.float32) for size in sizes}
    for number in range(WARM_UP + repeats):
        for size, values in buffers.items():
            taken = time_sum(world, values)
            if number >= WARM_UP:
                seconds[size].append(taken)
    return seconds


def time_sum(world: World, values: np.ndarray) -> float:
    """Return the seconds that adding `values` up takes the slowest rank. Collective."""
    messages = min(MOST, max(1, TURN // values.nbytes))
    world.meet()
    start = time.perf_counter_ns()
    for _ in range(messages):
        world.sum_in_place(values)
    return world.max(time.perf_counter_ns() - start) / messages / 1e9


def show_allreduce(world: World, json: Path | None = None) -> None:
    """Print the seconds of a sweep, and the latency and bandwidth that explain them best as ``sites.toml`` takes them. Collective.

    Parameters
    ----------
    world : World
        The ranks: all on one node for its ``inside``, one a node for ``between``.
    json : Path, optional
        JSON lines to write.

    Raises
    ------
    LaunchError
        There is one rank.
    """
    if world.size == 1:
        raise LaunchError(
            "bench allreduce", "1 rank, expected 2 or more", "start it with mpirun -n 2 or srun -n 2, one rank a node or all on one"
        )
    seconds = sweep(world)
    places = world.gather(world.local_size)
    if world.is_root:
        _report(Log(json), seconds, world.size, place(places))


def place(local_sizes: Sequence[int]) -> str:
    """Return which link ranks use that have so many on their node each: ``inside``, ``between``, or ``mixed``."""
    if max(local_sizes) == 1:
        return "between"
    return "inside" if min(local_sizes) == len(local_sizes) else "mixed"


def _report(log: Log, seconds: Mapping[int, Sequence[float]], ranks: int, link_name: str) -> None:
    link = fit_link(seconds, ranks)
    print(f"allreduce of {ranks} ranks: microseconds of the slowest, median [least, most] of {len(next(iter(seconds.values())))}")
    print(f"{'bytes':>10} {'measured':>32} {'by the fit':>12}")
    for size, values in seconds.items():
        log.record(f"allreduce of {size} bytes on {ranks} ranks", "bytes", {"MPI": values}, {"MPI": size})
        print(f"{size:10,} {spread([1e6 * value for value in values]):>32} {1e6 * fastest(ranks, size, link):12.1f}")
    log.note("link", {"place": link_name, "ranks": ranks, "latency": link.latency, "bandwidth": link.bandwidth})
    if link_name == "mixed":
        print("several ranks a node on several nodes: the fit is neither 'inside' nor 'between'; start one rank a node, or all on one")
        link_name = "# mixed"
    print(f"{link_name} = {{ latency = {link.latency:.2g}, bandwidth = {link.bandwidth:.3g} }}")
