"""How everything is timed: sides in turn, medians with their spread, and the lines that say whether a target is met.

A figure of one run means little on a machine that others use as well; the ratio of two sides that took turns means much. So a
question always has a side to compare with: what nobody can avoid (a *yardstick*), or what people would use instead.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hpc_galaxy.bench.environment import describe, sentence


@dataclass(frozen=True)
class Measurement:
    """One side of a question.

    Attributes
    ----------
    question, side : str
        Such as ``extract`` and ``ours``.
    amount, unit : float, str
        What each repeat did, such as 300 ``cutouts``.
    seconds : list of float
        That each repeat took; the sides of a question were timed in turn, so the n-th of one goes with the n-th of another.
    """

    question: str
    side: str
    amount: float
    unit: str
    seconds: list[float]

    @property
    def median(self) -> float:
        """Seconds."""
        return statistics.median(self.seconds)

    @property
    def rate(self) -> float:
        """Amount a second, by the median."""
        return self.amount / self.median

    def over(self, other: Measurement) -> list[float]:
        """Return this side's speed over the other's, repeat by repeat."""
        scale = self.amount / other.amount
        return [scale * theirs / ours for ours, theirs in zip(self.seconds, other.seconds, strict=True)]


class Log:
    """What a benchmark finds: printed, and written as JSON lines.

    Parameters
    ----------
    path : Path, optional
        The file of JSON lines, which is begun anew: first the environment, then a ``measurement`` or a ``ratio`` a line.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.environment = describe()
        self.measurements: list[Measurement] = []
        self._file = path.open("w") if path else None
        self._write("environment", self.environment)
        print(sentence(self.environment), flush=True)

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *error: object) -> None:
        if self._file:
            self._file.close()

    def record(
        self, question: str, unit: str, seconds: Mapping[str, Sequence[float]], amounts: Mapping[str, float]
    ) -> dict[str, Measurement]:
        """Record what the sides of a question took, and return them by side.

        Parameters
        ----------
        question, unit : str
            See `Measurement`.
        seconds : mapping of str to sequence of float
            By side.
        amounts : mapping of str to float
            What each repeat of a side did.
        """
        found = {side: Measurement(question, side, amounts[side], unit, list(values)) for side, values in seconds.items()}
        for one in found.values():
            self._write("measurement", asdict(one))
        self.measurements += found.values()
        return found

    def table(
        self, question: str, unit: str, seconds: Mapping[str, Sequence[float]], amounts: Mapping[str, float]
    ) -> dict[str, Measurement]:
        """Do as `record` does, and print a line a side: median [least, most] seconds, and the rate."""
        found = self.record(question, unit, seconds, amounts)
        width = max(map(len, found))
        for side, one in found.items():
            print(f"  {side:{width}} {with_unit(one.seconds):>27} {one.rate:12,.0f} {unit}/s", flush=True)
        return found

    def ratio(self, name: str, value: float, target: str = "-") -> None:
        """Record and print how a measured ratio compares with its target; ``-``: there is none."""
        print(f"RATIO {name} {value:.3g} target {target}", flush=True)
        self._write("ratio", {"name": name, "value": value, "target": target})

    def note(self, name: str, content: Mapping[str, Any]) -> None:
        """Record what is neither a measurement nor a ratio."""
        self._write(name, content)

    def _write(self, kind: str, content: Mapping[str, Any]) -> None:
        if self._file:
            self._file.write(json.dumps({"kind": kind, **content}) + "\n")
            self._file.flush()


def interleaved(
    sides: Mapping[str, Callable[[], object]], repeats: int, prepare: Callable[[], object], warm_up: int = 0
) -> dict[str, list[float]]:
    """Time every side `repeats` times, in turn, so that a busy spell of the machine meets all of them.

    Parameters
    ----------
    sides : mapping of str to callable
        What is timed.
    repeats, warm_up : int
        How often each; and how often before, untimed.
    prepare : callable
        Runs before each, untimed.

    Returns
    -------
    dict of str to list of float
        Seconds, by side.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(warm_up + repeats):
        for name, run in sides.items():
            prepare()
            start = time.perf_counter()
            run()
            if number >= warm_up:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def with_unit(seconds: Sequence[float]) -> str:
    """Return a median of times with its range, in seconds, milliseconds or microseconds."""
    median = statistics.median(seconds)
    factor, unit = (1, "s") if median >= 0.1 else (1e3, "ms") if median >= 1e-3 else (1e6, "us")
    return f"{spread([factor * value for value in seconds])} {unit}"


def spread(values: Sequence[float]) -> str:
    """Return a median with its range."""
    return f"{statistics.median(values):.3f} [{min(values):.3f}, {max(values):.3f}]"
