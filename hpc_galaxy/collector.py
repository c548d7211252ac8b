"""Python's garbage collector in a process that imports a million objects, works, and ends."""

from __future__ import annotations

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager

# Containers that are made before the collector looks at the young, then times ten at the middle-aged, times ten at all. Python's own 700
# has it walk through all that torch brings a dozen times while it is imported.
YOUNG, MIDDLE, OLD = 20_000, 10, 10


def spare_the_collector() -> None:
    """Let the collector look less often, and not at all once more when Python ends: nothing of it would be used again.

    Of the processor time from start to end a process that imports torch saves a fifth (benchmarks/bench_start.py).
    """
    gc.set_threshold(YOUNG, MIDDLE, OLD)
    atexit.register(gc.freeze)


@contextmanager
def uncollected() -> Iterator[None]:
    """Keep Python's garbage collector from walking, again and again, through the many objects that the block makes.

    For blocks that make no cycles, such as reading JSON: without the collector the 117,188 shards of 60 million examples are read in
    half the time.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
