"""The audit of a real pipeline's shards: a faithful injection passes, the usual mistakes do not.

That fakes drawn one pixel off are found is tested with the demo, which draws some.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from helpers import run_python, run_ranks

from hpc_galaxy.bricks.survey import make_survey
from hpc_galaxy.config import Config, load_config
from hpc_galaxy.cutouts.extract import extract
from hpc_galaxy.errors import StageError
from hpc_galaxy.injection.inject import inject
from hpc_galaxy.shards.cutout_file import open_cutouts, write_cutouts
from hpc_galaxy.splits.audit.audit import NAME, audit
from hpc_galaxy.splits.split import split
from hpc_galaxy.world import World

SETTINGS = [
    "seed=7",
    "survey.bricks=16",
    "survey.npix=400",
    "survey.galaxies_per_arcmin2=25.0",
    "injection.per_brick=60",
    "extract.selection='galaxies'",
    "split.train=0.5",
    "split.valid=0.25",
    "split.test=0.25",
]
STAGES = (make_survey, inject, extract, split)
Found = dict[str, tuple[str, str]]


def configure(root: Path, survey: Path, *overrides: str) -> Config:
    paths = [f"paths.survey='{survey}'", *[f"paths.{name}='{root / name}'" for name in ("obiwan", "cutouts", "shards")]]
    return load_config(None, [*SETTINGS, *paths, *overrides])


def run(config: Config, *stages: Callable[[Config, World, bool], None]) -> Found:
    """Run stages and the audit; return the result of each check, and what it found."""
    for stage in stages:
        stage(config, World(), False)
    try:
        audit(config.paths.shards)
    except StageError as error:
        assert "the audit failed" in str(error)
    return found_in(config.paths.shards)


def found_in(shards: Path) -> Found:
    content = json.loads((shards / NAME).read_text())
    return {check["name"]: (check["result"], check["found"]) for check in content["checks"]}


def failed(found: Found) -> set[str]:
    return {name for name, (result, _) in found.items() if result == "fail"}


@pytest.fixture(scope="module")
def faithful(tmp_path_factory: pytest.TempPathFactory) -> Config:
    root = tmp_path_factory.mktemp("audit")
    config = configure(root / "faithful", root / "survey")
    for stage in STAGES:
        stage(config, World(), False)
    return config


def command(*arguments: str) -> CompletedProcess[str]:
    return run_python(["-m", "hpc_galaxy", *arguments], timeout=300)


def test_a_faithful_injection_passes_from_any_number_of_ranks(faithful: Config) -> None:
    shards = faithful.paths.shards
    done = command("audit", str(shards))
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 fail" in done.stdout
    alone = (shards / NAME).read_bytes()
    found = found_in(shards)
    for name in ("shared pixels", "shared groups", "injected galaxies", "duplicate ids", "provenance", "centroid x", "centroid y"):
        assert found[name][0] == "pass", found[name]
    assert found["noise beyond light"][0] != "fail"
    three = run_ranks(3, ["-m", "hpc_galaxy", "audit", str(shards)])
    assert three.returncode == 0, three.stdout + three.stderr
    assert (shards / NAME).read_bytes() == alone


def test_noise_maps_that_do_not_know_of_the_fakes_fail(faithful: Config, tmp_path: Path) -> None:
    found = run(configure(tmp_path, faithful.paths.survey, "injection.update_invvar=false"), *STAGES[1:])
    assert failed(found) == {"noise beyond light"}
    assert found["noise maps"][0] == "warn"


@pytest.mark.parametrize("honest", [True, False])
def test_fakes_that_were_rounded_fail_whether_their_files_say_so_or_not(faithful: Config, tmp_path: Path, honest: bool) -> None:
    config = configure(tmp_path, faithful.paths.survey)
    shutil.copytree(faithful.paths.cutouts, config.paths.cutouts)
    for path in sorted((config.paths.cutouts / "fake").rglob("*.h5")):
        with open_cutouts(path) as cutouts:
            images, sources, attributes = cutouts.images(), cutouts.sources(), cutouts.attributes
        kept = {
            name: value
            for name, value in attributes.items()
            if name not in ("format", "version", "channels", "compression", "mantissa_bits")
        }
        write_cutouts(path, images, sources, kept, mantissa_bits=9)
        if not honest:
            with open_cutouts(path) as cutouts:
                images = cutouts.images()
            write_cutouts(path, images, sources, kept)
    found = run(config, split)
    assert {"bits in use", *(["provenance"] if honest else [])} == failed(found) - {"noise beyond light"}
    assert "real 23, fake 9" in found["bits in use"][1]
    assert ("mantissa_bits: real 23, fake 9" in found["provenance"][1]) == honest
