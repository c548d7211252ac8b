"""How long an allreduce takes, by the alpha-beta model: a message costs a latency, and its bytes a time each.

Thakur, Rabenseifner & Gropp (2005, Int. J. High Perform. Comput. Appl. 19, 49) derive ring, halving-doubling and recursive doubling.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, log2


@dataclass(frozen=True)
class Link:
    """What connects two processes.

    Attributes
    ----------
    latency : float
        Seconds a message, whatever its size.
    bandwidth : float
        Bytes a second.
    """

    latency: float
    bandwidth: float

    def seconds(self, messages: float, data: float) -> float:
        """Return the time of so many messages, one after the other, of `data` bytes in all."""
        return messages * self.latency + data / self.bandwidth


def ring(ranks: int, size: float, link: Link) -> float:
    """Return the seconds of an allreduce of `size` bytes in which each rank speaks to its neighbour: least data, most messages."""
    return link.seconds(2 * (ranks - 1), 2 * size * (ranks - 1) / ranks)


def halving_doubling(ranks: int, size: float, link: Link) -> float:
    """Return the same by recursive halving and doubling: as little data, few messages. What is over a power of two waits a round."""
    rounds, rest = int(log2(ranks)), ranks & (ranks - 1)
    whole = 2**rounds
    odd = link.seconds(2, 2 * size) if rest else 0.0
    return link.seconds(2 * rounds, 2 * size * (whole - 1) / whole) + odd


def tree(ranks: int, size: float, link: Link) -> float:
    """Return the same by recursive doubling: all of the data in each of the fewest rounds."""
    rounds = ceil(log2(ranks))
    return link.seconds(rounds, rounds * size)


ALGORITHMS = {"ring": ring, "halving-doubling": halving_doubling, "tree": tree}


def fastest(ranks: int, size: float, link: Link) -> float:
    """Return the seconds of the best of these, as MPI libraries choose by size; 0 for a single rank."""
    return min(algorithm(ranks, size, link) for algorithm in ALGORITHMS.values()) if ranks > 1 else 0.0


def hierarchical(nodes: int, ranks: int, size: float, inside: Link, between: Link) -> float:
    """Return the seconds of an allreduce of `nodes` nodes of `ranks` ranks each: within the nodes first, then between them.

    Each rank of a node reduces its part of the data, and all parts share the node's one adapter.
    """
    if nodes == 1:
        return fastest(ranks, size, inside)
    within = inside.seconds(2 * (ranks - 1), 2 * size * (ranks - 1) / ranks) if ranks > 1 else 0.0
    return within + fastest(nodes, size, between)


def exposed(messages: float, backward: float, buckets: int) -> float:
    """Return what of the messages' seconds is left over when they begin during a backward pass of so many seconds.

    The gradients come in `buckets` equal parts, the last with the end of the pass; each part's message waits for the one before.
    """
    end = 0.0
    for bucket in range(1, buckets + 1):
        end = max(end, backward * bucket / buckets) + messages / buckets
    return end - backward
