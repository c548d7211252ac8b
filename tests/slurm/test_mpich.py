"""The whole chain with the other MPI: ranks that srun --mpi=pmi2 starts on two nodes and that speak MPICH."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import helpers

SRUN = ("srun", "--immediate=20", "--kill-on-bad-exit=1", "--nodes=2", "--ntasks=2", "--ntasks-per-node=1")
WHO_AM_I = "from hpc_galaxy.world import detect; w = detect(); print(f'rank {w.rank} of {w.size} by {w.launcher}', flush=True)"
LIBRARY = "from mpi4py import MPI; print(MPI.Get_library_version().split()[0])"


def test_the_whole_chain_with_mpich(slurm: Any, require: Any, tmp_path: Path) -> None:
    require("mpich")
    environ = dict(slurm.env) | {"MPI4PY_MPIABI": "mpich", "LD_LIBRARY_PATH": str(helpers.MPICH)}

    def run(*command: str, mpi: str = "pmi2") -> Any:
        return helpers.run_group((*SRUN, f"--mpi={mpi}", sys.executable, *command), timeout=120, env=environ, cwd=tmp_path)

    assert run("-c", LIBRARY).stdout.split() == ["MPICH", "MPICH"]
    assert sorted(run("-c", WHO_AM_I).stdout.splitlines()) == ["rank 0 of 2 by srun", "rank 1 of 2 by srun"]
    # Without the protocol that MPICH speaks each rank would be alone.
    alone = run("-c", f"from hpc_galaxy.world import World, guard\nwith guard(World()): {WHO_AM_I}", mpi="none")
    assert alone.returncode != 0 and "2 processes were started, but MPI sees 1" in alone.stderr and "--mpi=pmi2 (MPICH)" in alone.stderr

    (tmp_path / "run.toml").write_text(helpers.SMALL_SURVEY)
    settings = ("train.backend=mpi", "train.threads=1", "train.saving.curve=false", "realism.explain=false", "realism.baselines=false")
    options = [word for setting in settings for word in ("--set", setting)]
    done = run("-m", "hpc_galaxy", "run", "survey", "inject", "extract", "split", "train", "realism", "-c", "run.toml", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    finished = json.loads((tmp_path / "run" / "DONE").read_text())
    assert (finished["ranks"], finished["backend"]) == (2, "mpi")
    assert json.loads((tmp_path / "report" / "report.json").read_text())["auc"] is not None
