"""The whole pipeline through its commands, on real MPI and real Horovod, at the smallest size that has every part."""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from helpers import SMALL_SURVEY, mpi_environ, run_group


def command(*arguments: str) -> CompletedProcess[str]:
    return run_group([sys.executable, "-m", "hpc_galaxy", *arguments], timeout=600, env=mpi_environ())


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("demo")
    (out / "demo.toml").write_text(SMALL_SURVEY)
    done = command("demo", str(out))
    assert done.returncode == 0, done.stdout + done.stderr
    return out, done.stdout


def test_every_stage_says_what_it_did_and_how_fast(demo: tuple[Path, str]) -> None:
    _, text = demo
    for stage, unit in (("survey", "bricks/s"), ("inject", "fakes/s"), ("extract", "cutouts/s"), ("split", "examples/s")):
        assert any(line.startswith(f"{stage}: ") and unit in line and "on 2 ranks" in line for line in text.splitlines()), stage
    assert "images/s" in text
    assert "test AUC" in text


def test_training_ran_on_two_horovod_ranks(demo: tuple[Path, str], require: Callable[[str], None]) -> None:
    require("horovod")
    assert "training: Horovod 0.28.1" in demo[1]
    assert "2 ranks" in next(line for line in demo[1].splitlines() if line.startswith("training: Horovod"))


def test_the_shards_are_audited(demo: tuple[Path, str]) -> None:
    out, text = demo
    assert text.count("audit: ") >= 2 and f"0 fail; {out / 'shards' / 'audit.json'}" in text
    assert (out / "shards" / "matching.png").read_bytes().startswith(b"\x89PNG")


def test_outputs_are_all_there_and_sound(demo: tuple[Path, str]) -> None:
    out, text = demo
    report = json.loads((out / "report" / "report.json").read_text())
    assert 0 <= report["auc"] <= 1
    for name in ("report/roc.png", "report/mosaic_p90.png", "report/mosaic_p10.png", "run/learning_curve.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")
        assert str(out / name) in text
    assert [path.name[:5] for path in (out / "run" / "checkpoints").iterdir()] == ["step_"]
    assert (out / "run" / "weights.safetensors").exists()
    assert list((out / "run" / "tensorboard").iterdir())
    assert tomllib.loads((out / "run" / "config.toml").read_text())["train"]["epochs"] == 1
    assert command("check", str(out)).returncode == 0


def test_a_second_run_finds_everything_done(demo: tuple[Path, str]) -> None:
    out, _ = demo
    kept = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.suffix in {".h5", ".npy", ".fz", ".pt"}}
    done = command("demo", str(out))
    assert done.returncode == 0, done.stdout + done.stderr
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert "test AUC" in done.stdout
