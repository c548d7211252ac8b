"""Which shards are whole, written down as they become so: what an interrupted split need not do again.

A line is a checksum and a JSON object: sums over pixels go from here into the manifest, where a changed digit would spoil a training.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import xxhash

from hpc_galaxy.collector import uncollected
from hpc_galaxy.errors import OutputError
from hpc_galaxy.files import write_text

PATTERN = ".journal-*.jsonl"
COMPLETE = ".journal-complete.jsonl"


def plan_digest(places: dict[str, np.ndarray], state: int) -> str:
    """Return a hash of a plan: two runs with the same one write the same shards.

    Parameters
    ----------
    places : dict of str to ndarray
        The plan.
    state : int
        Of the cutout files that it was made of. Dates are compared for being the same, not for which is later: clocks of nodes and file
        servers differ, and jump.
    """
    digest = hashlib.sha256(f"{state}:".encode())
    for name, rows in places.items():
        digest.update(f"{name}:{len(rows)}:".encode())
        digest.update(np.ascontiguousarray(rows).view(np.uint8).data)  # the bytes themselves, of which 60 million sources have 540 MB
    return digest.hexdigest()


class Journal:
    """A rank's journal, one line a piece; a context manager.

    Parameters
    ----------
    directory : Path
        Where the shards are written.
    rank : int
        Its journal is ``.journal-<rank>.jsonl``.
    plan : str
        `plan_digest` of what is being done; it goes with every line.

    Raises
    ------
    OutputError
        It cannot be written.
    """

    def __init__(self, directory: Path, rank: int, plan: str) -> None:
        self._path, self._plan = directory / f".journal-{rank:06d}.jsonl", plan
        try:
            self._file = open(self._path, "a", encoding="utf-8")  # noqa: SIM115
        except OSError as error:
            raise self._failed(error) from error

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()

    def write(self, entry: dict[str, Any]) -> None:
        """Write down that something is whole.

        The line is handed to the system at once, and not flushed to the disk: what is lost with the power is made again.
        """
        try:
            # A killed run may have left half a line behind: begin a new one.
            self._file.write("\n" + _line(self._plan, entry))
            self._file.flush()
        except OSError as error:
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> OutputError:
        return OutputError(self._path, f"cannot be written ({error.strerror})", "check permissions, quota and free space")


def read_journals(directory: Path, plan: str) -> list[dict[str, Any]] | None:
    """Return what all ranks of interrupted runs have written down of this plan; None where one of them followed another plan."""
    entries: list[dict[str, Any]] = []
    with uncollected():
        for path in sorted(directory.glob(PATTERN)):
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                checksum, _, text = line.partition(" ")
                if checksum != _checksum(text):
                    continue  # an empty line, half a one, or a damaged one: what it was of is made again
                entry = json.loads(text)
                if entry.pop("plan") != plan:
                    return None
                entries.append(entry)
    return entries


def merge_journals(directory: Path, plan: str, entries: Iterable[dict[str, Any]]) -> None:
    """Write one journal of all entries in place of those of the ranks: a split that is started once more finds everything done."""
    write_text(directory / COMPLETE, "".join(_line(plan, entry) for entry in entries))
    for path in directory.glob(PATTERN):
        if path.name != COMPLETE:
            path.unlink()


def remove_journals(directory: Path) -> None:
    """Remove all journals: they are of another plan."""
    for path in directory.glob(PATTERN):
        path.unlink()


def _line(plan: str, entry: dict[str, Any]) -> str:
    text = json.dumps({"plan": plan, **entry})
    return f"{_checksum(text)} {text}\n"


def _checksum(text: str) -> str:
    return xxhash.xxh3_64_hexdigest(text.encode())
