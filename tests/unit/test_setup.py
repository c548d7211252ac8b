"""The set-up: scripts that say what is missing, a complete lock file, light imports, and who may import whom."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from patience import patience

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
# One forbidden import for each contract of setup.cfg.
VIOLATIONS = {
    "The pipeline's layers": ("bricks", "import hpc_galaxy.cutouts"),
    "Training knows shards, never bricks or FITS": ("training", "import fitsio"),
    "Extraction and splitting run without torch": ("splits", "import torch"),
    "mpi4py only in world.py": ("cutouts", "from mpi4py import MPI"),
    "Horovod only in one module of training": ("realism", "import horovod.torch"),
}


def run(*command: str | Path, cwd: Path = ROOT, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=cwd, env={**os.environ, **environ}, capture_output=True, text=True, timeout=patience(60), stdin=subprocess.DEVNULL
    )


def test_horovod_without_a_compiler_says_so() -> None:
    done = run("scripts/build_horovod.sh", sys.executable, CXX="/nonexistent/g++")

    assert done.returncode == 3
    assert done.stderr == (
        "horovod: no C++ compiler (/nonexistent/g++); training will use torch DDP instead. "
        "Install g++ (C++20) or load a compiler module, then run 'make horovod'.\n"
    )


def test_an_old_python_is_named(tmp_path: Path) -> None:
    old = tmp_path / "python3"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.2\nexit 1\n')
    old.chmod(0o755)
    done = run("scripts/set_up.sh", tmp_path / "venv", PYTHON=str(old))

    assert done.returncode == 1
    assert done.stderr.startswith(f"set-up: Python 3.11 or newer is needed; {old} is Python 3.9.2. Install it")
    assert not (tmp_path / "venv").exists()


SOURCES = (
    "hpc_galaxy/bricks/_rice.c",
    "hpc_galaxy/cutouts/_cut.c",
    "hpc_galaxy/shards/_fletcher.c",
    "hpc_galaxy/splits/_moments.c",
)
PREREQUISITES = ("setup.cfg", "setup.py", "requirements.lock", *SOURCES)


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., tuple[int, str]]:
    """Run ``make .venv/.ready`` with the real Makefile and scripts that only say their name and exit as told."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    for folder in (".venv", "scripts"):
        (tmp_path / folder).mkdir()
    for name in PREREQUISITES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()

    def run_make(**exit_codes: int) -> tuple[int, str]:
        for name in ("set_up", "build_horovod"):
            script = tmp_path / "scripts" / f"{name}.sh"
            script.write_text(f"#!/bin/sh\necho {name}\nexit {exit_codes.get(name, 0)}\n")
            script.chmod(0o755)
        done = run("make", "--silent", ".venv/.ready", cwd=tmp_path, MAKEFLAGS="")
        return done.returncode, done.stdout

    return run_make


def test_a_second_make_does_nothing(make: Callable[..., tuple[int, str]]) -> None:
    assert make() == (0, "set_up\nbuild_horovod\n")
    assert make() == (0, "")


@pytest.mark.parametrize("name", PREREQUISITES)
def test_what_the_environment_is_made_from_makes_it_anew(make: Callable[..., tuple[int, str]], tmp_path: Path, name: str) -> None:
    make()
    later = (tmp_path / ".venv" / ".ready").stat().st_mtime + 5
    os.utime(tmp_path / name, (later, later))
    assert make() == (0, "set_up\nbuild_horovod\n")


def test_failed_packages_are_tried_again(make: Callable[..., tuple[int, str]]) -> None:
    assert make(set_up=1) == (2, "set_up\n")
    assert make() == (0, "set_up\nbuild_horovod\n")


def test_an_interrupted_horovod_is_tried_again(make: Callable[..., tuple[int, str]]) -> None:
    assert make(build_horovod=130) == (2, "set_up\nbuild_horovod\n")
    assert make() == (0, "build_horovod\n")


@pytest.mark.parametrize("code", [3, 4])
def test_set_up_goes_on_without_horovod(make: Callable[..., tuple[int, str]], code: int) -> None:
    assert make(build_horovod=code) == (0, "set_up\nbuild_horovod\n")
    assert make() == (0, "")


@pytest.mark.parametrize("arguments", [("-c", "import hpc_galaxy"), ("-m", "hpc_galaxy.cli")], ids=["import", "cli"])
def test_torch_and_mpi_are_not_imported_early(arguments: tuple[str, str]) -> None:
    done = run(sys.executable, "-X", "importtime", *arguments)
    modules = {line.split("|")[-1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}

    assert done.returncode == 0, done.stderr
    assert "hpc_galaxy" in modules
    assert not {"torch", "mpi4py", "horovod", "galsim", "h5py", "matplotlib"} & modules


def test_help_is_light() -> None:
    done = run(BIN / "hpc-galaxy", "--help", PYTHONPROFILEIMPORTTIME="1", COLUMNS="100")

    assert done.returncode == 0
    assert not re.search(r"\| *(torch|mpi4py)$", done.stderr, re.MULTILINE)
    assert all(verb in done.stdout for verb in ("survey", "inject", "extract", "split", "train", "realism", "check", "doctor", "demo"))


def test_the_lock_pins_every_requirement() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    sections = [setup["options"]["install_requires"], *setup["options.extras_require"].values()]
    wanted = [Requirement(line) for section in sections for line in section.split("\n") if line.strip() and not line.startswith("#")]
    lines = [Requirement(line) for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#")]
    locked = {canonicalize_name(pin.name): str(pin.specifier) for pin in lines}

    assert all(re.fullmatch(r"==[^*+]+", version) for version in locked.values())
    for requirement in wanted:
        version = locked[canonicalize_name(requirement.name)].removeprefix("==")
        assert requirement.specifier.contains(version), requirement


def lint_imports(root: Path) -> subprocess.CompletedProcess[str]:
    return run(BIN / "lint-imports", "--no-cache", "--no-logo", cwd=root, PYTHONPATH=str(root))


def test_nobody_imports_what_they_must_not() -> None:
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout


def test_every_contract_can_be_broken(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "hpc_galaxy", tmp_path / "hpc_galaxy")
    shutil.copy(ROOT / "setup.cfg", tmp_path)
    for folder, line in VIOLATIONS.values():
        with (tmp_path / "hpc_galaxy" / folder / "__init__.py").open("a") as file:
            file.write(f"\n{line}\n")

    said = lint_imports(tmp_path).stdout
    assert set(re.findall(r"^(.*) BROKEN", said, re.MULTILINE)) == set(VIOLATIONS), said
    assert len(VIOLATIONS) == len(re.findall(r"^\[importlinter:contract:", (ROOT / "setup.cfg").read_text(), re.MULTILINE))
