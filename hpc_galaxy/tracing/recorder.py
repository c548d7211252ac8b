"""One rank's record of what it did and when: lines appended to a file of its own, read again by `hpc_galaxy.tracing.reading`."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

VERSION = 1
MAIN, COMMUNICATION, READER, WRITER, STEPS = "main", "communication", "reader", "writer", "steps"
"""The tracks that a rank's spans lie on: the main thread, messages, background reading and writing, and the steps of a training."""
WAIT = "wait for work"
RATE = "images/s"
"""The counter of a rank's own images in a step."""
FLUSH_SECONDS = 1.0
MEMORY_NS = 500_000_000  # between two looks at the memory
PAGE = os.sysconf("SC_PAGE_SIZE")

now = time.perf_counter_ns
"""The clock of all spans: nanoseconds since a moment that is the same for all processes of a node."""


class Recorder:
    """Writes lines, a JSON value each: first a header, then ``["X", track, name, start, duration]`` for a span, with a detail behind it
    where there is one, and ``["C", name, time, value]`` for a counter; times in nanoseconds of this node's clock.

    A file that cannot be written is given up with a message: a trace is never worth a job.

    Parameters
    ----------
    path : Path
        The file. Its directory is there.
    header : dict
        What is known of this rank; see `hpc_galaxy.tracing.attempt`.
    """

    def __init__(self, path: Path, header: dict[str, Any]) -> None:
        self.path = path
        self._lines: deque[str] = deque()
        self._names: dict[str, str] = {}
        self._lock = threading.Lock()
        self._looked = -MEMORY_NS  # the first look is due at once: a training may be over sooner
        self._file: TextIO | None = None
        try:
            self._file = path.open("w", encoding="utf-8")
        except OSError as error:
            self._give_up(error)
        self.note({"version": VERSION, **header})
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._flush_now_and_then, name="trace", daemon=True)
        self._thread.start()

    def note(self, content: dict[str, Any]) -> None:
        """Write down facts that are no spans, and see to it that they are on the disk."""
        self._lines.append(json.dumps(content))
        self.flush()

    def span(self, track: str, name: str, start: int, end: int, detail: str | int | None = None) -> None:
        """Note that this rank was doing `name` from `start` to `end`."""
        more = "" if detail is None else f",{json.dumps(detail)}"
        self._lines.append(f'["X",{self._quoted(track)},{self._quoted(name)},{start},{end - start}{more}]')

    def counter(self, name: str, value: float) -> None:
        """Note the value that something has now."""
        self._lines.append(f'["C",{self._quoted(name)},{now()},{value:.6g}]')

    def memory(self) -> None:
        """Note this process's resident memory, unless that was done just now."""
        if now() - self._looked > MEMORY_NS:
            self._looked = now()
            self.counter("memory (MB)", resident_memory() / 1e6)

    def flush(self) -> None:
        """Hand everything to the operating system, which keeps it even if this process is killed."""
        with self._lock:
            # Other threads go on adding lines.
            lines = [self._lines.popleft() for _ in range(len(self._lines))]
            if self._file is None or not lines:
                return
            try:
                self._file.write("\n".join(lines) + "\n")
                self._file.flush()
            except OSError as error:
                self._give_up(error)

    def _flush_now_and_then(self) -> None:
        """Do so each second, so that a process that hangs or is killed leaves what came before."""
        while not self._closed.wait(FLUSH_SECONDS):
            self.flush()

    def close(self, footer: dict[str, Any]) -> None:
        """Write the last line and close the file."""
        self._closed.set()
        self._thread.join()
        self.note(footer)
        if self._file is not None:
            self._file.close()

    def _quoted(self, name: str) -> str:
        quoted = self._names.get(name)
        if quoted is None:
            quoted = self._names[name] = json.dumps(name)
        return quoted

    def _give_up(self, error: OSError) -> None:
        print(f"hpc-galaxy: no trace in {self.path} ({error.strerror}); the job goes on without", file=sys.stderr, flush=True)
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
        self._file = None


def resident_memory() -> int:
    """Return the memory that this process holds now, bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE
