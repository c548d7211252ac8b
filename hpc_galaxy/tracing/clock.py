"""By how much the clocks of a job's nodes differ, measured by messages."""

from __future__ import annotations

import socket
from dataclasses import dataclass

from hpc_galaxy.tracing import recorder
from hpc_galaxy.world import World

EXCHANGES = 32


@dataclass(frozen=True)
class Offset:
    """What turns this node's clock into rank 0's.

    Attributes
    ----------
    nanoseconds : int
        To be added.
    error : int
        How wrong that may be, nanoseconds: half the shortest round trip; 0 on rank 0's own node.
    """

    nanoseconds: int = 0
    error: int = 0


def measure_offset(world: World) -> Offset:
    """Measure the offset of this rank's clock from rank 0's. Collective.

    All processes of a node share a clock, so the first rank of each node exchanges messages with rank 0 and speaks for the others. Of
    all round trips the shortest counts, whose two halves can differ the least (Cristian 1989, Distributed Computing 3, 146).
    """
    hosts = world.allgather(socket.gethostname())
    leaders = [hosts.index(host) for host in dict.fromkeys(hosts)]
    offsets = {hosts[0]: Offset()}
    for leader in leaders[1:]:
        if world.rank == leader:
            _answer(world)
        elif world.is_root:
            offsets[hosts[leader]] = _ask(world, leader)
    return world.bcast(offsets)[hosts[world.rank]]


def _ask(world: World, rank: int) -> Offset:
    """Ask a rank for its time, again and again."""
    trips = []
    for _ in range(EXCHANGES):
        sent = recorder.now()
        world.send_number(sent, rank)
        theirs = world.receive_number(rank)
        received = recorder.now()
        trips.append((received - sent, (sent + received) // 2 - theirs))
    trip, offset = min(trips)
    return Offset(offset, (trip + 1) // 2)


def _answer(world: World) -> None:
    for _ in range(EXCHANGES):
        world.receive_number(0)
        world.send_number(recorder.now(), 0)
