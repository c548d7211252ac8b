"""What costs a training its time, on which ranks, and what to do about it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from hpc_galaxy.tracing.steps import Steps
from hpc_galaxy.world import listed

WORTH = 0.1  # of the time: what takes less is not worth a change
CLEARLY = 0.75  # of what something cost, from which on a rank is named
ADVICE = {
    "data": "raise train.data.prefetch, or stage the shards to node-local disk (train.data.stage)",
    "communication": "give each rank more to compute between two messages (train.batch_size, train.accumulate), or send less "
    "(train.horovod.compression = 'fp16')",
    "straggler": "see what else runs there, or leave the node out (sbatch --exclude)",
    "jitter": "leave a core free for the system, and bind the ranks (srun --cpu-bind=cores)",
    "checkpoint": "save less often (train.saving.every_steps, train.saving.every_minutes)",
    "validation": "validate on fewer examples (split.valid), or train on more",
    "other": "take a window of torch.profiler (trace.profiler.ranks = [0]) to see what it is",
}
DOES = {
    "data": "waits for data",
    "communication": "is communication",
    "straggler": "waits for slow computation",
    "jitter": "waits for whichever rank is last, now this one, now that",
    "checkpoint": "is spent on checkpoints",
    "validation": "is validation",
    "other": "is spent on neither data, computation, communication nor saving",
}


@dataclass(frozen=True)
class Cause:
    """Something that takes time.

    Attributes
    ----------
    kind : str
        A key of `ADVICE`, or ``compute``: the work itself.
    share : float
        Of the whole time.
    ranks : list of int
        On which it happens; empty where it happens on all alike.
    """

    kind: str
    share: float
    ranks: list[int]


def diagnose(steps: Steps) -> list[Cause]:
    """Return what the time went into along the critical path, the largest first; the shares add up to about one.

    In each step the rank that waits the least for the others is the one that they wait for. What it did is what the step cost; and what
    even it spent in communication is what the messages cost. Its computation beyond that of the median rank is a delay of its own.
    """
    everyone = np.arange(steps.wall.shape[1])
    waits = steps.part("communication")
    last = waits.argmin(axis=0)
    total = steps.seconds
    compute = steps.part("compute")
    usual = np.sort(compute, axis=0)[(len(compute) - 1) // 2]
    excess = np.maximum(0, compute[last, everyone] - usual)
    found = [
        Cause("compute", float((compute[last, everyone] - excess).sum()) / total, []),
        Cause("communication", float(waits.min(axis=0).sum()) / total, []),
        _slow(compute, usual, float(excess.sum()), total),
    ]
    for kind in ("data", "checkpoint", "validation", "other"):
        seconds = steps.part(kind)
        cost = float(seconds[last, everyone].sum())
        found.append(Cause(kind, cost / total, blamed(seconds.sum(axis=1), cost)))
    return sorted(found, key=lambda cause: -cause.share)


def _slow(compute: np.ndarray, usual: np.ndarray, cost: float, total: float) -> Cause:
    """Return what slow computation costs: always the same ranks', or now this one's and now that one's."""
    ranks = blamed(np.maximum(0, compute - usual).sum(axis=1), cost)
    return Cause("straggler" if ranks else "jitter", cost / total, ranks)


def blamed(seconds: np.ndarray, cost: float) -> list[int]:
    """Return the ranks that by themselves spent clearly most of what something cost; none where more than half of all ranks did."""
    ranks = np.flatnonzero((seconds >= CLEARLY * cost) & (seconds > 0))
    return [] if 2 * len(ranks) > len(seconds) else [int(rank) for rank in ranks]


def sentence(steps: Steps, causes: list[Cause]) -> str:
    """Say in one sentence what to change."""
    worst = next(cause for cause in causes if cause.kind != "compute")
    compute = next(cause for cause in causes if cause.kind == "compute")
    if worst.share < WORTH:
        return (
            f"{compute.share:.0%} of the time is computation, and nothing else takes as much as {WORTH:.0%}: "
            "a faster network, precision (train.precision) or more nodes would make it faster"
        )
    return f"{worst.share:.0%} of the time {DOES[worst.kind]}{_where(steps, worst)}: {ADVICE[worst.kind]}"


def _where(steps: Steps, cause: Cause) -> str:
    if not cause.ranks:
        return "" if cause.kind in ("communication", "jitter") or len(steps.files) == 1 else " on all ranks"
    hosts = Counter(steps.files[rank].header["host"] for rank in cause.ranks)
    one = f" (all on {next(iter(hosts))})" if len(hosts) == 1 and len(cause.ranks) > 1 else ""
    host = f" ({next(iter(hosts))})" if len(cause.ranks) == 1 else one
    return f" on {listed([steps.files[rank].header['rank'] for rank in cause.ranks])}{host}"
