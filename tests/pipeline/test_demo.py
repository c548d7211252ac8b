"""The whole pipeline through its commands, on real MPI and real Horovod, at the smallest size that shows what the demo is to show.

Fakes that are drawn one pixel off are found out; faithful ones, of the same survey, are not. The first is the defect that made the
answer of 2018 worthless. It is also the proof that the network can learn what it should, so that an AUC of one half means something.
"""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from helpers import mpi_environ, run_group

from hpc_galaxy.demo import demo as run_demo

# Deep and bright, so that a small network learns from few stamps; with this seed a third of the bricks are there to test it.
SETTINGS = """
seed = 12
[survey]
bricks = 24
npix = 448
galaxies_per_arcmin2 = 20.0
depth = {g = 26.5, r = 26.0, z = 25.0}
[injection]
per_brick = 90
[split]
train = 0.6
valid = 0.15
test = 0.25
[train]
epochs = 5
batch_size = 16
[train.schedule]
warmup = 1.0
[realism]
percentiles = [90, 10]
pairs = 2
"""


def command(*arguments: str) -> CompletedProcess[str]:
    return run_group([sys.executable, "-m", "hpc_galaxy", *arguments], timeout=600, env=mpi_environ())


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("demo")
    (out / "demo.toml").write_text(SETTINGS)
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
    assert {path.name[:5] for path in (out / "run" / "checkpoints").iterdir()} == {"step_"}
    assert (out / "run" / "weights.safetensors").exists()
    assert list((out / "run" / "tensorboard").iterdir())
    assert tomllib.loads((out / "run" / "config.toml").read_text())["train"]["epochs"] == 5
    assert command("check", str(out)).returncode == 0


def test_a_shift_of_one_pixel_is_found_and_faithful_fakes_are_not(demo: tuple[Path, str]) -> None:
    out, _ = demo
    faithful, shifted = (json.loads((root / "report" / "report.json").read_text())["auc"] for root in (out, out / "control"))
    print(f"test AUC: faithful {faithful:.3f}, one pixel off {shifted:.3f}")
    assert abs(faithful - 0.5) < 0.1
    verdicts = [json.loads((root / "report" / "report.json").read_text())["verdict"]["sentence"] for root in (out, out / "control")]
    assert not verdicts[0].startswith("no verdict") and verdicts[1] == "no verdict: the audit failed: centroid x"
    assert shifted > 0.75


def test_the_audit_finds_a_shift_of_one_pixel_by_its_centroids(demo: tuple[Path, str]) -> None:
    out, text = demo
    results = {check["name"]: check["result"] for check in json.loads((out / "control" / "shards" / "audit.json").read_text())["checks"]}
    assert results["centroid x"] == "fail" and results["centroid y"] == "pass"
    assert "  FAIL  centroid x " in text and "demo: the audit has found what is wrong with the control, as it should" in text
    assert command("audit", str(out / "control" / "shards")).returncode == 1


def test_a_second_run_finds_everything_done(
    demo: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    out, _ = demo
    kept = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.suffix in {".h5", ".npy", ".fz", ".pt", ".safetensors"}}
    # Each start takes seconds: one rank, where the first run had two, and of the control just the beginning.
    monkeypatch.setattr("hpc_galaxy.demo.CONTROL_STAGES", ("inject", "extract"))
    run_demo(out, 1)
    said = capfd.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert "training: done already (" in said
    assert "test AUC" in said
