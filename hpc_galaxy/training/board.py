"""TensorBoard's file of events, written by whoever adds to it.

tensorboardX's own SummaryWriter writes from a thread. Where that finds the disk full it ends, and the training then waits for ever for
room in its queue. Here a file that cannot be written costs the file, and not the training.
"""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any


class Board:
    """Scalars for TensorBoard; a new file in `directory` each time.

    Parameters
    ----------
    directory : Path
        Is made if it is missing.
    steps : int
        How many have been done. What earlier files say of later ones is not shown any more.
    """

    def __init__(self, directory: Path, steps: int) -> None:
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.record_writer import RecordWriter
        from tensorboardX.summary import scalar

        def open_new() -> Any:
            directory.mkdir(parents=True, exist_ok=True)
            # The name by which TensorBoard knows such files.
            return RecordWriter(str(directory / f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}"))

        self._directory, self._event, self._scalar = directory, Event, scalar
        self._file: Any = None
        self._file = self._or_without(open_new)
        self._write(file_version="brain.Event:2")
        self._write(step=steps + 1, session_log=SessionLog(status=SessionLog.START))

    def add(self, name: str, value: float, step: int) -> None:
        """Add a value of the curve `name`."""
        self._write(step=step, summary=self._scalar(name, value))

    def flush(self) -> None:
        """Hand everything to the system."""
        if self._file is not None:
            self._or_without(self._file.flush)

    def close(self) -> None:
        """Flush and close the file; nothing may be added any more."""
        if self._file is not None:
            self._or_without(self._file.close)
        self._file = None

    def _write(self, **content: Any) -> None:
        if self._file is not None:
            event = self._event(wall_time=time.time(), **content)
            self._or_without(lambda: self._file.write(event.SerializeToString()))

    def _or_without(self, work: Callable[[], Any]) -> Any:
        try:
            return work()
        except OSError as error:
            told = f"{self._directory} cannot be written ({error.strerror}); the training goes on without TensorBoard"
            print(f"hpc-galaxy: {told}", file=sys.stderr, flush=True)
            file, self._file = self._file, None
            with suppress(OSError, AttributeError):
                file.close()
            return None
