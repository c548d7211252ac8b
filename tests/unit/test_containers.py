"""The containers' recipes: their pins are the lock's and each other's, the linter finds nothing, an image gets what it needs."""

from __future__ import annotations

import re
import shutil
import subprocess
from importlib import resources
from pathlib import Path

import pytest
from helpers import beside_python
from patience import patience

from hpc_galaxy import __version__
from hpc_galaxy.slurm.script import render
from hpc_galaxy.slurm.submit import Request, make_jobs

ROOT = Path(__file__).parents[2]
RECIPES = (ROOT / "containers" / "Containerfile", ROOT / "containers" / "Containerfile.cuda")
LOCK = (ROOT / "requirements.lock").read_text()

either = pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.name)


def steps(recipe: Path) -> list[str]:
    """Return the instructions of a recipe, each in one line, without comments."""
    lines = [line for line in recipe.read_text().splitlines() if not line.startswith("#")]
    return [" ".join(step.split()) for step in "\n".join(lines).replace("\\\n", " ").splitlines() if step.strip()]


def arguments(recipe: Path) -> dict[str, str]:
    """Return the build arguments that have a default."""
    return dict(re.findall(r"^ARG (\w+)=(\S+)$", recipe.read_text(), re.MULTILINE))


def locked(name: str) -> str:
    """Return the version that requirements.lock pins."""
    (version,) = re.findall(rf"^{name}==(\S+)$", LOCK, re.MULTILINE)
    return str(version)


@either
def test_hadolint_finds_nothing(recipe: Path) -> None:
    hadolint = beside_python("hadolint")
    if hadolint is None:
        pytest.skip("hadolint is not installed")
    done = subprocess.run([hadolint, "--no-color", str(recipe)], capture_output=True, text=True, check=False, timeout=patience(60))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@either
def test_whatever_pip_installs_is_pinned(recipe: Path) -> None:
    commands = [part.strip() for step in steps(recipe) for part in step.split("&&") if "pip install" in part]
    assert len(commands) == 5
    for command in commands:
        by_lock = "--constraint requirements.lock" in command
        this_package_alone = command.endswith(" .") and "--no-deps" in command
        assert by_lock or this_package_alone or re.search(r'"\w+==\$\{\w+\}"$', command), command


@either
def test_python_is_the_one_of_the_lock(recipe: Path) -> None:
    (python,) = re.findall(r"pinned, for Python (\d\.\d+)", LOCK)
    images = [value for value in arguments(recipe).values() if "/python:" in value]
    assert [re.sub(r".*/python:(\d\.\d+)-.*", r"\1", image) for image in images] == [python]


@either
def test_labels_name_this_version(recipe: Path) -> None:
    assert f'org.opencontainers.image.version="{__version__}"' in recipe.read_text()


def test_both_images_have_one_mpich_and_treat_it_alike() -> None:
    cpu, cuda = (arguments(recipe) for recipe in RECIPES)
    assert re.fullmatch(r"\d+\.\d+\.\d+", cpu["MPICH"])
    assert cpu["MPICH"] == cuda["MPICH"]
    # The version with which the tests of 'srun --mpi=pmi2' run.
    assert f"version={cpu['MPICH']}\n" in (ROOT / "scripts" / "set_up_mpich.sh").read_text()
    (ours,), (theirs,) = ([step for step in steps(recipe) if "MPI4PY_MPIABI" in step] for recipe in RECIPES)
    assert ours == theirs
    assert " MPI4PY_MPIABI=mpich " in ours


def test_cuda_is_the_one_of_the_locked_torch() -> None:
    # Which CUDA PyPI's torch is made for is not written in the lock: whoever changes torch there has to look it up again.
    (torch, cuda) = re.findall(r"CUDA (?=[\d.]+ is what PyPI's torch ([\d.]+) is made for)([\d.]+)", RECIPES[1].read_text())[0]
    assert torch == locked("torch")
    defaults = arguments(RECIPES[1])
    versions = [re.findall(r"nvidia/cuda:(\d+\.\d+)\.\d+-(\w+)-ubuntu24.04$", defaults[name])[0] for name in ("BUILD_BASE", "BASE")]
    assert versions == [(cuda, "devel"), (cuda, "base")]


@either
def test_nobody_is_root_and_nothing_compiles_in_the_image(recipe: Path) -> None:
    every = steps(recipe)
    last = every[max(number for number, step in enumerate(every) if step.startswith("FROM ")) :]
    assert [step for step in last if step.startswith("USER ")] in (["USER 1000:1000"], ["USER 1001:1001"])
    assert 'ENTRYPOINT ["hpc-galaxy"]' in last
    assert not [step for step in last if re.search(r"\b(g\+\+|gcc|make|cmake|pip)\b", step)]


def test_what_the_recipes_copy_is_in_the_context() -> None:
    """``.dockerignore`` leaves everything out but the names it lists, and they are there."""
    listed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert [name for name in listed if not (ROOT / name).exists()] == []
    copied = {
        name
        for recipe in RECIPES
        for step in steps(recipe)
        if step.startswith("COPY ") and "--from" not in step
        for name in step.split()[1:-1]
    }
    assert {name for name in copied - {"."} if not any(name == one or name.startswith(f"{one}/") for one in listed)} == set()


@pytest.mark.parametrize(("name", "bootstrap"), [("hpc-galaxy.def", "docker"), ("hpc-galaxy-archive.def", "docker-archive")])
def test_apptainer_starts_from_the_image(name: str, bootstrap: str) -> None:
    lines = (ROOT / "containers" / name).read_text().splitlines()
    assert [line for line in lines if line.startswith("Bootstrap:")] == [f"Bootstrap: {bootstrap}"]
    assert lines[lines.index("%runscript") + 1].strip() == 'exec hpc-galaxy "$@"'


def test_a_site_names_the_container_that_every_rank_runs(tmp_path: Path) -> None:
    profile = resources.files("hpc_galaxy.slurm.sites").joinpath("generic-slurm.toml").read_text()
    (tmp_path / "mine.toml").write_text(f"program = 'apptainer run --bind \"$PWD\" hpc-galaxy.sif'\n{profile}")
    (tmp_path / "run.toml").touch()
    (job,) = make_jobs(
        Request(stages=["train"], site=str(tmp_path / "mine.toml"), nodes=2, time="01:00:00", account="", config=tmp_path / "run.toml")
    )
    script = render(job, "hpc-galaxy submit train")
    assert '    apptainer run --bind "$PWD" hpc-galaxy.sif train -c run.toml &\n' in script
    shellcheck = shutil.which("shellcheck")
    if shellcheck is None:
        pytest.skip("shellcheck is not installed")
    assert subprocess.run([shellcheck, "-"], input=script, text=True, check=False, timeout=patience(60)).returncode == 0
