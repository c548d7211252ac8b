"""Which operators took the time, from torch.profiler's windows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from hpc_galaxy.tracing.chrome import Event
from hpc_galaxy.tracing.foreign import PROFILES, read_profile
from hpc_galaxy.tracing.reading import RankFile

KERNELS = ("kernel", "gpu_memcpy", "gpu_memset")


@dataclass(frozen=True)
class Operator:
    """An operator, over all windows of all ranks.

    Attributes
    ----------
    name : str
        As torch calls it.
    calls : int
        How often it ran.
    seconds : float
        Its own, without those of the operators that it called; on a GPU, of the kernel.
    share : float
        Of all operators' own time.
    """

    name: str
    calls: int
    seconds: float
    share: float


def top_operators(files: Sequence[RankFile], most: int = 10) -> list[Operator]:
    """Return the operators with the most time of their own, the slowest first; none where no window was recorded."""
    own, calls = defaultdict[str, float](float), defaultdict[str, int](int)
    for file in files:
        for path in sorted(file.path.parent.glob(PROFILES.format(file.header["rank"]))):
            for name, seconds in own_seconds(read_profile(path)["traceEvents"]):
                own[name] += seconds
                calls[name] += 1
    total = sum(own.values())
    return [Operator(name, calls[name], own[name], own[name] / total) for name in sorted(own, key=lambda name: -own[name])[:most]]


def own_seconds(events: Sequence[Event]) -> list[tuple[str, float]]:
    """Return each operator call's own seconds; where there are kernels of a GPU, theirs instead."""
    kernels = [event for event in events if event.get("ph") == "X" and event.get("cat") in KERNELS]
    chosen = kernels or [event for event in events if event.get("ph") == "X" and event.get("cat") == "cpu_op"]
    found: list[tuple[str, float]] = []
    open_calls: dict[object, list[list[float | str]]] = defaultdict(list)
    # A caller begins before what it calls, and ends after it.
    for event in sorted(chosen, key=lambda event: (event["ts"], -event["dur"])):
        stack = open_calls[event.get("tid")]
        while stack and float(stack[-1][1]) <= event["ts"]:
            name, _, seconds = stack.pop()
            found.append((str(name), float(seconds)))
        if stack:
            stack[-1][2] = float(stack[-1][2]) - event["dur"] * 1e-6
        stack.append([event["name"], event["ts"] + event["dur"], event["dur"] * 1e-6])
    return found + [(str(name), float(seconds)) for stack in open_calls.values() for name, _, seconds in stack]
