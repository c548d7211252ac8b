"""A scaling study through a real Slurm: job arrays by size, the report behind them, and only what is missing when it is asked for again."""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from patience import LOOK_SECONDS, patience

HPC_GALAXY = str(Path(sys.executable).parent / "hpc-galaxy")
NODES = (1, 2)
OPTIONS = ("--nodes=1,2", "--modes=weak", "--repeats=1", "--steps=4", "--bricks=1", "--submit", "--sbatch=--time=5")


def submit(slurm: Any, study: Path, *more: str) -> str:
    """Submit, wait until nothing is left, and return what the command said."""
    done = slurm.run(HPC_GALAXY, "bench", "scaling", str(study), "-c", str(study.parent / "run.toml"), *OPTIONS, *more)
    assert done.returncode == 0, done.stderr
    end = time.monotonic() + patience(240)
    while slurm.run("squeue", "--noheader").stdout.strip():
        assert time.monotonic() < end, slurm.run("squeue").stdout
        time.sleep(LOOK_SECONDS)
    return done.stdout


@pytest.mark.slow
def test_a_study_of_both_stages_and_what_is_missing_of_it(slurm: Any, tmp_path: Path) -> None:
    train = {"batch_size": 2, "threads": 1, "backend": "mpi"}
    (tmp_path / "run.toml").write_text(tomli_w.dumps({"survey": {"npix": 256}, "train": train}))
    study = tmp_path / "study"
    said = submit(slurm, study)
    results = {path.parent.name: path for path in study.glob("points/*/result.json")}
    outputs = "\n".join(path.read_text() for path in study.glob("jobs/*.out"))
    assert set(results) == {f"{stage}-weak-{n}x1-repeat1" for stage in ("train", "extract") for n in NODES}, outputs
    assert said.count("2 points on ") == 2 and "the report, when they have ended" in said

    for path in results.values():
        result = json.loads(path.read_text())
        assert [host["node"][0] for host in result["hosts"]] == ["n"] * result["nodes"] and result["ranks"] == result["nodes"]
        assert len(result["times"]) == (4 if result["unit"] == "images" else 1) and min(result["times"]) > 0
        assert not (path.parent / "work").exists()
    read = {name: json.loads(path.read_text()) for name, path in results.items()}
    assert [read[f"train-weak-{n}x1-repeat1"]["amount"] for n in NODES] == [2, 4]
    assert [read[f"extract-weak-{n}x1-repeat1"]["bricks"] for n in NODES] == [1, 2]

    text = (study / "report" / "report.md").read_text()
    assert "4 of 4 points measured" in text and "Nothing is missing." in text and "The model beside the measurement" in text
    assert all((study / "report" / f"{name}.png").stat().st_size > 10_000 for name in ("speed", "efficiency", "parts"))
    content = json.loads((study / "report" / "report.json").read_text())
    assert set(content["model"]["images_per_second"]) == {"1", "2"} and content["missing"] == []

    before = {name: path.stat().st_mtime_ns for name, path in results.items()}
    removed = ["extract-weak-2x1-repeat1", "extract-weak-1x1-repeat1"]
    for name in removed:
        results[name].unlink()
    killed = results[removed[0]].parent / "work" / "cutouts"
    killed.mkdir(parents=True)
    (killed / "half").write_text("of a killed attempt")
    said = submit(slurm, study)
    assert [re.findall(r"(\d+) points on (\d) node", said)] == [[("1", "1"), ("1", "2")]]
    assert [name for name, path in results.items() if path.stat().st_mtime_ns != before[name]] == sorted(removed, key=list(results).index)
    assert not killed.exists() and "4 of 4 points measured" in (study / "report" / "report.md").read_text()

    done = slurm.run(HPC_GALAXY, "bench", "scaling", str(study), "-c", str(tmp_path / "run.toml"), *OPTIONS, "--steps=5")
    assert done.returncode == 1 and "was planned with steps = 4, now it is 5" in done.stderr


def test_a_point_on_other_ranks_is_refused_once(slurm: Any, tmp_path: Path) -> None:
    study = tmp_path / "study"
    plan = ["--stages=extract", "--modes=weak", "--nodes=1", "--repeats=1", "--bricks=1", "--set", "survey.npix=256"]
    done = slurm.run(HPC_GALAXY, "bench", "scaling", str(study), *plan)
    assert done.returncode == 0, done.stderr
    (study / "points/extract-weak-1x1-repeat1/result.json").unlink()
    done = slurm.srun("--nodes=2", "--ntasks=2", "--ntasks-per-node=1", "--mpi=pmix", HPC_GALAXY, "bench", "point", str(study), "0")
    assert done.returncode == 3, done.stderr
    assert done.stderr.count("point 0: started with 2 ranks and 2 nodes, expected 1 rank on 1 node;") == 1
    assert not (study / "points/extract-weak-1x1-repeat1/result.json").exists()
