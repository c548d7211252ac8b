"""Signals that ask for an end: noted when they come, acted on between two steps, by all ranks together."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

WATCHED = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM)


class Signals:
    """Note USR1, USR2 and TERM while the block runs, instead of ending at once.

    Slurm sends one of them some time before a job's limit (``--signal``), or when it preempts a job. To mpirun send USR1 or USR2, which it
    passes on: after TERM Open MPI kills its ranks within a second, saved or not.

    Only a process's main thread may set handlers. In another thread nothing is noted.

    Attributes
    ----------
    received : Signals or None
        The last that has come.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Signals:
        for number in WATCHED if threading.current_thread() is threading.main_thread() else ():
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
