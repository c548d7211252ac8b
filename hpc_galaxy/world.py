"""Who am I: rank, size, place on the node. The only module that imports mpi4py."""

from __future__ import annotations

import atexit
import os
import select
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from hpc_galaxy.collector import spare_the_collector
from hpc_galaxy.errors import HpcGalaxyError, LaunchError, PreemptedError

T = TypeVar("T")

# Where each launcher tells a process how many of it were started. The order matters: inside a Slurm job `mpirun` starts its
# own daemons with srun, so SLURM_* then counts daemons, not ranks.
LAUNCHERS = (
    ("mpirun", "OMPI_COMM_WORLD_SIZE"),
    ("mpiexec", "PMI_SIZE"),
    ("srun", "SLURM_STEP_NUM_TASKS"),
)
GRACE_SECONDS = 2.0
FORWARD_SECONDS = 0.5  # in which a launcher passes on what was said: Slurm drops what has not arrived when a rank's end ends the step
POLLS = 200  # of ranks that have to wait, before they sleep: some hundred microseconds
SHORTEST_PAUSE, LONGEST_PAUSE = 1e-4, 5e-3  # seconds; a barrier has log2(ranks) rounds, each of which may find its rank asleep
NAMED = 4  # ranks that a message names
INTERRUPTED = 130  # what a shell reports of a program that ended by Ctrl-C
CLOSED_PIPE = 141  # and of one whose reader, such as ``head``, has seen enough


@dataclass(frozen=True)
class World:
    """The processes of one job, as seen by one of them.

    Plain integers and a communicator, passed as an argument and never global: what rank 731 of 1,000 does can be tested
    without MPI.

    Attributes
    ----------
    rank, size : int
        This process's number and the number of processes.
    local_rank, local_size : int
        The same on this node.
    launcher : str
        ``serial``, ``mpirun``, ``mpiexec``, ``srun``, or ``torchrun`` where training joins its ranks.
    threads : bool
        Whether several threads may speak MPI at once.
    comm : mpi4py.MPI.Comm or None
        None when the job is a single process started without a launcher.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    launcher: str = "serial"
    threads: bool = False
    comm: Any = field(default=None, repr=False, compare=False)

    @property
    def is_root(self) -> bool:
        """Whether this is rank 0, the one that talks and writes what is common to all."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> list[T]:
        """Return this rank's part of `items`: every size-th, beginning at its rank."""
        return list(items[self.rank :: self.size])

    def say(self, text: str) -> None:
        """Print `text` on rank 0, at once."""
        if self.is_root:
            print(text, flush=True)

    def barrier(self) -> None:
        """Wait until every rank is here, asleep: what waits for one rank's work leaves that work the processor."""
        if self.comm is None:
            return
        arrived, pause = self.comm.Ibarrier(), SHORTEST_PAUSE
        for _ in range(POLLS):
            if arrived.Test():
                return
        while not arrived.Test():
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def meet(self) -> None:
        """Wait until every rank is here, awake: for ranks that arrive at nearly the same time, many times a second."""
        if self.comm is not None:
            self.comm.Barrier()

    def bcast(self, value: T) -> T:
        """Return rank 0's `value` on every rank."""
        self.barrier()
        return value if self.comm is None else self.comm.bcast(value, root=0)

    def gather(self, value: T) -> list[T]:
        """Return every rank's `value`, in rank order, on rank 0; an empty list elsewhere."""
        self.barrier()
        return [value] if self.comm is None else self.comm.gather(value, root=0) or []

    def allgather(self, value: T) -> list[T]:
        """Return every rank's `value`, in rank order, on every rank."""
        self.barrier()
        return [value] if self.comm is None else self.comm.allgather(value)

    def exchange(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        """Send ``parts[r]`` to rank r; return what all ranks sent to this one, in rank order, end to end.

        Parameters
        ----------
        parts : sequence of ndarray, shape (n,), all of one structured or plain dtype without objects
            One a rank.
        """
        if self.comm is None:
            return np.array(parts[0])
        from mpi4py import MPI

        counts = np.array([len(part) for part in parts])
        expected = np.empty_like(counts)
        self.comm.Alltoall(counts, expected)
        sent, received = np.concatenate(parts), np.empty(expected.sum(), parts[0].dtype)
        # Rows, not bytes, are counted: MPI counts to 2^31.
        row = MPI.BYTE.Create_contiguous(parts[0].dtype.itemsize).Commit()
        self.comm.Alltoallv([sent.view("V1"), counts, row], [received.view("V1"), expected, row])
        row.Free()
        return received

    def sum(self, values: np.ndarray) -> np.ndarray:
        """Return the element-wise sum of `values` over the ranks, on every rank."""
        self.barrier()
        if self.comm is None:
            return np.array(values)
        total = np.empty_like(values)
        self.comm.Allreduce(np.ascontiguousarray(values), total)
        return total

    def max(self, value: int) -> int:
        """Return the largest `value` of all ranks, on every rank."""
        if self.comm is None:
            return value
        from mpi4py import MPI

        largest = np.empty(1, np.int64)
        self.comm.Allreduce(np.array([value], np.int64), largest, op=MPI.MAX)
        return int(largest[0])

    def sum_in_place(self, values: np.ndarray) -> None:
        """Replace `values` by their element-wise sum over the ranks."""
        if self.comm is not None:
            from mpi4py import MPI

            self.comm.Allreduce(MPI.IN_PLACE, values)

    def send_number(self, number: int, to: int) -> None:
        """Send a number of at most 63 bits to the rank `to`, which has to receive it."""
        self.comm.send(number, dest=to)

    def receive_number(self, source: int) -> int:
        """Return the number that the rank `source` sends."""
        return int(self.comm.recv(source=source))

    def abort(self, code: int) -> None:
        """End every rank of the job at once with exit code `code`."""
        sys.stdout.flush()
        sys.stderr.flush()
        if self.comm is not None:
            self.comm.Abort(code)
        raise SystemExit(code)


def listed(ranks: Sequence[int]) -> str:
    """Return ``rank 3``, ``ranks 3, 4, 5`` or, of many, ``ranks 3, 4, 5, 6 and 90 more``."""
    names = ", ".join(map(str, ranks[:NAMED]))
    more = f" and {len(ranks) - NAMED} more" if len(ranks) > NAMED else ""
    return f"rank{'s' * (len(ranks) > 1)} {names}{more}"


def expected_size(environ: Mapping[str, str]) -> tuple[str, int] | None:
    """Return the launcher's name and the number of processes it says it started, or None without a launcher."""
    for launcher, variable in LAUNCHERS:
        if environ.get(variable, "").isdigit():
            # srun --mpi=pmi2 sets PMI_SIZE as well.
            by_srun = environ[variable] == environ.get("SLURM_STEP_NUM_TASKS") and launcher == "mpiexec"
            return "srun" if by_srun else launcher, int(environ[variable])
    return None


def check_size(launcher: str, expected: int, found: int) -> None:
    """Refuse a job of N processes that each believe they are alone.

    This happens when the launcher and the MPI library do not speak the same start-up protocol. Without the check the job
    would do its work N times, each copy as "rank 0 of 1", and exit 0.

    Raises
    ------
    LaunchError
        The MPI library's size differs from the launcher's.
    """
    if expected == found:
        return
    remedy = {
        "srun": "give srun the protocol your MPI speaks: --mpi=pmix (Open MPI) or --mpi=pmi2 (MPICH); 'srun --mpi=list' shows them",
    }.get(launcher, "use the mpirun/mpiexec of the MPI that mpi4py found; 'hpc-galaxy doctor' names it")
    raise LaunchError(launcher, f"{expected} processes were started, but MPI sees {found}, expected {expected}", remedy)


def detect(environ: Mapping[str, str] = os.environ) -> World:
    """Build the world from what the launcher and MPI say.

    Without a launcher the world is serial and mpi4py is not imported.

    Raises
    ------
    LaunchError
        The launch cannot work: torchrun, no mpi4py, or N copies of rank 0.
    """
    spare_the_collector()
    # Also where srun has started the torchruns: MPI would then find as many ranks as there are torchruns, or none.
    if "TORCHELASTIC_RUN_ID" in environ:
        raise LaunchError("torchrun", "ranks find each other through MPI here", "start with mpirun or srun")
    launch = expected_size(environ)
    if launch is None:
        return World()
    launcher, expected = launch
    # Ranks (and Horovod's thread) that wait must give their core to those that compute: spinning costs up to half the
    # throughput of CPU training. Open MPI reads this when it starts; a user's own setting stands.
    os.environ.setdefault("OMPI_MCA_mpi_yield_when_idle", "1")
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise LaunchError(launcher, f"mpi4py cannot be used ({error})", "see 'hpc-galaxy doctor'") from error
    atexit.register(_leave_mpi)  # what is registered from now on, such as Horovod's end, is called before it
    comm = MPI.COMM_WORLD
    check_size(launcher, expected, comm.size)
    # Under srun Open MPI's own answer depends on what Slurm's PMIx plugin tells it: seen to be that every rank is alone on its node.
    nodeid = environ.get("SLURM_NODEID", "") if launcher == "srun" else ""
    node = comm.Split(int(nodeid), comm.rank) if nodeid.isdigit() else comm.Split_type(MPI.COMM_TYPE_SHARED)
    threads = MPI.Query_thread() == MPI.THREAD_MULTIPLE
    world = World(comm.rank, comm.size, node.rank, node.size, launcher, threads, comm)
    node.Free()
    return world


def _leave_mpi() -> None:
    """Tell MPI that this rank has come to its end, for a process that does not wait for Python's."""
    from mpi4py import MPI

    if MPI.Is_initialized() and not MPI.Is_finalized():
        MPI.Finalize()


@contextmanager
def guard(world: World) -> Iterator[None]:
    """End the whole job when the block fails on any rank, so that no other rank waits for it for ever.

    A user's mistake is shown as one line, anything else as that rank's traceback.
    """
    try:
        yield
    except PreemptedError as stop:
        # All ranks leave together, and none is killed while it still writes.
        world.barrier()
        world.say(f"hpc-galaxy: {stop}")
        _let_it_pass_on()
        raise SystemExit(stop.exit_code) from None
    except HpcGalaxyError as error:
        if not world.is_root:
            # Most mistakes show on every rank alike: let rank 0 speak for all and end the job.
            time.sleep(GRACE_SECONDS)
        _complain(f"hpc-galaxy: error: {error}")
        world.abort(error.exit_code)
    except SystemExit as leaving:
        if isinstance(leaving.code, str):
            _complain(leaving.code)
        if leaving.code not in (None, 0):
            world.abort(leaving.code if isinstance(leaving.code, int) else 1)
    except KeyboardInterrupt:
        if world.is_root:
            print("hpc-galaxy: interrupted", file=sys.stderr)
        world.abort(INTERRUPTED)
    except BaseException as error:
        if isinstance(error, BrokenPipeError) and _reader_has_left():
            world.abort(CLOSED_PIPE)
        lines = traceback.format_exc().splitlines()
        _complain("\n".join(f"rank {world.rank}: {line}" for line in lines))
        world.abort(1)


def _complain(text: str) -> None:
    """Print what went wrong, in one piece and so that it arrives."""
    print(f"{text}\n", end="", file=sys.stderr, flush=True)
    _let_it_pass_on()


def _let_it_pass_on() -> None:
    if expected_size(os.environ) is not None:
        time.sleep(FORWARD_SECONDS)


def _reader_has_left() -> bool:
    """Return whether nobody reads what is printed; then nothing more is printed, and Python does not complain of it at its end."""
    try:
        asked = select.poll()
        asked.register(sys.stdout.fileno(), 0)
    except (OSError, ValueError):  # no file behind it
        return False
    if not any(events & select.POLLERR for _, events in asked.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True
