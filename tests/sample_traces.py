"""Ranks' records, made by hand."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

MS = 1_000_000
EPOCH = 1_700_000_000 * 10**9
Line = list[Any]


def write_rank(
    folder: Path,
    rank: int,
    ranks: int,
    lines: Iterable[Any],
    *,
    stage: str = "train",
    host: str = "n0",
    ahead: int = 0,
    footer: bool = True,
) -> Path:
    """Write the record of a rank whose node's clock is `ahead` of rank 0's."""
    folder.mkdir(parents=True, exist_ok=True)
    clock = {"at": ahead, "to_time_of_day": EPOCH - ahead, "error": 100 * bool(rank)}
    header = {"version": 1, "stage": stage, "rank": rank, "ranks": ranks, "host": host, "process": 10 + rank, "cores": 1}
    content: list[Any] = [{**header, "clock": clock, "node_epoch": EPOCH - ahead}, *lines]
    if footer:
        content.append({"ended": "well", "clock": {**clock, "at": ahead + 10**12}})
    path = folder / f"rank_{rank:06d}.jsonl"
    path.write_text("".join(json.dumps(line, separators=(",", ":")) + "\n" for line in content))
    return path


def steps(ranks: int, count: int, times: Callable[[int, int], dict[str, float]], message: float = 1.0, start: int = 0) -> list[list[Line]]:
    """Return the lines of a synchronous training: in each step the ranks do what `times` says, then wait for the last of them.

    Parameters
    ----------
    ranks, count : int
        Ranks and steps.
    times : callable
        Milliseconds of ``data``, ``forward``, ``backward``, ``checkpoint``..., by rank and step.
    message : float
        Milliseconds that the allreduce takes once all are there.
    start : int
        When the first step begins, nanoseconds.
    """
    lines: list[list[Line]] = [[] for _ in range(ranks)]
    for step in range(count):
        parts: Sequence[dict[str, float]] = [times(rank, step) for rank in range(ranks)]
        end = start + round(MS * (max(sum(part.values()) for part in parts) + message))
        for rank, part in enumerate(parts):
            at = start
            for name, milliseconds in part.items():
                lines[rank].append(["X", "main", name, at, round(MS * milliseconds)])
                at += round(MS * milliseconds)
            lines[rank].append(["X", "communication", "allreduce", at, end - at])
            lines[rank].append(["X", "steps", "step", start, end - start, step + 1])
            lines[rank].append(["C", "images/s", end, 1000.0])
        start = end
    return lines


def write_steps(folder: Path, ranks: int, count: int, times: Callable[[int, int], dict[str, float]], message: float = 1.0) -> None:
    """Write the records of such a training, two ranks a node."""
    for rank, lines in enumerate(steps(ranks, count, times, message)):
        write_rank(folder, rank, ranks, lines, host=f"n{rank // 2}")
