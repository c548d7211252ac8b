"""A watch over all ranks, which ends a job that no longer advances.

Neither MPI nor Horovod notices a rank that is stopped (SIGSTOP, a node that hangs): the others wait for it for ever. Here a
thread of each rank sends rank 0 a sign of life every second, and rank 0 answers some of them. UDP, because nothing may wait for it.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType

from hpc_galaxy.config.training import Watchdog as Settings
from hpc_galaxy.errors import PreemptedError
from hpc_galaxy.world import NAMED, World, listed

STUCK = 76  # the exit code of a job that the watchdog has ended
BEAT_SECONDS = 1.0
PATIENCE_WITH_ROOT = 5.0  # rank 0 knows all and speaks first; others do only where it does not
UNHEARD_SECONDS = 60.0  # after which rank 0 says who has never been heard of
ABORT_SECONDS = 3.0
WATCHERS = 16  # who hear of rank 0. Any one of them can end the job, and answering 999 would cost rank 0 as much as hearing them
BUFFER = 1 << 22  # bytes; a thousand ranks may speak in the same millisecond. The system gives as much of it as it likes
LARGEST = 2048  # bytes of a datagram
LONGEST = 300  # characters of a place
PACKAGE = __name__.partition(".")[0] + "."
REMEDY = "start the same command again: it continues"


@dataclass
class Sign:
    """The last that was heard of a rank.

    Attributes
    ----------
    at : float
        When, by the hearer's clock.
    host, place : str
        Where the rank runs, and where in its work it was.
    doing : str
        The function that its main thread was in.
    """

    at: float
    host: str = ""
    place: str = ""
    doing: str = ""


@dataclass
class Judge:
    """Decides who is silent. Plain numbers in, a sentence out: no clock, no network.

    Attributes
    ----------
    rank : int
        The rank that this is of.
    silent, stalled : float
        Seconds after which a rank is taken for lost; 0: never. Ranks other than 0 are given `PATIENCE_WITH_ROOT` more.
    signs : dict of int to Sign
        What has been heard, by rank. Who has never been heard of is not judged: the network may not let it through.
    """

    rank: int
    silent: float
    stalled: float
    signs: dict[int, Sign] = field(default_factory=dict)

    def hear(self, rank: int, now: float, host: str, place: str, doing: str = "") -> None:
        """Note a sign of life."""
        self.signs[rank] = Sign(now, host, place, doing)

    def forgive(self, now: float) -> None:
        """Begin all waits anew: this process itself was not running."""
        for sign in self.signs.values():
            sign.at = now

    def verdict(self, now: float, own: Sign) -> str | None:
        """Return what is wrong, or None; `own` is this rank's last step and what it does now."""
        more = PATIENCE_WITH_ROOT if self.rank else 0.0
        if self.silent:
            for rank, sign in sorted(self.signs.items()):
                if now - sign.at > self.silent + more:
                    doing = f", in {sign.doing}" if sign.doing else ""
                    return f"rank {rank} on {sign.host} has been silent for {now - sign.at:.0f} s, last at {sign.place}{doing}"
        if self.stalled and now - own.at > self.stalled + more:
            where = f"last at {own.place}, in {own.doing}{self._elsewhere(own)}"
            return f"rank {self.rank} on {own.host} has not advanced for {now - own.at:.0f} s, {where}"
        return None

    def unheard(self, size: int) -> list[int]:
        """Return the ranks of a job of `size` that have never been heard of."""
        return [rank for rank in range(size) if rank != self.rank and rank not in self.signs]

    def _elsewhere(self, own: Sign) -> str:
        """Say what ranks are elsewhere than this one, the fewest first: the one that all others wait for does something else."""
        groups: dict[tuple[str, str], list[int]] = {}
        for rank, sign in sorted(self.signs.items()):
            if (sign.place, sign.doing) != (own.place, own.doing):
                groups.setdefault((sign.place, sign.doing), []).append(rank)
        rarest = sorted(groups.items(), key=lambda group: len(group[1]))[:NAMED]
        told = [f"{listed(ranks)} at {place}, in {doing}" for (place, doing), ranks in rarest]
        return f" ({'; '.join(told)})" if told else ""


def watches_root(rank: int, size: int) -> bool:
    """Return whether rank 0 sends signs of life to this one: about `WATCHERS` ranks do, spread over the job and so over its nodes."""
    return rank % -(-(size - 1) // WATCHERS) == 0


def main_thread_is_in() -> str:
    """Return the innermost function of this package that the main thread is in, as ``function (module:line)``."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    stack = (
        [(inner.f_globals.get("__name__", ""), inner.f_code.co_name, line) for inner, line in traceback.walk_stack(frame)] if frame else []
    )
    module, function, line = next((place for place in stack if place[0].startswith(PACKAGE)), stack[0] if stack else ("", "nothing", 0))
    return f"{function} ({module.removeprefix(PACKAGE)}:{line})"


@contextmanager
def watched(world: World, silent: float, stage: str) -> Iterator[None]:
    """Watch over the ranks of a stage for which only silence counts: how long an item of its work may take is not known. Collective.

    Parameters
    ----------
    world : World
        Every rank must enter.
    silent : float
        Seconds, `watchdog.silent_seconds`.
    stage : str
        Its verb, for the message.
    """
    if world.size == 1:
        yield
        return
    with Watchdog(world, Settings(silent_seconds=silent, stalled_seconds=0)) as watchdog:
        watchdog.beat(stage)
        yield


class Watchdog:
    """Watch over the ranks of a job while the block runs. Collective at its beginning, and at its end unless that is an error.

    Parameters
    ----------
    world : World
        Every rank must enter.
    settings : Watchdog
        The section [train.watchdog], or what other stages make of [watchdog].
    """

    def __init__(self, world: World, settings: Settings) -> None:
        self._world = world
        self._judge = Judge(world.rank, settings.silent_seconds if world.size > 1 else 0.0, settings.stalled_seconds)
        self._last = (time.monotonic(), "the beginning")
        self._ended = threading.Event()
        self._host = socket.gethostname()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.settimeout(BEAT_SECONDS / 4)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
        self._peers: dict[int, tuple[str, int]] = {}

    def beat(self, place: str) -> None:
        """Say that this rank advances; `place` is where it is now."""
        self._last = (time.monotonic(), place)

    def __enter__(self) -> Watchdog:
        one_node = self._world.local_size == self._world.size
        if self._world.is_root:
            self._socket.bind(("127.0.0.1" if one_node else "", 0))
        host = "127.0.0.1" if one_node else self._host
        # Other jobs' datagrams, if any come by, do not begin with the token.
        port = self._socket.getsockname()[1] if self._world.is_root else 0
        self._root_host, self._root_port, self._token = self._world.bcast((host, port, secrets.token_hex(8).encode()))
        self.beat("the beginning")
        if self._judge.silent or self._judge.stalled:
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None or issubclass(kind, PreemptedError):
            # Who is done early (rank 0 may still write) must give signs of life until all are.
            self._world.barrier()
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(2 * BEAT_SECONDS)
        self._socket.close()

    def _run(self) -> None:
        self._find_root()
        begun = looked = spoke = time.monotonic()
        self._speak(self._peers.values())  # at once: who is stopped within the first second is known all the same
        told = False
        while not self._ended.is_set():
            self._listen()
            now = time.monotonic()
            if now - looked > max(2 * BEAT_SECONDS, self._judge.silent / 2):
                self._judge.forgive(now)
                self.beat(self._last[1])
            looked = now
            if now - spoke > BEAT_SECONDS:
                spoke = now
                self._speak(self._peers.values())
            if not told and now - begun > UNHEARD_SECONDS:
                told = True
                self._tell_unheard()
            if (problem := self._judge.verdict(now, self._own())) is not None:
                self._end(problem)
                return

    def _find_root(self) -> None:
        """Look up rank 0's address, once: a name server may be slow, and a thousand ranks would ask it every second."""
        if self._world.rank and self._judge.silent:
            try:
                self._peers[0] = (socket.gethostbyname(self._root_host), self._root_port)
            except OSError as error:
                print(
                    f"hpc-galaxy: watchdog: rank {self._world.rank} on {self._host} cannot find {self._root_host} ({error})",
                    file=sys.stderr,
                )

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
        if not content.startswith(self._token):
            return
        rank, host, place, doing = json.loads(content[len(self._token) :])
        self._judge.hear(rank, time.monotonic(), host, place, doing)
        if rank not in self._peers and watches_root(rank, self._world.size):
            self._peers[rank] = address
            self._speak([address])

    def _own(self) -> Sign:
        at, place = self._last
        return Sign(at, self._host, place[:LONGEST], main_thread_is_in())

    def _speak(self, addresses: Iterable[tuple[str, int]]) -> None:
        """Send a sign of life."""
        own = self._own()
        message = self._token + json.dumps((self._world.rank, own.host, own.place, own.doing)).encode()
        for address in addresses:
            try:
                self._socket.sendto(message, address)
            except OSError:
                continue  # the network is away: silence will tell

    def _tell_unheard(self) -> None:
        """Say whom nobody watches over."""
        missing = self._judge.unheard(self._world.size)
        if self._world.is_root and self._judge.silent and missing:
            told = f"nothing has been heard of {listed(missing)} of {self._world.size} for {UNHEARD_SECONDS:.0f} s"
            print(f"hpc-galaxy: watchdog: {told}, and nobody will notice if they stop; does the network let UDP through?", file=sys.stderr)

    def _end(self, problem: str) -> None:
        killer = threading.Thread(target=self._abort, args=(problem,), daemon=True)
        killer.start()
        killer.join(ABORT_SECONDS)
        os._exit(STUCK)  # where MPI itself or a pipe is stuck, the launcher ends the others

    def _abort(self, problem: str) -> None:
        print(f"hpc-galaxy: watchdog: {problem}; the job ends here; {REMEDY}", file=sys.stderr, flush=True)
        self._world.abort(STUCK)
