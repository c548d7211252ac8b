"""Rank 731 of 1,000, launchers that lie, and what the guard does with failures; all without MPI."""

from __future__ import annotations

import subprocess
import sys
from subprocess import PIPE

import numpy as np
import pytest
from patience import patience

from hpc_galaxy import world as module
from hpc_galaxy.errors import InputError, LaunchError
from hpc_galaxy.world import World, check_size, detect, expected_size, guard


class Comm:
    """Notes the exit code of Abort, which does not return in a real job."""

    def __init__(self) -> None:
        self.aborted: list[int] = []

    def Abort(self, code: int) -> None:  # noqa: N802
        self.aborted.append(code)


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
@pytest.mark.parametrize("items", [0, 1, 999, 5003])
def test_shares_cover_everything_exactly_once(size: int, items: int) -> None:
    shares = [World(rank, size).share(range(items)) for rank in range(size)]

    assert sorted(item for share in shares for item in share) == list(range(items))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_rank_731_of_1000() -> None:
    world = World(rank=731, size=1000, local_rank=59, local_size=64)

    assert not world.is_root
    assert world.share(range(2000)) == [731, 1731]


def test_a_serial_world_talks_to_itself(capsys: pytest.CaptureFixture[str]) -> None:
    world, values = World(), np.array([1.0, 2.0])
    world.barrier()
    total = world.sum(values)
    total[0] = 7
    world.say("hello")

    assert world.bcast("a") == "a"
    assert world.gather("a") == world.allgather("a") == ["a"]
    assert values[0] == 1
    assert capsys.readouterr().out == "hello\n"


class Late:
    """A barrier at which the last rank arrives after it was looked for so many times."""

    def __init__(self, polls: int) -> None:
        self.polls = polls

    def Ibarrier(self) -> Late:  # noqa: N802
        return self

    def Test(self) -> bool:  # noqa: N802
        self.polls -= 1
        return self.polls <= 0


@pytest.mark.parametrize(("polls", "sleeps"), [(1, 0), (module.POLLS, 0), (module.POLLS + 11, 10)])
def test_ranks_that_wait_for_long_sleep(monkeypatch: pytest.MonkeyPatch, polls: int, sleeps: int) -> None:
    slept: list[float] = []
    monkeypatch.setattr(module.time, "sleep", slept.append)
    comm = Late(polls)
    World(0, 2, comm=comm).barrier()

    assert comm.polls == 0
    assert len(slept) == sleeps and slept == sorted(slept) and all(1e-4 <= pause <= 5e-3 for pause in slept)


def test_only_rank_0_says_something(capsys: pytest.CaptureFixture[str]) -> None:
    World(1, 2).say("hello")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, ("mpirun", 4)),
        ({"PMI_SIZE": "8"}, ("mpiexec", 8)),
        ({"SLURM_STEP_NUM_TASKS": "2"}, ("srun", 2)),
        # Inside a Slurm job mpirun starts its daemons with srun, one a node.
        ({"SLURM_STEP_NUM_TASKS": "2", "OMPI_COMM_WORLD_SIZE": "64"}, ("mpirun", 64)),
        ({"SLURM_STEP_NUM_TASKS": "2", "PMI_SIZE": "64"}, ("mpiexec", 64)),
        # srun --mpi=pmi2 sets both.
        ({"SLURM_STEP_NUM_TASKS": "64", "PMI_SIZE": "64"}, ("srun", 64)),
        # A batch script has the job's variables, but is no step of it.
        ({"SLURM_JOB_ID": "5", "SLURM_NTASKS": "64", "SLURM_PROCID": "0"}, None),
        ({"PMI_SIZE": ""}, None),
        ({"PMI_SIZE": "many"}, None),
    ],
)
def test_expected_size(environ: dict[str, str], expected: tuple[str, int] | None) -> None:
    assert expected_size(environ) == expected


def test_equal_sizes_pass() -> None:
    check_size("srun", 64, 64)


def test_copies_of_rank_0_under_srun_name_the_protocol() -> None:
    with pytest.raises(LaunchError, match=r"srun: 64 processes were started, but MPI sees 1.*--mpi=pmix") as caught:
        check_size("srun", 64, 1)
    assert caught.value.exit_code == 3


def test_copies_of_rank_0_under_mpirun_name_the_doctor() -> None:
    with pytest.raises(LaunchError, match=r"mpirun: 2 processes were started.*hpc-galaxy doctor"):
        check_size("mpirun", 2, 1)


def test_without_a_launcher_mpi4py_stays_unimported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    assert detect({}) == World()


def test_without_mpi4py_a_launcher_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(LaunchError, match="mpirun: mpi4py cannot be used"):
        detect({"OMPI_COMM_WORLD_SIZE": "2"})


def test_torchrun_is_refused() -> None:
    with pytest.raises(LaunchError, match="start with mpirun or srun"):
        detect({"TORCHELASTIC_RUN_ID": "none"})


def test_a_mistake_is_one_line_and_its_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    comm = Comm()
    with pytest.raises(SystemExit) as leaving, guard(World(0, 2, comm=comm)):
        raise InputError("a.h5", "is short", "make it again")

    assert leaving.value.code == 1
    assert comm.aborted == [1]
    assert capsys.readouterr().err == "hpc-galaxy: error: a.h5: is short; make it again\n"


def test_other_ranks_let_rank_0_speak_first(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    slept: list[float] = []
    monkeypatch.setattr(module.time, "sleep", slept.append)
    with pytest.raises(SystemExit), guard(World(1, 2, comm=Comm())):
        raise LaunchError("srun", "b", "c")

    assert slept == [module.GRACE_SECONDS]
    assert "srun: b; c" in capsys.readouterr().err


@pytest.mark.parametrize(("environ", "waits"), [({"SLURM_STEP_NUM_TASKS": "2"}, [module.FORWARD_SECONDS]), ({}, [])])
def test_a_launcher_is_given_the_time_to_pass_on_what_was_said(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], waits: list[float]
) -> None:
    """Slurm drops what has not arrived when the first failed rank ends the step."""
    slept: list[float] = []
    monkeypatch.setattr(module.time, "sleep", slept.append)
    monkeypatch.setattr(module.os, "environ", environ)
    for error in (RuntimeError("broken"), InputError("a", "b", "c")):
        with pytest.raises(SystemExit), guard(World(0, 2, comm=Comm())):
            raise error

    assert slept == 2 * waits


def test_ctrl_c_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leaving, guard(World()):
        raise KeyboardInterrupt

    assert leaving.value.code == 130
    assert capsys.readouterr().err == "hpc-galaxy: interrupted\n"


def test_a_reader_that_leaves_ends_it_in_silence() -> None:
    program = "from hpc_galaxy.world import World, guard\nwith guard(World()):\n    input()\n    print('more', flush=True)"
    with subprocess.Popen([sys.executable, "-c", program], stdin=PIPE, stdout=PIPE, stderr=PIPE, text=True) as job:
        assert job.stdin is not None and job.stdout is not None and job.stderr is not None
        job.stdout.close()
        job.stdin.write("\n")
        job.stdin.flush()
        assert (job.wait(patience(60)), job.stderr.read()) == (141, "")


def test_another_broken_pipe_is_a_crash(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leaving, guard(World()):
        raise BrokenPipeError("of a socket")
    assert leaving.value.code == 1 and "of a socket" in capsys.readouterr().err


def test_a_crash_is_a_traceback_with_the_rank(capsys: pytest.CaptureFixture[str]) -> None:
    comm = Comm()
    with pytest.raises(SystemExit) as leaving, guard(World(731, 1000, comm=comm)):
        raise ZeroDivisionError

    lines = capsys.readouterr().err.splitlines()
    assert leaving.value.code == 1
    assert comm.aborted == [1]
    assert all(line.startswith("rank 731: ") for line in lines)
    assert lines[0] == "rank 731: Traceback (most recent call last):"
    assert ZeroDivisionError.__name__ in lines[-1]


@pytest.mark.parametrize(("code", "aborted"), [(None, []), (0, []), (5, [5]), ("text", [1])])
def test_leaving_early(code: object, aborted: list[int], capsys: pytest.CaptureFixture[str]) -> None:
    comm = Comm()
    if aborted:
        with pytest.raises(SystemExit), guard(World(1, 2, comm=comm)):
            sys.exit(code)
    else:
        with guard(World(1, 2, comm=comm)):
            sys.exit(code)

    assert comm.aborted == aborted
    assert ("text" in capsys.readouterr().err) == (code == "text")


def test_a_block_that_ends_well_is_left_alone() -> None:
    with guard(World()):
        pass
