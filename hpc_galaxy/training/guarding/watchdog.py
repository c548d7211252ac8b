"""A watch over all ranks, which ends a job that no longer advances.

Neither MPI nor Horovod notices a rank that is stopped (SIGSTOP, a node that hangs): the others wait in the allreduce for ever. Here a
thread of each rank sends rank 0 a sign of life every second, and rank 0 answers. UDP, because nothing may wait for it.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import sys
import threading
import time
from dataclasses import dataclass, field
from types import TracebackType

from hpc_galaxy.config.training import Watchdog as Settings
from hpc_galaxy.world import World

STUCK = 76  # the exit code of a job that the watchdog has ended
BEAT_SECONDS = 1.0
PATIENCE_WITH_ROOT = 5.0  # a silent rank is named by rank 0, which knows all; only where that is silent do others speak
ABORT_SECONDS = 3.0
LARGEST = 2048  # bytes of a datagram
REMEDY = "start the same command again: it continues from the last checkpoint"


@dataclass
class Sign:
    """The last that was heard of a rank.

    Attributes
    ----------
    at : float
        When, by the hearer's clock.
    host, place : str
        Where the rank runs, and where in its work it was.
    """

    at: float
    host: str = ""
    place: str = ""


@dataclass
class Judge:
    """Decides who is silent. Plain numbers in, a sentence out: no clock, no network.

    Attributes
    ----------
    rank : int
        The rank that this is of.
    silent, stalled : float
        Seconds after which a rank is taken for lost; 0: never.
    signs : dict of int to Sign
        What has been heard, by rank. Who has never been heard of is not judged: the network may not let it through.
    """

    rank: int
    silent: float
    stalled: float
    signs: dict[int, Sign] = field(default_factory=dict)

    def hear(self, rank: int, now: float, host: str, place: str) -> None:
        """Note a sign of life."""
        self.signs[rank] = Sign(now, host, place)

    def forgive(self, now: float) -> None:
        """Begin all waits anew: this process itself was not running."""
        for sign in self.signs.values():
            sign.at = now

    def verdict(self, now: float, beat_at: float, place: str) -> str | None:
        """Return what is wrong, or None; `beat_at` and `place` are this rank's own last step."""
        patience = self.silent + (PATIENCE_WITH_ROOT if self.rank else 0)
        if self.silent:
            for rank, sign in sorted(self.signs.items()):
                if now - sign.at > patience:
                    return f"rank {rank} on {sign.host} has been silent for {now - sign.at:.0f} s, last at {sign.place}"
        if self.stalled and now - beat_at > self.stalled:
            return f"rank {self.rank} has not advanced for {now - beat_at:.0f} s, last at {place}{self._behind(place)}"
        return None

    def _behind(self, place: str) -> str:
        others = [f"rank {rank} at {sign.place}" for rank, sign in sorted(self.signs.items()) if sign.place != place]
        return f" ({', '.join(others[:4])})" if others else ""


class Watchdog:
    """Watch over the ranks of a job while the block runs. Collective at its beginning.

    Parameters
    ----------
    world : World
        Every rank must enter.
    settings : Watchdog
        The section [train.watchdog].
    """

    def __init__(self, world: World, settings: Settings) -> None:
        self._world = world
        self._judge = Judge(world.rank, settings.silent_seconds if world.size > 1 else 0.0, settings.stalled_seconds)
        self._last = (time.monotonic(), "the beginning")
        self._ended = threading.Event()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.settimeout(BEAT_SECONDS / 4)
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
        self._peers: dict[int, tuple[str, int]] = {}

    def beat(self, place: str) -> None:
        """Say that this rank advances; `place` is where it is now."""
        self._last = (time.monotonic(), place)

    def __enter__(self) -> Watchdog:
        one_node = self._world.local_size == self._world.size
        if self._world.is_root:
            self._socket.bind(("127.0.0.1" if one_node else "", 0))
        host = "127.0.0.1" if one_node else socket.gethostname()
        # Other jobs' datagrams, if any come by, do not know the token.
        port = self._socket.getsockname()[1] if self._world.is_root else 0
        (*root, self._token) = self._world.bcast((host, port, secrets.token_hex(8)))
        if not self._world.is_root:
            self._peers[0] = (str(root[0]), int(root[1]))
        self.beat("the beginning")
        if self._judge.silent or self._judge.stalled:
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(2 * BEAT_SECONDS)
        self._socket.close()

    def _run(self) -> None:
        sent = looked = time.monotonic()
        self._speak()  # at once: who is stopped within the first second is known all the same
        while not self._ended.is_set():
            self._listen()
            now = time.monotonic()
            if now - looked > max(2 * BEAT_SECONDS, self._judge.silent / 2):
                self._judge.forgive(now)
                self.beat(self._last[1])
            looked = now
            if now - sent > BEAT_SECONDS:
                sent = now
                self._speak()
            if (problem := self._judge.verdict(now, *self._last)) is not None:
                self._end(problem)
                return

    def _listen(self) -> None:
        """Take what has come, waiting a moment for it."""
        end = time.monotonic() + BEAT_SECONDS / 4
        try:
            while time.monotonic() < end:
                content, address = self._socket.recvfrom(LARGEST)
                self._note(content, address)
        except OSError:
            return  # nothing came

    def _note(self, content: bytes, address: tuple[str, int]) -> None:
        try:
            token, rank, host, place = json.loads(content)
        except ValueError:
            return
        if token == self._token and isinstance(rank, int) and 0 <= rank < self._world.size:
            self._judge.hear(rank, time.monotonic(), str(host), str(place))
            if rank not in self._peers:
                self._peers[rank] = address
                self._speak()

    def _speak(self) -> None:
        """Send a sign of life: to rank 0, and from it to all that it has heard of."""
        message = json.dumps((self._token, self._world.rank, socket.gethostname(), self._last[1])).encode()
        for address in self._peers.values():
            try:
                self._socket.sendto(message, address)
            except OSError:
                continue  # the network is away: silence will tell

    def _end(self, problem: str) -> None:
        print(f"hpc-galaxy: watchdog: {problem}; the job ends here; {REMEDY}", file=sys.stderr, flush=True)
        killer = threading.Thread(target=self._world.abort, args=(STUCK,), daemon=True)
        killer.start()
        killer.join(ABORT_SECONDS)
        os._exit(STUCK)  # where MPI itself is stuck, the launcher ends the others
