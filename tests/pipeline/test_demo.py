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
from helpers import mpi_environ, run_group, run_python
from report_checker import problems

from hpc_galaxy.demo import demo as run_demo
from hpc_galaxy.realism.html.references import REFERENCES

CITES = {key: paper.short for key, paper in REFERENCES.items()}

# Deep and bright, so that a small network learns from few stamps, and these small, so that it is soon done; with this seed a third of the
# bricks are there to test it.
SETTINGS = """
seed = 12
[survey]
bricks = 24
npix = 448
galaxies_per_arcmin2 = 20.0
depth = {g = 26.5, r = 26.0, z = 25.0}
[injection]
per_brick = 90
[extract]
size = 32
[split]
train = 0.6
valid = 0.15
test = 0.25
[train]
epochs = 3
batch_size = 16
[train.schedule]
warmup = 1.0
[realism]
percentiles = [90, 10]
pairs = 2
occlusion_galaxies = 2
"""


def command(*arguments: str) -> CompletedProcess[str]:
    return run_python(["-m", "hpc_galaxy", *arguments], timeout=600)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("demo")
    (out / "demo.toml").write_text(SETTINGS)
    # As a user does it: ranks that are started by a demo that is.
    done = run_group([sys.executable, "-m", "hpc_galaxy", "demo", str(out)], timeout=600, env=mpi_environ())
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
    for page in (out / "report/report.html", out / "control/report/report.html"):
        assert str(page) in text
        assert page.read_text().count("data:image/png;base64,") >= 10
    assert {path.name[:5] for path in (out / "run" / "checkpoints").iterdir()} == {"step_"}
    assert (out / "run" / "weights.safetensors").exists()
    assert list((out / "run" / "tensorboard").iterdir())
    assert tomllib.loads((out / "run" / "config.toml").read_text())["train"]["epochs"] == 3
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


def test_a_control_is_run_and_put_into_the_report(demo: tuple[Path, str]) -> None:
    out, _ = demo
    settings = ["-c", str(out / "demo.toml"), "--set", "train.epochs=2"]
    done = command("controls", *settings, "--only", "real-real")
    assert done.returncode == 0, done.stdout + done.stderr
    content = json.loads((out / "report" / "report.json").read_text())
    (arm,) = content["controls"]["arms"]
    assert arm["name"] == "real-real" and arm["as_expected"] == (arm["p_value"] > 0.05 / arm["tries"])
    assert f"controls: real-real: AUC {arm['auc']:.3f}" in done.stdout
    assert json.loads((out / "controls/real-real/shards/manifest.json").read_text())["report"]["control"] == "real_real"
    page = (out / "report" / "report.html").read_text()
    assert problems(content, page, CITES) == [] and "Negative controls." in page
    # What is done is not done again.
    before = (out / "controls/real-real/report/report.json").stat().st_mtime_ns
    assert command("controls", *settings, "--only", "real-real").returncode == 0
    assert (out / "controls/real-real/report/report.json").stat().st_mtime_ns == before


def test_a_second_run_finds_everything_done(
    demo: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, preforked_ranks: None, capfd: pytest.CaptureFixture[str]
) -> None:
    out, _ = demo
    kept = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.suffix in {".h5", ".npy", ".fz", ".pt", ".safetensors"}}
    # One rank, where the first run had two; without the control, which is the same stages in other directories.
    # The report alone is made anew, here a short one.
    with (out / "demo.toml").open("a") as file:
        file.write("explain = false\nbaselines = false\n")
    monkeypatch.setattr("hpc_galaxy.demo.run_control", lambda config, ranks: None)
    run_demo(out, 1)
    said = capfd.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert "training: done already (" in said
    assert "test AUC" in said
