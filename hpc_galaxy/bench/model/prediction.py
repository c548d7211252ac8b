"""How long a training step takes on many nodes, and what dominates it."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from hpc_galaxy.bench.model.messages import Link, exposed, hierarchical
from hpc_galaxy.bench.model.stragglers import expected_maximum

LARGE_BATCH = 8192  # images; beyond it learning rates that are scaled linearly no longer serve, and Adam wants the square root


@dataclass(frozen=True)
class Machine:
    """Where it is to run.

    Attributes
    ----------
    name : str
        The site.
    ranks_per_node : int
        Ranks.
    inside, between : Link
        What connects the ranks of a node, and the nodes: one adapter a node, which its ranks share.
    node_read, shared_read : float
        Bytes a second that a node reads, and that the whole file system gives at most.
    cores : float
        Ranks of a node that can compute at once: its cores over the threads of a rank. 0: enough for all.
    """

    name: str
    ranks_per_node: int
    inside: Link
    between: Link
    node_read: float
    shared_read: float
    cores: float = 0

    @property
    def turns(self) -> float:
        """How many ranks take turns on a core; 1 where each has its own."""
        return max(1.0, self.ranks_per_node / self.cores) if self.cores else 1.0


@dataclass(frozen=True)
class Training:
    """What is to run, as measured on one rank of that machine.

    Attributes
    ----------
    images : int
        That each rank goes through in a step.
    compute : float
        Seconds that takes; the fastest a rank usually is.
    gradient : float
        Bytes that are averaged.
    image : float
        Bytes that are read for an image.
    scatter : ndarray, shape (n,)
        Measured times over the usual one, for example 1.03.
    backward : float
        Share of the computation during which gradients come out.
    buckets : int
        Messages that begin during the backward pass; 0: one after it.
    """

    images: int
    compute: float
    gradient: float
    image: float
    scatter: np.ndarray
    backward: float = 2 / 3
    buckets: int = 0


@dataclass(frozen=True)
class Step:
    """A predicted step.

    Attributes
    ----------
    compute, communication, stragglers, data : float
        Seconds of each: the usual rank's computation; messages in the open; waiting for the slowest rank; and waiting for data, which are
        read while the step before is computed.
    """

    compute: float
    communication: float
    stragglers: float
    data: float

    @property
    def seconds(self) -> float:
        """The whole step."""
        return self.compute + self.communication + self.stragglers + self.data

    @property
    def dominating(self) -> str:
        """What besides the computation takes most."""
        return max((field.name for field in fields(self) if field.name != "compute"), key=lambda name: float(getattr(self, name)))


def message_seconds(size: float, machine: Machine, nodes: int) -> float:
    """Return the seconds of an allreduce of `size` bytes; within a node cores copy the data, and so ranks that share one do it in turns."""
    inside = Link(machine.inside.latency * machine.turns, machine.inside.bandwidth / machine.turns)
    return hierarchical(nodes, machine.ranks_per_node, size, inside, machine.between)


def predict(training: Training, machine: Machine, nodes: int) -> Step:
    """Return the step of `training` on so many nodes of `machine`.

    Notes
    -----
    Ranks that share a core compute in turns, and those that have finished and wait give theirs up. So the slowest has a core to itself
    for what it has more to do than the others: waiting for it takes no longer than where each has its own.
    """
    ranks = nodes * machine.ranks_per_node
    compute = training.compute * machine.turns
    messages = message_seconds(training.gradient, machine, nodes)
    if training.buckets:
        messages = exposed(messages, training.backward * compute, training.buckets)
    stragglers = training.compute * max(0.0, expected_maximum(training.scatter, ranks) - 1)
    busy = compute + messages + stragglers
    read = training.images * machine.ranks_per_node * training.image / min(machine.node_read, machine.shared_read / nodes)
    return Step(compute, messages, stragglers, max(0.0, read - busy))


def efficiency(training: Training, machine: Machine, nodes: int) -> float:
    """Return the speed on so many nodes over that many times the speed of one rank by itself."""
    return training.compute / predict(training, machine, nodes).seconds


@dataclass(frozen=True)
class Row:
    """What so many nodes do.

    Attributes
    ----------
    nodes : int
        So many.
    step : Step
        What a step takes.
    batch : int
        Images in it, over all ranks.
    images_per_second, efficiency : float
        Speed, and speed over that many times the speed of one rank by itself.
    """

    nodes: int
    step: Step
    batch: int
    images_per_second: float
    efficiency: float


def make_row(training: Training, machine: Machine, nodes: int) -> Row:
    """Return what so many nodes do."""
    step = predict(training, machine, nodes)
    batch = training.images * machine.ranks_per_node * nodes
    return Row(nodes, step, batch, batch / step.seconds, training.compute / step.seconds)
