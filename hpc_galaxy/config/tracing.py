"""The section [trace]."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from hpc_galaxy.config.base import Count, Section

Number = Annotated[int, Field(ge=0)]


class Profiler(Section):
    """Windows of torch.profiler in a training: every operator of a few steps.

    Attributes
    ----------
    ranks : list of int
        Which ranks look; none: off. A window costs time while it is open (benchmarks/bench_trace.py), and disk for every operator.
    wait, warmup, active, repeat : int
        After `wait` steps and `warmup` more, which are looked at and forgotten, `active` steps are kept; `repeat` such windows.
    memory, shapes : bool
        Also what each operator allocates, and its tensors' shapes.
    """

    ranks: tuple[Number, ...] = ()
    wait: Number = 20
    warmup: Number = 2
    active: Count = 5
    repeat: Count = 1
    memory: bool = False
    shapes: bool = False


class Trace(Section):
    """What is recorded of how a stage's time goes, in ``trace/`` beside its output; it never changes a result.

    Attributes
    ----------
    spans : bool
        Every rank writes down what it does and when; ``--trace`` sets it.
    profiler : Profiler
        The section [trace.profiler].
    horovod_timeline : bool
        Horovod's own timeline, on rank 0.
    """

    spans: bool = False
    profiler: Profiler = Profiler()
    horovod_timeline: bool = False

    @property
    def on(self) -> bool:
        """Whether anything is recorded."""
        return self.spans or bool(self.profiler.ranks) or self.horovod_timeline
