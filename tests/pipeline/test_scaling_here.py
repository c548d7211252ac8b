"""Small scaling studies on this machine, with real ranks."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hpc_galaxy.bench.scaling.plan import load_study, parse_asked
from hpc_galaxy.bench.scaling.run import run_study
from hpc_galaxy.bench.suite.examples import write_examples
from hpc_galaxy.config import load_config
from hpc_galaxy.errors import LaunchError, StageError, StaleOutputError
from hpc_galaxy.world import World

pytestmark = pytest.mark.usefixtures("preforked_ranks")


def test_a_study_here_does_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = parse_asked("extract", "strong,weak", "1,2", ranks_per_node=1, repeats=1, steps=1, bricks=1)
    config = load_config(None, ["survey.npix=256", f"paths.obiwan='{tmp_path}/none'", "extract.layout=brick"])
    directory = tmp_path / "study"
    run_study(directory, asked, config, None, World())
    study = load_study(directory)
    assert not study.missing and "synthetic ones are made" in capsys.readouterr().out
    results = [json.loads(study.result(point).read_text()) for point in study.points]
    assert [(result["ranks"], result["bricks"], result["amount"]) for result in results] == [
        (1, 2, 600),
        (2, 2, 600),
        (1, 1, 300),
        (2, 2, 600),
    ]
    assert {"read", "decompress", "cut", "write"} <= set(results[1]["parts"]) and set(results[1]["hidden"]) == {"flush"}
    assert sum(results[0]["parts"].values()) < results[0]["seconds"] == results[0]["times"][0]

    before = {point.number: study.result(point).stat().st_mtime_ns for point in study.points}
    study.result(study.points[1]).unlink()
    run_study(directory, asked, config, None, World())
    assert [n for n, time in before.items() if study.result(study.points[n]).stat().st_mtime_ns != time] == [1]
    assert "3 of 4 points have been measured before" in capsys.readouterr().out

    with pytest.raises(StaleOutputError, match="bricks = 1, now it is 2"):
        run_study(directory, replace(asked, bricks=2), config, None, World())
    with pytest.raises(LaunchError, match="started as 2 ranks, expected 1"):
        run_study(directory, asked, config, None, World(size=2))

    study.result(study.points[2]).unlink()
    for coadd in (directory / "survey" / "own").rglob("*image-r*.fz"):
        coadd.unlink()
    with pytest.raises(StageError, match=r"1 of 4 points failed:\n  point 2, weak extract on 1 node x 1 rank, repeat 1: .*bricks failed"):
        run_study(directory, asked, config, None, World())
    assert "3 of 4 points measured" in (directory / "report" / "report.md").read_text() and load_study(directory).missing == [
        study.points[2]
    ]


def test_the_users_own_shards_are_trained_on_and_stay_as_they_are(tmp_path: Path) -> None:
    write_examples(tmp_path / "shards", 512)
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "shards").iterdir()}
    asked = parse_asked("train", "weak", "1,2", ranks_per_node=1, repeats=1, steps=3, bricks=1)
    config = load_config(None, [f"paths.shards='{tmp_path}/shards'", "train.batch_size=50", "train.threads=1", "train.backend=mpi"])
    run_study(tmp_path / "study", asked, config, None, World())
    study = load_study(tmp_path / "study")
    assert study.synthetic == () and not study.missing
    one, two = (json.loads(study.result(point).read_text()) for point in study.points)
    assert [(result["amount"], len(result["times"])) for result in (one, two)] == [(50, 3), (100, 3)]
    assert sum(two["parts"][part] for part in ("data", "compute", "communication", "other")) == pytest.approx(
        np.mean(two["times"]), rel=0.01
    )
    assert (one["gradient_bytes"], two["image_bytes"]) == (353_786 * 4, 64 * 64 * 6 * 4)
    assert one["allreduce"] == {} and list(two["allreduce"]) == ["between"] and len(two["allreduce"]["between"]["4"]) == 10
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "shards").iterdir()} == before
