"""What a side is: something that trains for some steps and says what a step has cost."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from typing import NamedTuple

LEARNING_RATE = 1e-6  # so small that no side's weights go where its arithmetic gets slower (denormal gradients)
SEED = 1


class Cost(NamedTuple):
    """What a step takes.

    Attributes
    ----------
    wall : float
        Seconds.
    cpu : float
        Seconds of the processor, of all threads: other programs on the machine change it less.
    faults : float
        Pages that the system had to map.
    waited : float
        Seconds that the computation waited for data, where that is known.
    """

    wall: float
    cpu: float
    faults: float
    waited: float = 0.0


Side = Callable[[int], Cost]
"""``side(steps)`` trains for so many steps."""


class Clock:
    """Runs from when it is made."""

    def __init__(self) -> None:
        self._start = _now()

    def cost(self, steps: int) -> Cost:
        """Return what each of `steps` steps has taken since."""
        return Cost(*((now - then) / steps for now, then in zip(_now(), self._start, strict=True)))


def _now() -> tuple[float, float, float]:
    return time.perf_counter(), time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def timed(step: Callable[[], object], steps: int) -> Cost:
    """Do `step` so often, and return what each has taken."""
    clock = Clock()
    for _ in range(steps):
        step()
    return clock.cost(steps)
