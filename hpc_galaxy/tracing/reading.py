"""Read what recorders have written, also where a killed job has left a file in the middle of a line."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from hpc_galaxy.errors import FormatError, InputError
from hpc_galaxy.tracing.attempt import RANKS, attempts
from hpc_galaxy.tracing.recorder import VERSION

NUMBERS = ("version", "rank", "ranks", "process", "cores", "node_epoch")
TEXTS = ("stage", "host")
CLOCK = ("at", "to_time_of_day", "error")
TAIL = 1 << 16  # bytes, in which the last line is looked for
REMEDY = "leave it out, or trace the job again"


@dataclass(frozen=True)
class Span:
    """A span, as it was recorded; times in nanoseconds of its node's clock.

    Attributes
    ----------
    track, name : str
        See `hpc_galaxy.tracing.recorder`.
    start, duration : int
        When.
    detail : str, int or None
        What it was done to.
    """

    track: str
    name: str
    start: int
    duration: int
    detail: str | int | None = None

    @property
    def end(self) -> int:
        """When it ended."""
        return self.start + self.duration


@dataclass(frozen=True)
class Counter:
    """A value at a time, in nanoseconds of the node's clock."""

    name: str
    time: int
    value: float


class RankFile:
    """The trace of one rank.

    Parameters
    ----------
    path : Path
        What a `Recorder` has written, or the beginning of it.

    Attributes
    ----------
    header : dict
        Its first line; see `hpc_galaxy.tracing.attempt`.

    Raises
    ------
    FormatError
        The first line is not a header of this version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            self.header = self._check(_parse(file.readline()))

    def _check(self, header: Any) -> dict[str, Any]:
        if not isinstance(header, dict) or header.get("version") != VERSION:
            raise FormatError(self.path, f"does not begin with a trace's header of version {VERSION}", REMEDY)
        wrong = [name for name in NUMBERS if not isinstance(header.get(name), int)]
        wrong += [name for name in TEXTS if not isinstance(header.get(name), str)]
        if wrong or not _is_clock(header.get("clock")):
            raise FormatError(self.path, f"has a header without a valid {', '.join(wrong) or 'clock'}", REMEDY)
        return header

    @cached_property
    def footer(self) -> dict[str, Any]:
        """The last line of a recorder that was closed; empty of a job that was killed."""
        with self.path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL))
            lines = file.read().splitlines()
        last = _parse(lines[-1] + b"\n") if lines else None
        return last if isinstance(last, dict) and "ended" in last else {}

    def items(self) -> Iterator[Span | Counter | dict[str, Any]]:
        """Yield spans, counters and notes, up to where the file is whole; one line at a time."""
        with self.path.open("rb") as file:
            file.readline()
            for line in file:
                item = _item(_parse(line))
                if item is None:
                    return
                yield item

    def to_time_of_day(self, time: int) -> int:
        """Turn this node's clock into rank 0's time of day, nanoseconds since 1970; between two measurements the drift is even."""
        at, shift, drift, length = self._clock
        return time + shift + drift * (time - at) // length

    @cached_property
    def _clock(self) -> tuple[int, int, int, int]:
        """When the clock was measured first, its shift then, and by how much that changed in how long."""
        first, last = self.header["clock"], self.footer.get("clock")
        if not isinstance(last, dict) or not _is_clock(last) or last["at"] <= first["at"]:
            last = {**first, "at": first["at"] + 1}
        return first["at"], first["to_time_of_day"], last["to_time_of_day"] - first["to_time_of_day"], last["at"] - first["at"]

    def from_node_time_of_day(self, nanoseconds: int) -> int:
        """Turn this node's time of day into this node's clock."""
        return nanoseconds - int(self.header["node_epoch"])


def find_rank_files(directory: Path, attempt: int | None = None) -> tuple[Path, list[RankFile]]:
    """Return the folder of a stage's newest trace, or of the `attempt`-th, and its ranks' files in the ranks' order.

    Raises
    ------
    InputError
        There is none.
    FormatError
        No file has a header; those without one beside others are what killed ranks left, and are passed over.
    """
    folders = attempts(directory)
    if attempt is not None:
        folders = [folder for folder in folders if int(folder.name) == attempt]
    if not folders:
        which = f"no trace number {attempt}" if attempt is not None else "no trace"
        raise InputError(directory, f"holds {which}", "run the stage with --trace, and give its output directory")
    files, failure = [], None
    for path in sorted(folders[-1].glob(RANKS)):
        try:
            files.append(RankFile(path))
        except FormatError as error:
            failure = error
    if not files:
        raise failure or InputError(folders[-1], "holds no file of a rank", "run the stage with --trace again")
    return folders[-1], sorted(files, key=lambda file: int(file.header["rank"]))


def _parse(line: bytes) -> Any:
    """Return the value of a line, None where it is not whole."""
    if not line.endswith(b"\n"):
        return None
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _item(value: Any) -> Span | Counter | dict[str, Any] | None:
    match value:
        case ["X", str(track), str(name), int(start), int(duration), *more] if duration >= 0 and len(more) < 2:
            return Span(track, name, start, duration, *more)
        case ["C", str(name), int(time), int(number) | float(number)]:
            return Counter(name, time, float(number))
        case dict():
            return value
    return None


def _is_clock(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(value.get(name), int) for name in CLOCK)
