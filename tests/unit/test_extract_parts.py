"""Extraction in parts, as a job array does it: each brick once, nobody in another's way, and a whole that is as from one job."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpc_galaxy.bricks.survey import make_survey
from hpc_galaxy.bricks.views import list_bricks
from hpc_galaxy.config import Config, load_config
from hpc_galaxy.cutouts.extract import extract, extract_part
from hpc_galaxy.errors import ConfigError, InputError, OutputError, StageError, StaleOutputError
from hpc_galaxy.files import lock
from hpc_galaxy.ledger import LOCK, read_ledger
from hpc_galaxy.schedule import Part, parse_part
from hpc_galaxy.world import World

BRICKS = 5
CUT = ['extract.classes=["real"]', 'extract.real_from="survey"', 'extract.selection="all"']
SETTINGS = [f"survey.bricks={BRICKS}", "survey.npix=256", *CUT]


def configure(root: Path, *settings: str) -> Config:
    paths = [f"paths.survey='{root / 'survey'}'", f"paths.cutouts='{root / 'cutouts'}'"]
    return load_config(None, [*SETTINGS, *paths, *settings])


@pytest.fixture(scope="module")
def survey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("parts")
    make_survey(configure(root), World())
    return root / "survey"


def outputs(config: Config) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(config.paths.cutouts.rglob("*.h5"))}


def test_parts_and_then_the_whole_are_the_files_of_one_job(survey: Path, tmp_path: Path) -> None:
    whole = configure(tmp_path / "whole", f"paths.survey='{survey}'")
    extract(whole, World())
    config = configure(tmp_path, f"paths.survey='{survey}'")
    made = []
    for number in (2, 1):
        before = set(outputs(config))
        extract_part(config, World(), Part(number, 2))
        made.append(len(set(outputs(config)) - before))
    assert made == [2, 3] and len(list_bricks(survey)) == BRICKS
    with pytest.raises(InputError, match="'hpc-galaxy extract' did not finish here"):
        read_ledger(config.paths.cutouts, "extract")
    times = [path.stat().st_mtime_ns for path in sorted(config.paths.cutouts.rglob("*.h5"))]
    extract(config, World())
    assert [path.stat().st_mtime_ns for path in sorted(config.paths.cutouts.rglob("*.h5"))] == times  # none was cut twice
    assert outputs(config) == outputs(whole)
    assert read_ledger(config.paths.cutouts, "extract") == read_ledger(whole.paths.cutouts, "extract")

    extract_part(config, World(), Part(1, 2))  # may change what is there, so that it has to be vouched for again
    assert not (config.paths.cutouts / "ledger.json").exists()


def test_parts_share_the_directory_with_other_parts_alone(survey: Path, tmp_path: Path) -> None:
    config = configure(tmp_path, f"paths.survey='{survey}'")
    folder = config.paths.cutouts
    with lock(folder / LOCK, shared=True), lock(folder / f"{LOCK}-1-of-2"):
        (folder / ".partial-1-other.h5").touch()  # what that part is writing
        extract_part(config, World(), Part(2, 2))
        assert (folder / ".partial-1-other.h5").exists()
        with pytest.raises(OutputError, match="another job is writing here"):
            extract_part(config, World(), Part(1, 2))
        with pytest.raises(OutputError, match="another job is writing here"):
            extract(config, World())
    with lock(folder / LOCK), pytest.raises(OutputError, match="another job is writing here"):
        extract_part(config, World(), Part(1, 2))
    with pytest.raises(StaleOutputError, match="made with another configuration"):
        extract_part(configure(tmp_path, f"paths.survey='{survey}'", "extract.size=32"), World(), Part(1, 2))


def test_a_bad_brick_fails_its_part_alone(survey: Path, tmp_path: Path) -> None:
    config = configure(tmp_path, "survey.bricks=2")
    make_survey(config, World())
    next((tmp_path / "survey" / "coadd").rglob(f"{list_bricks(tmp_path / 'survey')[0]}/*image-r*")).write_bytes(b"")
    with pytest.raises(StageError, match="1 of 1 bricks failed"):
        extract_part(config, World(), Part(1, 2))
    extract_part(config, World(), Part(2, 2))
    assert len(outputs(config)) == 1


@pytest.mark.parametrize("text", ["", "3", "0/2", "3/2", "1/0", "-1/2", "1/2/3", "a/b", "1.0/2"])
def test_what_is_no_part_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="expected NUMBER/OF"):
        parse_part(text)


def test_a_part_is_not_traced(survey: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="got together with a trace"):
        extract_part(configure(tmp_path, f"paths.survey='{survey}'", "trace.spans=true"), World(), Part(1, 2))
    assert [part.share(range(7)) for part in (Part(1, 3), Part(2, 3), Part(3, 3))] == [[0, 3, 6], [1, 4], [2, 5]]
