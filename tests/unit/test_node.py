"""How ranks share a node's cores, on nodes that we do not have; and what torchrun's environment has to say. Without torch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import AllHere
from hypothesis import given
from hypothesis import strategies as st
from patience import patience

from hpc_galaxy.config import Train
from hpc_galaxy.errors import ConfigError, LaunchError
from hpc_galaxy.training import node
from hpc_galaxy.training.node import Layout, prepare_node, read_cores, require_bfloat16, set_environment, share_node, threads_per_rank
from hpc_galaxy.training.torchrun import check_launch, launched_by_torchrun
from hpc_galaxy.world import World

# Two sockets of 4 cores with two threads each, numbered as Linux does: first threads first.
CORES = [(number, number + 8) for number in range(8)]
ALL = set(range(16))


def make_topology(directory: Path) -> Path:
    """Write what Linux says of such a node, with the sockets' cores taking turns, as on some machines."""
    for number in range(16):
        topology = directory / f"cpu{number}" / "topology"
        topology.mkdir(parents=True)
        (topology / "thread_siblings_list").write_text(f"{number % 8},{number % 8 + 8}\n")
        (topology / "physical_package_id").write_text(f"{number % 2}\n")
    (directory / "cpufreq").mkdir()
    return directory


def test_cores_of_a_socket_are_side_by_side(tmp_path: Path) -> None:
    cores = read_cores(make_topology(tmp_path))
    assert cores == [(0, 8), (2, 10), (4, 12), (6, 14), (1, 9), (3, 11), (5, 13), (7, 15)]
    assert share_node([ALL, ALL], 2, 0, cores).numbers == [[0, 2, 4, 6, 8, 10, 12, 14], [1, 3, 5, 7, 9, 11, 13, 15]]


def test_this_machine_has_the_cores_that_it_has() -> None:
    cores = read_cores(node.CPUS)
    assert os.sched_getaffinity(0) <= set().union(*cores) or not cores
    assert 1 <= threads_per_rank(World(), 0) <= len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("allowed", "asked", "threads", "numbers"),
    [
        # Free to roam: equal parts of whole cores, one thread a core, both numbers of each.
        ([ALL] * 2, 0, 4, [[0, 1, 2, 3, 8, 9, 10, 11], [4, 5, 6, 7, 12, 13, 14, 15]]),
        ([ALL] * 8, 0, 1, [[number, number + 8] for number in range(8)]),
        # A core is left over for whoever needs it.
        ([ALL] * 3, 0, 2, [[0, 1, 8, 9], [2, 3, 10, 11], [4, 5, 12, 13]]),
        # Fewer threads than cores: the rest serves the threads that read and send.
        ([ALL] * 2, 1, 1, [[0, 1, 2, 3, 8, 9, 10, 11], [4, 5, 6, 7, 12, 13, 14, 15]]),
        # A part of the node only, and one number of each core.
        ([{0, 1, 2, 3}] * 2, 0, 2, [[0, 1], [2, 3]]),
        ([ALL], 0, 8, [sorted(ALL)]),
    ],
)
def test_ranks_that_are_free_get_parts(allowed: list[set[int]], asked: int, threads: int, numbers: list[list[int]]) -> None:
    share = share_node(allowed, len(allowed), asked, CORES)
    assert (share.threads, share.free, share.numbers) == (threads, True, numbers)


@pytest.mark.parametrize(
    ("allowed", "asked", "threads"),
    [
        ([ALL] * 16, 0, 1),  # more ranks than cores
        ([ALL] * 2, 5, 5),  # more threads than cores
        ([{0, 8}, {1, 9}], 0, 1),  # bound by the launcher
        ([{0, 1}, {0, 1, 2, 3}], 0, 2),
    ],
)
def test_others_stay_where_they_are(allowed: list[set[int]], asked: int, threads: int) -> None:
    share = share_node(allowed, len(allowed), asked, CORES)
    assert (share.threads, share.free) == (threads, False)
    assert share.numbers == [sorted(numbers) for numbers in allowed]


def test_without_a_topology_each_number_is_a_core() -> None:
    assert share_node([{0, 1, 5, 6}] * 2, 2, 0, []).numbers == [[0, 1], [5, 6]]


@given(st.integers(1, 20), st.sets(st.integers(0, 30), min_size=1), st.integers(0, 4))
def test_parts_never_overlap(ranks: int, union: set[int], asked: int) -> None:
    share = share_node([union] * ranks, ranks, asked, CORES)
    assert share.threads >= 1
    if share.free:
        together = [number for numbers in share.numbers for number in numbers]
        assert len(together) == len(set(together))
        assert set(together) <= union
        assert all(len(numbers) >= share.threads for numbers in share.numbers)


class Node(AllHere):
    """A communicator between ranks of which only one is there: the others are like it."""

    def __init__(self, size: int) -> None:
        self.size = size

    def allgather(self, value: tuple[str, int, list[int]]) -> list[tuple[str, int, list[int]]]:
        host, _, numbers = value
        here = [(host, rank, numbers) for rank in range(self.size)]
        return [("elsewhere", 0, [0]), *reversed(here)]


@pytest.fixture
def bound(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[list[int]]:
    """What processes of the node described above are bound to."""
    bound: list[list[int]] = []
    monkeypatch.setattr(node, "CPUS", make_topology(tmp_path))
    monkeypatch.setattr(node.os, "sched_getaffinity", lambda pid: ALL)
    monkeypatch.setattr(node.os, "sched_setaffinity", lambda pid, numbers: bound.append(list(numbers)))
    for name in set_environment({}, 1):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return bound


def test_ranks_are_bound_and_the_user_is_told(bound: list[list[int]]) -> None:
    world = World(3, 9, local_rank=2, local_size=8, comm=Node(8))
    layout = prepare_node(Train(bind=True), world)

    assert bound == [[4, 12]]
    assert (layout.ranks, layout.threads) == ("9 ranks x 1 thread", 1)
    assert layout.sentence.startswith("8 ranks a node, bound to cores 0,8; 2,10; 4,12; ...; OMP_NUM_THREADS=1, KMP_BLOCKTIME=1, ")
    assert os.environ["OMP_NUM_THREADS"] == "1"


def test_ranks_are_left_alone_where_that_is_asked_for(bound: list[list[int]]) -> None:
    free = prepare_node(Train(bind=False), World(0, 2, local_size=2, comm=Node(2)))
    assert "free to roam" in free.sentence
    assert "1 rank a node, on cores 0-15" in prepare_node(Train(bind=True), World()).sentence
    many = prepare_node(Train(bind=True), World(0, 16, local_size=16, comm=Node(16)))
    assert "16 ranks a node, which share cores 0-15" in many.sentence
    assert bound == []


def test_what_is_set_stands() -> None:
    environ = {"OMP_NUM_THREADS": "3"}
    assert set_environment(environ, 2)["OMP_NUM_THREADS"] == environ["OMP_NUM_THREADS"] == "3"
    assert environ["MKL_NUM_THREADS"] == "2"
    assert "OMP_PROC_BIND" not in environ


def test_layout_counts() -> None:
    assert Layout(World(0, 1), 2, "").ranks == "1 rank x 2 threads"


def test_bfloat16_is_refused_where_it_is_slow(bound: list[list[int]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    slow, fast = "model name : Old\nflags : avx2 avx512f\n", "flags : avx512f avx512_bf16\n"
    with pytest.raises(ConfigError, match=r"'bfloat16' on Old, .*; leave it at 'float32'"):
        require_bfloat16(slow, forced=False, gpu=False)
    require_bfloat16(slow, forced=True, gpu=False)
    require_bfloat16(slow, forced=False, gpu=True)
    require_bfloat16(fast, forced=False, gpu=False)
    require_bfloat16("Features : asimd bf16\n", forced=False, gpu=False)

    (tmp_path / "cpuinfo").write_text(slow)
    monkeypatch.setattr(node, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(node, "_has_gpu", lambda: False)
    with pytest.raises(ConfigError, match=r"train\.precision"):
        prepare_node(Train(precision="bfloat16"), World())
    prepare_node(Train(precision="bfloat16", force_bfloat16=True), World())
    prepare_node(Train(), World())


ONE_NODE = {
    "TORCHELASTIC_RUN_ID": "none",
    "RANK": "1",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "GROUP_WORLD_SIZE": "2",
    "MASTER_ADDR": "localhost",
    "MASTER_PORT": "1",
}


def test_a_job_of_torchrun() -> None:
    assert launched_by_torchrun(ONE_NODE)
    assert not launched_by_torchrun({"RANK": "1", "WORLD_SIZE": "4"})
    assert check_launch(ONE_NODE) == (1, 4, 1, 2)
    # One torchrun a node, started by a cluster's launcher.
    assert check_launch({**ONE_NODE, "SLURM_STEP_NUM_TASKS": "2"}) == (1, 4, 1, 2)


@pytest.mark.parametrize("variable", ["SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE"])
def test_several_torchruns_that_do_not_know_each_other_are_refused(variable: str) -> None:
    with pytest.raises(LaunchError, match=r"started it 4 times, .* on 2 nodes; give torchrun --nnodes=4"):
        check_launch({**ONE_NODE, variable: "4"})


def test_half_an_environment_is_refused() -> None:
    with pytest.raises(LaunchError, match="WORLD_SIZE, MASTER_PORT not set"):
        check_launch({name: value for name, value in ONE_NODE.items() if name not in ("WORLD_SIZE", "MASTER_PORT")})


def test_the_node_is_prepared_before_torch_is_imported() -> None:
    program = (
        "import sys, hpc_galaxy.training.node, hpc_galaxy.training.torchrun, hpc_galaxy.training.parallel; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=patience(60))
    assert done.stdout == "False\n"
