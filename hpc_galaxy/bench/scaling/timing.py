"""What a point has taken, from its ranks' traces: each rank reads its own, so that a thousand are as fast as one."""

from __future__ import annotations

import os
import platform
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hpc_galaxy.bench.model.allreduce import sweep
from hpc_galaxy.bench.scaling.data import WARM_UP
from hpc_galaxy.errors import InputError
from hpc_galaxy.tracing.attempt import attempts, rank_path
from hpc_galaxy.tracing.reading import RankFile, Span
from hpc_galaxy.tracing.recorder import MAIN, WRITER
from hpc_galaxy.tracing.steps import PARTS, STEP, read_steps
from hpc_galaxy.world import World

QUANTILES = 1001  # that are kept of the computing times where there are more of them
SWEEP_REPEATS = 10


def own_file(directory: Path, world: World) -> RankFile:
    """Return this rank's record of a stage's newest trace.

    Raises
    ------
    InputError
        It has written none.
    """
    path = rank_path(attempts(directory)[-1], world.rank) if attempts(directory) else directory / "trace"
    if not path.is_file():
        raise InputError(path, "no such file, and so no times", "see what the stage said: was there space left?")
    return RankFile(path)


def read_training(run: Path, world: World) -> dict[str, Any]:
    """Return what the timed steps of a training have taken. Collective.

    Returns
    -------
    dict
        On rank 0 ``times``, seconds of each step; ``parts``, seconds of a step by `PARTS`, means over steps and ranks;
        ``compute``, how the ranks' computing times are distributed; ``gradient_bytes`` and ``image_bytes``. Empty elsewhere.
    """
    steps = read_steps([own_file(run, world)])
    chosen = [kind == STEP for kind in steps.kinds] if steps else []
    if steps is None or sum(chosen) <= WARM_UP:
        raise InputError(run, f"holds a trace of {sum(chosen)} steps, expected more than {WARM_UP}", "give more --steps")
    mine = steps.wall[0, chosen][WARM_UP:], steps.parts[0, chosen][WARM_UP:], steps.notes[0]
    ranks = world.gather(mine)
    if not world.is_root:
        return {}
    wall, parts = np.stack([rank[0] for rank in ranks]), np.stack([rank[1] for rank in ranks])
    return {
        "times": wall.mean(axis=0, dtype=float).tolist(),
        "parts": dict(zip(PARTS, parts.mean(axis=(0, 1), dtype=float).tolist(), strict=True)),
        "compute": distribution(parts[:, :, PARTS.index("compute")]),
        **{name: ranks[0][2].get(name, 0) for name in ("gradient_bytes", "image_bytes")},
    }


def distribution(values: np.ndarray) -> list[float]:
    """Return all values, or of many so many quantiles."""
    ordered = np.sort(np.asarray(values, float), axis=None)
    return (ordered if len(ordered) <= QUANTILES else np.quantile(ordered, np.linspace(0, 1, QUANTILES))).tolist()


def read_extraction(cutouts: Path, world: World) -> dict[str, Any]:
    """Return what an extraction has spent its time on. Collective.

    Returns
    -------
    dict
        On rank 0 ``parts`` and ``hidden``: seconds by the name of a span, summed over ranks, of the main threads and of those that write in
        the background. Empty elsewhere.
    """
    mine: dict[str, dict[str, float]] = {MAIN: defaultdict(float), WRITER: defaultdict(float)}
    for item in own_file(cutouts, world).items():
        if isinstance(item, Span) and item.track in mine:
            mine[item.track][item.name] += item.duration * 1e-9
    ranks = world.gather(mine)
    return {"parts": _sum(rank[MAIN] for rank in ranks), "hidden": _sum(rank[WRITER] for rank in ranks)} if world.is_root else {}


def _sum(tables: Iterable[dict[str, float]]) -> dict[str, float]:
    total: dict[str, float] = defaultdict(float)
    for table in tables:
        for name, seconds in table.items():
            total[name] += seconds
    return dict(total)


def node_name() -> str:
    """Return what Slurm calls this node, or else its own name."""
    return os.environ.get("SLURMD_NODENAME", platform.node())


def whereabouts(names: Sequence[str], rank: int, ranks_per_node: int) -> tuple[int, int]:
    """Return the number of a rank's node, and the rank's number on it, given the names of all ranks' nodes.

    Where all are on one machine, the nodes are those of the plan: groups of neighbouring ranks.
    """
    nodes = list(dict.fromkeys(names))
    if len(nodes) == 1:
        return divmod(rank, ranks_per_node)
    return nodes.index(names[rank]), list(names[:rank]).count(names[rank])


def sweep_links(world: World, ranks_per_node: int) -> dict[str, dict[int, list[float]]]:
    """Time allreduces inside the first node, and between the nodes' first ranks, as far as there are several. Collective.

    Returns
    -------
    dict
        On rank 0, of ``inside`` and ``between``: seconds by bytes, see `hpc_galaxy.bench.model.allreduce.sweep`.
    """
    node, place = whereabouts(world.allgather(node_name()), world.rank, ranks_per_node)
    found = {}
    for name, group, taking_part in (("inside", node, node == 0), ("between", place, place == 0)):
        comm = world.comm.Split(group, world.rank)
        if taking_part and comm.size > 1:
            found[name] = sweep(replace(world, rank=comm.rank, size=comm.size, comm=comm), repeats=SWEEP_REPEATS)
        comm.Free()
        world.meet()
    return found
