"""Pass 2: stamps from cutout files into shards, one shard at a time on each rank, while those before are written."""

from __future__ import annotations

import shutil
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hpc_galaxy.config import Config
from hpc_galaxy.errors import FormatError, OutputError
from hpc_galaxy.files import shown
from hpc_galaxy.shards.manifest import SHARD_SIZE
from hpc_galaxy.shards.schema import STAMP_DTYPE
from hpc_galaxy.shards.stamp_files import StampFiles
from hpc_galaxy.splits.groups import group_names
from hpc_galaxy.splits.journal import Journal
from hpc_galaxy.splits.sources import Sources
from hpc_galaxy.splits.statistics import moments
from hpc_galaxy.tracing.recorder import WRITER
from hpc_galaxy.tracing.spans import Stopwatch

WRITERS = 3  # threads: while some shards are flushed to the disk another one is written (benchmarks/bench_split.py: against one)
Record = dict[str, Any]
Write = Callable[["Piece", np.ndarray, np.ndarray], Record]
"""Takes a piece, its stamps (n, size, size, channels) and its table (n,); returns what is to be remembered, ready for JSON."""


@dataclass(frozen=True)
class Piece:
    """What is written at a time: up to 512 examples.

    Attributes
    ----------
    split : str
        ``train``, ``valid`` or ``test``.
    number : int
        Of the shard.
    places : ndarray, shape (n,), `hpc_galaxy.splits.sources.PLACE`
        Where its stamps are, and their classes.
    brick : str
        Of obiwan's layout, which has a folder a brick.
    """

    split: str
    number: int
    places: np.ndarray
    brick: str = ""

    @property
    def key(self) -> str:
        """What identifies it in a plan."""
        return f"{self.split}/{self.brick}/{self.number}"


@dataclass(frozen=True)
class Repackager:
    """Copies stamps.

    Attributes
    ----------
    config : Config
        Names the groups.
    files : sequence of Path
        All cutout files, in the order of the plan's numbers.
    sources : Sources
        What is known of the survey.
    scale : ndarray, shape (channels,)
        What pixels are divided by in the statistics.
    write : callable
        Writes a piece.
    watch : Stopwatch
        Where the time goes.
    """

    config: Config
    files: Sequence[Path]
    sources: Sources
    scale: np.ndarray
    write: Write
    watch: Stopwatch

    def run(self, pieces: Iterable[Piece], journal: Journal) -> list[Record]:
        """Make pieces, and return what is to be remembered of each; while one is read those before are written and flushed."""
        buffers = [np.empty((SHARD_SIZE, *self.sources.stamps.shape), STAMP_DTYPE) for _ in range(WRITERS + 1)]
        records: list[Record] = []
        with StampFiles(self.files, self.sources.stamps, self.sources.places) as source, ThreadPoolExecutor(WRITERS, "write") as threads:
            writing: deque[Future[Record]] = deque()
            for number, piece in enumerate(pieces):
                x, table = self._read(source, piece, buffers[number % len(buffers)])
                if len(writing) == WRITERS:
                    records.append(self._finish(writing.popleft(), journal))
                writing.append(threads.submit(self._write, piece, x, table))
            records += [self._finish(future, journal) for future in writing]
        return records

    def _read(self, source: StampFiles, piece: Piece, buffer: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x, table = buffer[: len(piece.places)], np.empty(len(piece.places), self.sources.stamps.example_dtype)
        with self.watch.span("read", detail=piece.key):
            source.read(piece.places["file"], piece.places["row"], x, table)
            table["group"] = group_names(table, self.config.split)
            table["label"] = piece.places["label"]  # of a control it is not that of the file
        self.watch.count("examples", len(x))
        return x, table

    def _refuse(self, piece: Piece, x: np.ndarray, table: np.ndarray) -> None:
        bad = int(np.argmin(np.isfinite(x).all(axis=(1, 2, 3))))
        place = piece.places[bad]
        problem = f"row {place['row']} (id {table['id'][bad].decode()}) has pixels that are no numbers, expected none"
        raise FormatError(self.files[place["file"]], problem, "run 'hpc-galaxy extract --overwrite'")

    def _write(self, piece: Piece, x: np.ndarray, table: np.ndarray) -> Record:
        """Measure and write a piece, in a thread; return what is to be remembered."""
        with self.watch.span("statistics", WRITER, piece.key):
            part = moments(x, self.scale)
        if not np.isfinite(part).all():
            self._refuse(piece, x, table)
        with self.watch.span("write", WRITER, piece.key):
            return {"piece": piece.key, "moments": part.tolist(), **self.write(piece, x, table)}

    def _finish(self, writing: Future[Record], journal: Journal) -> Record:
        """Wait until a piece is whole, and write that down."""
        with self.watch.span("wait for the disk"):
            record = writing.result()
            journal.write(record)
        return record


def require_space(root: Path, needed: int) -> None:
    """Refuse to begin what the disk has no room for.

    Raises
    ------
    OutputError
        Fewer than `needed` bytes are free.
    """
    free = shutil.disk_usage(root).free
    if free < needed:
        problem = f"needs {needed / 1e9:,.2f} GB, the file system has {free / 1e9:,.2f} GB free"
        raise OutputError(shown(root), problem, "free some, set split.storage = 'float16' (half the space), or choose another paths.shards")
