"""What the steps of a training were made of, from its ranks' records."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpc_galaxy.tracing.reading import Counter, RankFile, Span
from hpc_galaxy.tracing.recorder import COMMUNICATION, MAIN, RATE, STEPS

PARTS = ("data", "compute", "communication", "checkpoint", "validation", "other", "hidden")
"""What a step is made of: waiting for data; forward, backward and optimizer; messages that nothing else is done meanwhile, which
includes waiting for ranks that are late; saving; validation; the rest; and, besides, messages during the backward pass."""
PART_OF = {
    "data": "data",
    "copy": "compute",
    "forward": "compute",
    "backward": "compute",
    "optimizer": "compute",
    "checkpoint": "checkpoint",
    "validate": "validation",
}
STEP = "step"
NUMBER_OF = {name: number for number, name in enumerate(PARTS)}
WALL = len(PARTS)


@dataclass(frozen=True)
class Steps:
    """A training's steps.

    A step reaches from one moment at which all ranks have agreed to the next, so what a rank does in it can only be made up for by
    waiting in it. What comes between two epochs is an interval as well.

    Attributes
    ----------
    files : sequence of RankFile
        The ranks.
    kinds : list of str, length n
        The intervals' names.
    parts : ndarray, shape (ranks, n, len(PARTS)), float32
        Seconds.
    wall : ndarray, shape (ranks, n), float32
        Seconds.
    begun : ndarray, shape (n,), float64
        When each interval began on the first rank, seconds after the first.
    notes : list of dict
        What each rank has noted of itself.
    images : ndarray, shape (ranks,)
        That each rank has been through.
    """

    files: Sequence[RankFile]
    kinds: list[str]
    parts: np.ndarray
    wall: np.ndarray
    begun: np.ndarray
    notes: list[dict[str, Any]]
    images: np.ndarray

    def part(self, name: str) -> np.ndarray:
        """Return one of `PARTS`, shape (ranks, n)."""
        return self.parts[:, :, NUMBER_OF[name]]

    @property
    def seconds(self) -> float:
        """How long all of them took, the longest record's."""
        return float(self.wall.sum(axis=1).max())

    @property
    def busy(self) -> np.ndarray:
        """Seconds that a rank did something itself, shape (ranks, n)."""
        return self.wall - self.part("communication")


def read_steps(files: Sequence[RankFile]) -> Steps | None:
    """Read the steps that all ranks have been through; None where no step was recorded.

    A line is read at a time, and a few numbers kept for each step and rank: 512 ranks and 1,000 steps are 16 MB.
    """
    records = [_read(file) for file in files]
    count = min(len(record.kinds) for record in records)
    if not count:
        return None
    table = np.stack([np.array(record.table).reshape(-1, WALL + 1)[:count] for record in records])
    begun = np.array(records[0].begun[:count]) * 1e-9
    images = np.array([record.images for record in records])
    return Steps(
        files, records[0].kinds[:count], table[:, :, :WALL], table[:, :, WALL], begun - begun[0], [r.notes for r in records], images
    )


class _Record:
    """One rank's steps, as they are read."""

    def __init__(self) -> None:
        self.kinds: list[str] = []
        self.table = array("f")  # a row of PARTS and the wall time for each step
        self.begun = array("q")
        self.notes: dict[str, Any] = {}
        self.images = 0.0
        self._now = [0.0] * WALL
        self._messages: list[Span] = []

    def add(self, item: Span | Counter | dict[str, Any]) -> None:
        """Take in the next line."""
        if isinstance(item, dict):
            self.notes |= item
        elif isinstance(item, Counter):
            if item.name == RATE and self.table:
                self.images += item.value * self.table[-1]
        elif item.track == STEPS:
            self._close(item)
        elif item.track == COMMUNICATION:
            self._messages.append(item)
            self._put("communication", item.duration)
        elif item.track == MAIN and item.name in PART_OF:
            self._put(PART_OF[item.name], item.duration)
            if item.name == "backward":
                self._overlap(item)

    def _overlap(self, backward: Span) -> None:
        """Messages that began during the backward pass are hidden behind it, but for what came after the last one had begun."""
        inside = [message for message in self._messages if message.start >= backward.start]
        if inside:
            total = sum(message.duration for message in inside)
            exposed = max(0, min(backward.end, max(message.end for message in inside)) - max(message.start for message in inside))
            self._put("communication", exposed - total)
            self._put("compute", -exposed)
            self._put("hidden", total - exposed)
        self._messages.clear()

    def _put(self, part: str, nanoseconds: int) -> None:
        self._now[NUMBER_OF[part]] += nanoseconds * 1e-9

    def _close(self, step: Span) -> None:
        known = sum(self._now) - self._now[NUMBER_OF["hidden"]]
        self._put("other", max(0, step.duration - round(known * 1e9)))
        self.kinds.append(sys.intern(step.name))
        self.table.extend([*self._now, step.duration * 1e-9])
        self.begun.append(step.start)
        self._now = [0.0] * WALL
        self._messages.clear()


def _read(file: RankFile) -> _Record:
    record = _Record()
    for item in file.items():
        record.add(item)
    return record
