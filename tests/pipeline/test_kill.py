"""``kill -9`` at any time leaves nothing that `hpc-galaxy check` accepts and that is wrong, and the next run completes the rest."""

from __future__ import annotations

import random
import time
from pathlib import Path

import psutil
import pytest
from helpers import run_python
from killing import claimed, kill_all, run_undisturbed, start, wait_for_claim
from patience import patience
from preforked import behind

from hpc_galaxy.bricks.survey import make_survey
from hpc_galaxy.config import load_config
from hpc_galaxy.errors import HpcGalaxyError
from hpc_galaxy.shards.check import check
from hpc_galaxy.world import World

BRICKS = 24
# How many files are there when the job is killed: on one rank and on two, from the beginning of its work to the end.
MOMENTS = (0, 0, 5, 8, 12, 15, 19, 22)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A survey of `BRICKS` and the configuration that cuts it."""
    root = tmp_path_factory.mktemp("kill")
    small = [f"survey.bricks={BRICKS}", "survey.npix=256"]
    made = load_config(None, [f"paths.survey='{root}/survey'", *small, "extract.classes=['real']"])
    settings = made.extract.model_copy(update={"real_from": "survey", "selection": "galaxies"})
    made = made.model_copy(update={"extract": settings})
    make_survey(made, World())
    made.save(root / "run.toml")
    return root / "run.toml"


def content(out: Path) -> dict[Path, bytes]:
    return {path.relative_to(out): path.read_bytes() for path in out.rglob("*.h5") if not path.name.startswith(".")}


def wait_for_files(out: Path, number: int) -> None:
    """Wait until so many files are there under their final names."""
    deadline = time.monotonic() + patience(60)
    while sum(not path.name.startswith(".") for path in out.rglob("*.h5")) < number:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def accepted(path: Path) -> bool:
    try:
        check([path], World())
    except HpcGalaxyError:
        return False
    return True


@pytest.mark.slow
def test_a_killed_job_leaves_whole_files_or_none(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seconds = run_undisturbed("extract", config, tmp_path)
    reference = content(tmp_path / "undisturbed-1")
    assert len(reference) == BRICKS
    assert reference == content(tmp_path / "undisturbed-2")

    out, rng, found = tmp_path / "killed", random.Random(1), []
    for repeat, moment in enumerate(MOMENTS):
        ranks = 1 + repeat % 2
        before = claimed(out)
        process = start("extract", config, out, ranks)
        wait_for_claim(out, before)
        wait_for_files(out, moment)
        time.sleep(seconds[ranks] / BRICKS * rng.uniform(0, 1))  # into the middle of the next
        kill_all(process)
        left = content(out)
        assert all(left[name] == reference[name] for name in left), f"repeat {repeat}"
        assert all(accepted(out / name) for name in left), f"repeat {repeat}"  # under its final name a file is whole
        found.append(len(left))
        for path in rng.sample(sorted(left), len(left) * 3 // 4):  # so that the next run has something to do again
            (out / path).unlink()
    print(f"whole files found after each kill: {found}")
    assert len({number for number in found if number < BRICKS}) > 3  # the kills did fall into the work

    assert start("extract", config, out, 2).wait(patience(120)) == 0
    assert content(out) == reference
    assert list(out.rglob(".partial*")) == []
    check([out], World())


def test_a_second_job_in_the_same_directory_refuses(config: Path, tmp_path: Path) -> None:
    first = start("extract", config, tmp_path, 1)
    while not (tmp_path / "stage.json").exists():
        assert first.poll() is None
        time.sleep(0.01)
    command = ["-m", "hpc_galaxy", "extract", "-c", str(config), "--set", f"paths.cutouts='{tmp_path}'"]
    rank = behind(psutil.Process(first.pid))
    rank.suspend()  # so that it is still there when the second comes
    try:
        second = run_python(command, timeout=60)
    finally:
        rank.resume()
    assert second.returncode == 1
    assert f"another job is writing here (process {rank.pid} on " in second.stderr
    assert first.wait(patience(120)) == 0
