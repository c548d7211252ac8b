"""The whole report in one process."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import sample_shards
from report_checker import problems
from sklearn.metrics import roc_auc_score

from hpc_galaxy.errors import InputError
from hpc_galaxy.realism import report as report_module
from hpc_galaxy.realism import statistics
from hpc_galaxy.realism.baselines import Baseline
from hpc_galaxy.realism.gate import find_leaks, require_audit
from hpc_galaxy.realism.html.references import REFERENCES
from hpc_galaxy.realism.report import report
from hpc_galaxy.shards.numpy_shards import open_split
from hpc_galaxy.training.train import train
from hpc_galaxy.world import World

CITES = {key: paper.short for key, paper in REFERENCES.items()}
EXPLAINED = ("realism.explain=true", "realism.occlusion_galaxies=2")
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("trained")
    sample_shards.make_shards(root / "shards", train=70, valid=40, test=40, size=32)
    train(sample_shards.make_config(root), World(), False)
    return root


def test_report_and_pictures(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report(sample_shards.make_config(trained, "realism.baselines=true", *EXPLAINED), World(), False)
    out, directory = capsys.readouterr().out, trained / "report"
    content = json.loads((directory / "report.json").read_text())
    assert content["auc"] > 0.9 and content["auc_interval"][0] > 0.8
    assert content["verdict"]["kind"] == "refused" and "realism: no verdict: the audit failed: shared pixels, centroid x" in out
    baselines = {each["name"]: each["auc"] for each in content["baselines"]}
    assert list(baselines) == ["catalog", "centroid", "light profile", "noise", "linear on pixels"] and "  linear on pixels  AUC " in out
    # The fakes of these shards are brighter in their middle; their catalog says nothing.
    assert baselines["linear on pixels"] > 0.9 > 0.75 > baselines["catalog"]
    assert content["examples"] == 40 and content["bricks"] == 5
    assert sum(sum(row.values()) for row in content["confusion"].values()) == 40
    done = json.loads((trained / "run" / "DONE").read_text())
    assert content["provenance"]["checkpoint_epoch"] == done["best_epoch"]
    assert content["provenance"]["training"] == done["fingerprint"] and content["provenance"]["shards"] == done["shards"]
    assert content["networks"] == [{"seed": 1, "epoch": done["best_epoch"], "auc": content["auc"], "auc_interval": content["auc_interval"]}]
    audit = json.loads((directory / content["audit"]["path"]).read_text())
    assert content["audit"]["path"] == "audit.json"
    assert content["audit"]["checks"] == [{key: check[key] for key in ("name", "result", "found")} for check in audit["checks"]]
    why = ["stacks.png", "occlusion.png", "most_fake.png", "most_fooled.png"]
    assert content["pictures"] == ["roc.png", "scores.png", "where.png", "mosaic_p99.png", "mosaic_p50.png", *why]
    for name in content["pictures"]:
        assert (directory / name).read_bytes().startswith(PNG)
        assert name in out
    assert f"realism: {directory}: report.html, report.json" in out
    page = (directory / "report.html").read_text()
    assert problems(content, page, CITES) == []
    assert page.count("data:image/png;base64,") == len(content["pictures"]) + 1  # and the calibration
    assert "called fake" in out and "(95 %, Student's t over 5 bricks), accuracy " in out
    with open(directory / "scores.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == [name.decode() for name in open_split(trained / "shards", "test").table["id"]]


def test_what_a_simpler_classifier_finds_is_in_the_verdict(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "permutation_p", lambda *arguments: 0.5)  # as if the network had learned nothing
    monkeypatch.setattr(report_module, "find_leaks", lambda audit: [])
    monkeypatch.setattr(report_module, "_run_baselines", lambda config, reader: [Baseline("noise", 40, 0.9, (0.85, 0.95), 0.0001)])
    report(sample_shards.make_config(trained, f"paths.report='{tmp_path}/report'"), World(), False)
    verdict = json.loads((tmp_path / "report" / "report.json").read_text())["verdict"]
    assert verdict["kind"] == "told apart" and "a simpler classifier that sees the noise does: AUC 0.900" in verdict["sentence"]


@pytest.fixture(scope="module")
def trained_twice(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("trained_twice")
    shutil.copytree(trained, root, dirs_exist_ok=True)
    train(sample_shards.make_config(root, "train.networks=2"), World(), False)
    return root


def test_two_networks(trained_twice: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report(sample_shards.make_config(trained_twice, "train.networks=2"), World(), False)
    out, directory = capsys.readouterr().out, trained_twice / "report"
    content = json.loads((directory / "report.json").read_text())
    with open(directory / "scores.csv") as file:
        rows = list(csv.DictReader(file))
    scores = np.array([[float(row[f"score_{number}"]) for row in rows] for number in (1, 2)])
    labels = np.array([int(row["label"]) for row in rows])
    assert [float(row["score"]) for row in rows] == pytest.approx(scores.mean(axis=0))
    alone = [roc_auc_score(labels, row) for row in scores]
    assert not np.array_equal(*scores) and [each["auc"] for each in content["networks"]] == pytest.approx(alone)
    assert content["auc"] == pytest.approx(np.mean(alone)) and content["networks_scatter"] == pytest.approx(np.std(alone, ddof=1))
    assert [each["seed"] for each in content["networks"]] == [1, 2]
    for each in content["networks"]:
        assert f"  network of seed {each['seed']}, epoch {each['epoch']}: AUC {each['auc']:.3f} [" in out
    assert "mean of 2 networks), accuracy " in out


def test_networks_that_are_missing_or_of_another_training_are_named(trained_twice: Path, tmp_path: Path) -> None:
    shutil.copytree(trained_twice, tmp_path, dirs_exist_ok=True)
    config, second = sample_shards.make_config(tmp_path, "train.networks=4"), tmp_path / "run" / "network_2"
    with pytest.raises(
        InputError, match=r"run: lacks networks 3, 4 of train.networks = 4; run 'hpc-galaxy train', which trains what is missing"
    ):
        report(config, World(), False)
    # The second is the first again, and then one of other settings.
    shutil.copy(tmp_path / "run" / "weights.safetensors", second)
    with pytest.raises(InputError, match="network_2: was trained with another configuration than the first network, or not from seed 2"):
        report(sample_shards.make_config(tmp_path, "train.networks=2"), World(), False)
    other = sample_shards.make_config(tmp_path, "seed=2", "train.optimizer.name='sgd'", f"paths.run='{second}'")
    train(other, World(), True)
    with pytest.raises(InputError, match="was trained with another configuration than the first network"):
        report(sample_shards.make_config(tmp_path, "train.networks=2"), World(), False)


def test_a_failed_audit_forbids_a_verdict_and_one_of_other_shards_does_not_count(tmp_path: Path) -> None:
    shards, out = tmp_path / "shards", tmp_path / "report"
    sample_shards.make_shards(shards, size=32)
    out.mkdir()
    reader = open_split(shards, "test")
    failed = {"fingerprint": "another", "checks": [{"name": name, "result": "fail"} for name in ("centroid x", "edges")]}
    (shards / "audit.json").write_text(json.dumps(failed))
    assert find_leaks(shards / "audit.json") == ["the audit failed: centroid x, edges"]
    assert require_audit(reader, World(), 1, out) == out / "audit.json"
    content = json.loads((out / "audit.json").read_text())
    assert content["fingerprint"] == reader.manifest.fingerprint and len(content["checks"]) > 10
    (shards / "audit.json").write_text(json.dumps(failed | {"fingerprint": content["fingerprint"]}))
    assert require_audit(reader, World(), 1, out) == shards / "audit.json"
    (shards / "audit.json").write_text(json.dumps({"checks": ["centroid x"]}))
    with pytest.raises(InputError, match="'checks' holds something that is no object; run 'hpc-galaxy audit' again"):
        find_leaks(shards / "audit.json")
    (shards / "audit.json").write_text("[]")
    with pytest.raises(InputError, match="is a JSON list, expected an object"):
        require_audit(reader, World(), 1, out)


def test_without_magnitudes_there_are_no_mosaics(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    table = np.load(tmp_path / "shards" / "table_test_000000.npy", mmap_mode="r+")
    table["mag_g"] = np.nan
    del table
    report(sample_shards.make_config(tmp_path), World(), False)
    assert "no galaxy has a g magnitude" in capsys.readouterr().out
    assert json.loads((tmp_path / "report" / "report.json").read_text())["pictures"] == ["roc.png", "scores.png", "where.png"]


def test_a_training_that_is_not_done_is_refused(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    (tmp_path / "run" / "DONE").unlink()
    with pytest.raises(InputError, match="DONE: no such file; run 'hpc-galaxy train' first"):
        report(sample_shards.make_config(tmp_path), World(), False)


def test_other_shards_than_the_training_s_are_refused(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    sample_shards.make_shards(tmp_path / "shards", train=70, valid=40, test=44, size=32)
    with pytest.raises(InputError, match="was trained on other shards"):
        report(sample_shards.make_config(tmp_path), World(), False)
