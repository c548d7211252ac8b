"""Write a Chrome trace, as the Perfetto UI and chrome://tracing read it, one event at a time."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import IO, Any

from hpc_galaxy.tracing.reading import Counter, RankFile, Span
from hpc_galaxy.tracing.recorder import COMMUNICATION, MAIN, READER, STEPS, WRITER

Event = dict[str, Any]
THREADS = 200  # numbers a process has for its threads
TRACKS = {MAIN: "main thread", STEPS: "steps", COMMUNICATION: "communication", READER: "reader", WRITER: "writer"}
OTHERS = 100  # where the numbers of other programs' threads begin
SHARPER = 8  # than a span's ends is where an arrow begins and ends in it: an eighth of its length, at most a microsecond
CAUSE, EFFECT = "backward", "allreduce"


@dataclass
class Process:
    """One rank in a trace: what turns its spans into events.

    Attributes
    ----------
    file : RankFile
        What it has recorded.
    number : int
        Its place among all ranks of all stages, from 0.
    base : int
        The time of day at which the trace begins, nanoseconds.
    """

    file: RankFile
    number: int
    base: int
    _lanes: dict[str, list[int]] = field(default_factory=dict)
    _threads: dict[str, int] = field(default_factory=dict)
    _arrows: int = 0
    _causes: list[Span] = field(default_factory=list)
    _waiting: list[tuple[Span, int]] = field(default_factory=list)

    @property
    def pid(self) -> int:
        """The process's number; also that of its main thread. Zero would be the idle process."""
        return (self.number + 1) * THREADS

    def events(self) -> Iterator[Event]:
        """Yield everything that the rank has recorded, and at the end who it is."""
        for item in self.file.items():
            if isinstance(item, Span):
                yield from self._span(item)
            elif isinstance(item, Counter):
                yield {"ph": "C", "pid": self.pid, "name": item.name, "ts": self.time(item.time), "args": {"value": item.value}}
        header = self.file.header
        name = f"{header['stage']} rank {header['rank']} ({header['host']})"
        yield {"ph": "M", "pid": self.pid, "name": "process_name", "args": {"name": name}}
        yield {"ph": "M", "pid": self.pid, "name": "process_sort_index", "args": {"sort_index": self.number}}
        for thread, tid in self._threads.items():
            yield {"ph": "M", "pid": self.pid, "tid": tid, "name": "thread_name", "args": {"name": thread}}
            yield {"ph": "M", "pid": self.pid, "tid": tid, "name": "thread_sort_index", "args": {"sort_index": tid}}

    def time(self, node_time: int) -> float:
        """Turn a time of the node's clock into the trace's microseconds."""
        return (self.file.to_time_of_day(node_time) - self.base) / 1000

    def thread(self, name: str, first: int = OTHERS) -> int:
        """Return the number of the thread `name`, a new one from `first` on where it has none."""
        if name not in self._threads:
            taken = set(self._threads.values())
            self._threads[name] = next(tid for tid in range(self.pid + first, self.pid + THREADS) if tid not in taken)
        return self._threads[name]

    def _span(self, span: Span) -> Iterator[Event]:
        tid = self._lane(span)
        event = {"ph": "X", "pid": self.pid, "tid": tid, "name": span.name, "cat": span.track}
        event |= {"ts": self.time(span.start), "dur": span.duration / 1000}
        if span.detail is not None:
            event["args"] = {"of": span.detail}
        yield event
        yield from self._arrows_of(span, tid)

    def _lane(self, span: Span) -> int:
        """Return a thread on which nothing else is going on: several messages may be under way at once, and several files be written."""
        title, first = TRACKS.get(span.track, span.track), list(TRACKS).index(span.track) * 20 if span.track in TRACKS else OTHERS
        if span.track == MAIN:
            return self.thread(title, first)
        ends = self._lanes.setdefault(span.track, [])
        lane = next((number for number, end in enumerate(ends) if end <= span.start), len(ends))
        ends[lane : lane + 1] = [span.end]
        return self.thread(title if lane == 0 else f"{title} {lane + 1}", first)

    def _arrows_of(self, span: Span, tid: int) -> Iterator[Event]:
        """Draw an arrow from a backward pass to the message that carries its gradients.

        Spans are recorded when they end. A message during the backward pass comes before it, one after it comes after.
        """
        if span.name == CAUSE and span.track == MAIN:
            self._causes = [span]
            for effect, lane in self._waiting:
                if span.start <= effect.start <= span.end:
                    yield from self._arrow(span, effect, lane)
            self._waiting.clear()
        elif span.name == EFFECT and span.track == COMMUNICATION:
            if self._causes and self._causes[0].end <= span.start:
                yield from self._arrow(self._causes.pop(), span, tid)
            else:
                self._waiting.append((span, tid))

    def _arrow(self, cause: Span, effect: Span, lane: int) -> Iterator[Event]:
        self._arrows += 1
        common = {"name": "gradients", "cat": "gradients", "id": self.pid * 10**9 + self._arrows, "pid": self.pid}
        # From where the message begins, or from just before the end of what came before it.
        start = min(effect.start, cause.end - min(1000, cause.duration // SHARPER))
        yield common | {"ph": "s", "tid": self.thread(TRACKS[MAIN]), "ts": self.time(max(start, cause.start))}
        yield common | {"ph": "f", "bp": "e", "tid": lane, "ts": self.time(effect.start + min(1000, effect.duration // SHARPER))}


def write_events(file: IO[str], events: Iterable[Event]) -> int:
    """Write events as one JSON document; return how many there were."""
    count, encode = 0, json.JSONEncoder(separators=(",", ":")).encode
    file.write('{"displayTimeUnit": "ms", "traceEvents": [')
    for event in events:
        file.write(",\n" if count else "\n")
        file.write(encode(event))
        count += 1
    file.write("\n]}\n")
    return count


def open_compressed(path: str) -> IO[str]:
    """Open a gzip file for text; level 1, as a trace shrinks by ten at any level."""
    return gzip.open(path, "wt", compresslevel=1, encoding="utf-8")
