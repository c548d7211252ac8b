"""The stages under a real Slurm: srun, the singleton trap, scripts without srun, mpirun inside a job."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import tomli_w
from sample_shards import make_shards

HPC_GALAXY = str(Path(sys.executable).parent / "hpc-galaxy")
WHO_AM_I = "from hpc_galaxy.world import detect; w = detect(); print(f'rank {w.rank} of {w.size} by {w.launcher}', flush=True)"
TWO_NODES = ("--nodes=2", "--ntasks=2", "--ntasks-per-node=1")


def test_srun_with_pmix_starts_one_world(slurm: Any) -> None:
    done = slurm.srun(*TWO_NODES, "--mpi=pmix", sys.executable, "-c", WHO_AM_I)

    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == ["rank 0 of 2 by srun", "rank 1 of 2 by srun"]


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


def test_training_with_horovod_on_two_nodes(slurm: Any, require: Any, tmp_path: Path) -> None:
    require("horovod")
    make_shards(tmp_path / "shards", train=32, valid=32, test=32)
    config = tmp_path / "run.toml"
    config.write_text(tomli_w.dumps({"train": {"epochs": 1, "batch_size": 8, "backend": "horovod"}}))
    done = slurm.srun(*TWO_NODES, "--mpi=pmix", HPC_GALAXY, "train", "-c", str(config), timeout=120)

    assert done.returncode == 0, done.stdout + done.stderr
    finished = json.loads((tmp_path / "run" / "DONE").read_text())
    assert (finished["ranks"], finished["backend"], finished["epochs"]) == (2, "horovod", 1)


def test_a_survey_and_its_cutouts_on_two_nodes(slurm: Any, tmp_path: Path) -> None:
    survey = {"survey.bricks": 4, "survey.npix": 256, "paths.survey": tmp_path / "survey"}
    cutouts = {
        "extract.classes": "['real']",
        "extract.real_from": "survey",
        "extract.selection": "all",
        "paths.cutouts": tmp_path / "cutouts",
    }
    said = ""
    for stage, settings in (("survey", survey), ("extract", survey | cutouts), ("check", {})):
        options = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")] or [str(tmp_path / "cutouts")]
        done = slurm.srun(*TWO_NODES, "--mpi=pmix", HPC_GALAXY, stage, *options)
        assert done.returncode == 0, done.stderr
        said += done.stdout
    assert "survey: 4 bricks" in said
    assert said.count("on 2 ranks, each of at most") == 2
    assert said.count("ok: ") == 5  # four files and what the ledger says of them
