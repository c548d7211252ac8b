"""Ranks under a real Slurm: srun, the singleton trap, scripts without srun, mpirun inside a job. `test_submit` runs the stages there."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

HPC_GALAXY = str(Path(sys.executable).parent / "hpc-galaxy")
WHO_AM_I = "from hpc_galaxy.world import detect; w = detect(); print(f'rank {w.rank} of {w.size} by {w.launcher}', flush=True)"
TWO_NODES = ("--nodes=2", "--ntasks=2", "--ntasks-per-node=1")


def test_srun_with_pmix_starts_one_world_whose_ranks_know_their_neighbours(slurm: Any) -> None:
    where = f"{WHO_AM_I[:-1]}, w.local_rank, 'of', w.local_size)".replace(", flush=True", "")
    done = slurm.srun("--nodes=2", "--ntasks=4", "--ntasks-per-node=2", "--mpi=pmix", sys.executable, "-c", where)

    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == [f"rank {rank} of 4 by srun {rank % 2} of 2" for rank in range(4)]


def test_n_copies_of_rank_0_are_refused(slurm: Any, tmp_path: Path) -> None:
    done = slurm.srun(*TWO_NODES, "--mpi=none", HPC_GALAXY, "survey", "--set", f"paths.survey={tmp_path}/survey")

    assert done.returncode == 3, done.stderr
    assert "srun: 2 processes were started, but MPI sees 1" in done.stderr
    assert "--mpi=pmix" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "survey").exists()


def test_a_script_without_srun_is_serial(slurm: Any) -> None:
    state, output = slurm.sbatch(f'{sys.executable} -c "{WHO_AM_I}"', *TWO_NODES)

    assert (state, output) == ("COMPLETED", "rank 0 of 1 by serial\n")


def test_mpirun_inside_a_job_uses_both_nodes(slurm: Any) -> None:
    script = f'mpirun --bind-to none --map-by ppr:1:node -n 2 {sys.executable} -c "{WHO_AM_I}"'
    state, output = slurm.sbatch(script, *TWO_NODES)

    assert state == "COMPLETED", output
    assert sorted(output.splitlines()) == ["rank 0 of 2 by mpirun", "rank 1 of 2 by mpirun"]
