"""What a benchmark has written, read again; and what has changed between two of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hpc_galaxy.bench.environment import sentence
from hpc_galaxy.bench.measuring import Measurement
from hpc_galaxy.bench.suite.question import LIMIT
from hpc_galaxy.errors import InputError, StageError

LEAST = 0.05  # a smaller change of the median is not worth a word, however steady the repeats
SAME = ("cpu", "cores", "threads", "python", "torch", "numpy", "mpi", "horovod", "gpus")
"""What of the environment makes two results hard to compare where it differs."""


@dataclass(frozen=True)
class Results:
    """A file of JSON lines, as `hpc_galaxy.bench.measuring.Log` writes it.

    Attributes
    ----------
    environment : dict
        See `hpc_galaxy.bench.environment.describe`.
    measurements : list of Measurement
        In the file's order.
    """

    environment: dict[str, Any]
    measurements: list[Measurement]


@dataclass(frozen=True)
class Change:
    """What has become of one side.

    Attributes
    ----------
    before, after : Measurement
        The same side of the same question.
    by_limit : bool
        Whether speeds are compared as shares of the limit that was measured beside each, which says more where the machine differs.
    speed : float
        Of the second over that of the first.
    moved : bool
        Whether that is more than noise: no repeat of the one is as fast as any of the other, and the medians differ by 5 per cent.
    """

    before: Measurement
    after: Measurement
    by_limit: bool
    speed: float
    moved: bool

    @property
    def verdict(self) -> str:
        """``faster``, ``slower``, or nothing."""
        return ("faster" if self.speed > 1 else "slower") if self.moved else ""


def read_results(path: Path) -> Results:
    """Read a benchmark's JSON lines.

    Raises
    ------
    InputError
        There are none, or something else is in the file.
    """
    try:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        kinds = [line.pop("kind") for line in lines]
        environments = [line for line, kind in zip(lines, kinds, strict=True) if kind == "environment"]
        measurements = [Measurement(**line) for line, kind in zip(lines, kinds, strict=True) if kind == "measurement"]
        return Results(environments[0], measurements)
    except OSError as error:
        raise InputError(path, f"cannot be read ({error.strerror})", "give the suite.jsonl that 'hpc-galaxy bench' writes") from error
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        problem = f"holds no results of a benchmark ({type(error).__name__}: {error})"
        raise InputError(path, problem, "give the suite.jsonl that 'hpc-galaxy bench' writes") from error


def find_changes(before: Results, after: Results) -> list[Change]:
    """Return what has become of each side that both results have, and of its share of the limit."""
    old, new = ({(one.question, one.side): one for one in results.measurements} for results in (before, after))
    return [change for key, one in old.items() if key in new for change in _changes(one, new[key], old, new)]


def _changes(one: Measurement, other: Measurement, *results: dict[tuple[str, str], Measurement]) -> Iterator[Change]:
    yield _change(one, other, False, *(np.divide(side.amount, side.seconds) for side in (one, other)))
    limits = [found.get((one.question, LIMIT)) for found in results]
    if one.side != LIMIT and all(limits):
        shares = [np.array(side.over(limit)) for side, limit in zip((one, other), limits, strict=True) if limit]
        yield _change(one, other, True, *shares)


def _change(one: Measurement, other: Measurement, by_limit: bool, old: np.ndarray, new: np.ndarray) -> Change:
    speed = float(np.median(new) / np.median(old))
    apart = new.min() > old.max() or new.max() < old.min()
    repeated = min(len(old), len(new)) > 1  # one repeat says nothing of its noise
    return Change(one, other, by_limit, speed, bool(apart and repeated and abs(speed - 1) > LEAST))


def compare(one: Path, other: Path) -> None:
    """Print what has changed from one result to another.

    Raises
    ------
    StageError
        Something has become slower, beyond noise; where there is a limit to compare with, in relation to that.
    InputError
        One of the files holds no results, or they have nothing in common.
    """
    before, after = (read_results(path / "suite.jsonl" if path.is_dir() else path) for path in (one, other))
    changes = find_changes(before, after)
    if not changes:
        raise InputError(other, f"answers none of the questions of {one}", "compare results of the same benchmark")
    print("\n".join(describe_changes(before, after, changes)), flush=True)
    compared = {change.before.question for change in changes if change.by_limit}
    ours = (change for change in changes if change.by_limit or (change.before.question not in compared and change.before.side != LIMIT))
    slower = [change for change in ours if change.verdict == "slower"]
    if slower:
        names = ", ".join(f"{change.before.question} ({change.before.side}, {change.speed:.2f} times)" for change in slower)
        raise StageError("bench compare", f"slower than before, beyond noise: {names}", "if both ran on a quiet machine, find the cause")


def describe_changes(before: Results, after: Results, changes: list[Change]) -> list[str]:
    """Return the comparison, line by line."""
    lines = [f"before: {sentence(before.environment)}", f"after:  {sentence(after.environment)}"]
    for name in SAME:
        values = [results.environment.get(name) for results in (before, after)]
        if values[0] != values[1]:
            lines.append(f"not the same: {name}, {values[0] or 'none'} and {values[1] or 'none'}")
    width = max(len(_name(change)) for change in changes)
    lines.append(f"{'':{width}}        before         after  after/before")
    for change in changes:
        rates = (f"{'':>10}    {'':>10}" if change.by_limit else f"{change.before.rate:>10,.0f}    {change.after.rate:>10,.0f}").ljust(24)
        lines.append(f"{_name(change):{width}}    {rates}  {change.speed:10.2f}  {change.verdict}".rstrip())
    return lines


def _name(change: Change) -> str:
    what = "share of the limit" if change.by_limit else f"{change.before.unit}/s"
    return f"{change.before.question}, {change.before.side}, {what}"
