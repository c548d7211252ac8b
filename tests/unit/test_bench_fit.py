"""The link that explains measured allreduces."""

from __future__ import annotations

from collections.abc import Callable
from subprocess import CompletedProcess

import numpy as np
import pytest

from hpc_galaxy.bench.model.allreduce import SIZES, place, sweep
from hpc_galaxy.bench.model.fit import fit_link
from hpc_galaxy.bench.model.messages import Link, fastest
from hpc_galaxy.errors import LaunchError
from hpc_galaxy.world import World

LINK = Link(30e-6, 120e6)


@pytest.mark.parametrize("ranks", [2, 3, 4, 8, 100])
def test_a_link_is_found_again(ranks: int) -> None:
    found = fit_link({size: [fastest(ranks, size, LINK)] for size in SIZES}, ranks)
    assert [found.latency, found.bandwidth] == pytest.approx([LINK.latency, LINK.bandwidth], rel=1e-3)


def test_scattered_times_give_the_link_of_their_medians() -> None:
    rng = np.random.default_rng(5)
    times = {size: list(fastest(2, size, LINK) * (1 + 0.05 * np.abs(rng.standard_normal(201)))) for size in SIZES}
    found = fit_link(times, 2)
    assert found.latency == pytest.approx(1.034 * LINK.latency, rel=0.03)
    assert found.bandwidth == pytest.approx(LINK.bandwidth / 1.034, rel=0.03)


def test_one_rank_has_no_link() -> None:
    with pytest.raises(LaunchError, match="1 rank, expected 2 or more"):
        fit_link({4: [1e-6], 4000: [1e-6]}, 1)


def test_a_sweep_of_one_rank_has_its_shape() -> None:
    found = sweep(World(), (4, 4096), repeats=3)
    assert list(found) == [4, 4096] and [len(times) for times in found.values()] == [3, 3]
    assert all(time > 0 for times in found.values() for time in times)


def test_which_link_ranks_use() -> None:
    assert [place(sizes) for sizes in ([2, 2], [1, 1, 1], [2, 2, 1])] == ["inside", "between", "mixed"]


def test_two_ranks_print_a_link(mpirun: Callable[..., CompletedProcess[str]], tmp_path: object) -> None:
    done = mpirun(2, ["-m", "hpc_galaxy", "bench", "allreduce", "--json", f"{tmp_path}/sweep.jsonl"])
    assert done.returncode == 0, done.stderr
    assert "allreduce of 2 ranks" in done.stdout and "1,415,144" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("inside = { latency = ")


def test_one_process_is_refused(mpirun: Callable[..., CompletedProcess[str]]) -> None:
    done = mpirun(1, ["-m", "hpc_galaxy", "bench", "allreduce"])
    assert done.returncode == LaunchError.exit_code
    assert "bench allreduce: 1 rank, expected 2 or more; start it with mpirun" in done.stderr
