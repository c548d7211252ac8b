"""Named spans of time, added up per rank and summed over the job; recorded one by one where a trace is wanted."""

from __future__ import annotations

import resource
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from hpc_galaxy.tracing.recorder import MAIN, RATE, STEPS, Recorder, now
from hpc_galaxy.world import World

STATUS = Path("/proc/self/status")


class Stopwatch:
    """Seconds spent in named spans, and counts of what was done.

    Parameters
    ----------
    recorder : Recorder, optional
        Also writes down each span, when there is one.

    Attributes
    ----------
    seconds : dict of str to float
        Wall time by span name.
    counts : dict of str to int
        What `count` added up.
    """

    def __init__(self, recorder: Recorder | None = None) -> None:
        self.recorder = recorder
        self._lock = threading.Lock()
        self.restart()

    def restart(self) -> None:
        """Forget all times and counts, and begin anew; what was recorded stays."""
        self.seconds: dict[str, float] = defaultdict(float)
        self.counts: dict[str, int] = defaultdict(int)
        self._start = self._lap = now()
        self._lapped = 0

    def span(self, name: str, track: str = MAIN, detail: str | int | None = None) -> Span:
        """Return a context whose time is added to the span `name`.

        Parameters
        ----------
        name : str
            What is done.
        track : str
            Which thread's work it is in a trace.
        detail : str or int, optional
            What it is done to; shown in a trace.
        """
        return Span(self, name, track, detail)

    def add(self, name: str, track: str, start: int, end: int, detail: str | int | None = None) -> None:
        """Add a span that lasted from `start` to `end`, as `recorder.now` tells the time; from any thread."""
        with self._lock:
            self.seconds[name] += (end - start) * 1e-9
        if self.recorder is not None:
            self.recorder.span(track, name, start, end, detail)

    def lap(self, name: str, number: int) -> None:
        """Record that a step, or what else is between two of them, has lasted from the last lap, or the beginning, until now.

        Parameters
        ----------
        name : str
            What it was.
        number : int
            Of the step.
        """
        if self.recorder is None:
            return
        start, self._lap = self._lap, now()
        examples, self._lapped = self.counts["examples"] - self._lapped, self.counts["examples"]
        self.recorder.span(STEPS, name, start, self._lap, number)
        if examples:
            self.recorder.counter(RATE, examples * 1e9 / (self._lap - start))
        self.recorder.memory()

    def count(self, name: str, amount: int = 1) -> None:
        """Add `amount` to the count `name`."""
        self.counts[name] += amount

    @property
    def elapsed(self) -> float:
        """Wall time since this stopwatch was made, seconds."""
        return (now() - self._start) * 1e-9

    def summary(self, world: World, stage: str, unit: str) -> str:
        """Return one line for the whole job: what was done, how fast, and where the time went. Collective.

        Parameters
        ----------
        world : World
            Every rank must call this.
        stage : str
            Name of the stage, the line's beginning.
        unit : str
            The count that the rate is given in (for example ``cutouts``).
        """
        ranks = world.allgather((self.elapsed, dict(self.counts), dict(self.seconds), peak_memory()))
        wall, memory = max(elapsed for elapsed, *_ in ranks), max(peak for *_, peak in ranks)
        counts, seconds = _add(counts for _, counts, _, _ in ranks), _add(seconds for _, _, seconds, _ in ranks)
        done = ", ".join(f"{amount:,.0f} {name}" for name, amount in counts.items()) or f"0 {unit}"
        rate = counts.get(unit, 0) / wall
        where = ", ".join(f"{name} {value:.1f} s" for name, value in seconds.items())
        ranks_and_memory = f"{world.size} rank{'s' * (world.size > 1)}, each of at most {memory / 1e6:,.0f} MB"
        line = f"{stage}: {done} in {wall:.1f} s on {ranks_and_memory} ({rate:,.1f} {unit}/s)"
        return f"{line}; summed over ranks: {where}" if where else line


class Span:
    """A span of time that is going on; see `Stopwatch.span`."""

    __slots__ = ("_detail", "_name", "_start", "_track", "_watch")

    def __init__(self, watch: Stopwatch, name: str, track: str, detail: str | int | None) -> None:
        self._watch, self._name, self._track, self._detail = watch, name, track, detail

    def __enter__(self) -> None:
        self._start = now()

    def __exit__(self, *_: object) -> None:
        self._watch.add(self._name, self._track, self._start, now(), self._detail)


def peak_memory() -> int:
    """Return the largest resident memory that this process has had, bytes.

    Linux tells it in ``VmHWM`` (proc(5)). `getrusage` would say no less than what the program had that started this one.
    """
    with suppress(OSError):
        for line in STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _add(tables: Iterator[dict[str, float]] | Iterator[dict[str, int]]) -> dict[str, float]:
    total: dict[str, float] = defaultdict(float)
    for table in tables:
        for name, value in table.items():
            total[name] += value
    return dict(total)
