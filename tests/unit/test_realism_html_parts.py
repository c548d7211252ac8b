"""Paths into report.json, checksums, what the manifest says of matching, and the pictures of the page."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import numpy as np
import pytest
import sample_report
import sample_shards
from scipy.stats import binomtest

from hpc_galaxy.config import Paths
from hpc_galaxy.errors import InputError
from hpc_galaxy.realism.checksums import compute_checksums
from hpc_galaxy.realism.html.drawing import draw_missing, draw_replicate, share_interval
from hpc_galaxy.realism.html.shards import describe_shards, matching
from hpc_galaxy.realism.html.trace import ABSENT, Tracer, at, formatted, look_up
from hpc_galaxy.shards.manifest import load_manifest

MATCHING = {
    "columns": {"mag_g": {"smd_before": -0.4, "smd_after": 0.02}, "shape_r": {"smd_before": 0.3, "smd_after": None}},
    "tabular_auc_before": {"auc": 0.61, "interval": [0.6, 0.62], "reason": ""},
    "tabular_auc_after": {"auc": 0.5, "interval": [0.48, 0.52], "reason": ""},
    **{"real": 500, "fake": 400, "pairs": 300, "caliper": 0.2, "seed": 1},
}


def test_paths_lead_anywhere() -> None:
    content = {"a.b": {"~1": [1, {"called real": 2}]}, "x": "text"}
    assert at("", "a.b", "~1", 1, "called real") == "a~1b.~01.1.called real"
    assert look_up(content, at("", "a.b", "~1", 1, "called real")) == 2
    for lost in ("x.0", "a", "a~1b.~01.2", "a~1b.~01.-1", "x.y.z"):
        assert look_up(content, lost) is None


def test_numbers_that_are_none_are_dashes() -> None:
    assert formatted(0.12345, ".3f") == "0.123" and formatted(12345, ",d") == "12,345"
    for nothing in (None, math.nan, math.inf, "0.5", True):
        assert formatted(nothing, ".3f") == ABSENT


def test_values_are_shown_by_their_kind() -> None:
    trace = Tracer(
        {"yes": True, "many": ["a", 2], "half": 0.1234567, "none": None, "list": [{"ok": True}, {"ok": False}], "sum": {"a": 900, "b": 200}}
    )
    assert ">yes<" in trace.value("yes") and ">0.123457<" in trace.value("half") and f">{ABSENT}<" in trace.value("none")
    assert trace.value("many").count("<span") == 2
    assert ">1<" in trace.count("list", "ok", "True") and ">2<" in trace.count("list") and ">0<" in trace.count("nowhere")
    assert ">1,100<" in trace.total("sum")
    assert trace.bar("none", "none") == "" and 'cx="19.8"' in trace.bar("half", "none")


def test_the_matching_of_a_manifest(tmp_path: Path) -> None:
    sample_shards.make_shards(tmp_path)
    manifest = load_manifest(tmp_path)
    assert matching(manifest.model_copy(update={"report": {}})) is None
    report = {"matching": MATCHING, "groups": {"kind": "brick", "count": 5}, "train": {"examples": 7}, "sources": 9}
    found = describe_shards(manifest.model_copy(update={"report": report}))
    assert found["matching"]["columns"] == [
        {"column": "mag_g", "before": -0.4, "after": 0.02},
        {"column": "shape_r", "before": 0.3, "after": None},
    ]
    assert found["matching"]["tabular"]["after"]["auc"] == 0.5 and found["matching"]["pairs"] == 300
    assert len(found["matching"]["problems"]) == 1 and "shape_r" in found["matching"]["problems"][0]
    assert found["splits"] == {"groups": {"kind": "brick", "count": 5}, "train": {"examples": 7}}
    assert found["stamps"] == {"size": manifest.stamps.size, "channels": manifest.channels}


def test_checksums_of_all_that_a_report_stands_on(tmp_path: Path) -> None:
    paths = Paths(shards=tmp_path / "s", run=tmp_path / "r", report=tmp_path / "o")
    files = [
        "r/weights.safetensors",
        "r/network_10/weights.safetensors",
        "r/network_2/weights.safetensors",
        "s/manifest.json",
        "o/scores.csv",
        "o/roc.png",
    ]
    for number, name in enumerate(files):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(bytes([number]) * 70_000)
    found = compute_checksums(paths, ["roc.png"])
    assert list(found) == [
        "run/weights.safetensors",
        "run/network_2/weights.safetensors",
        "run/network_10/weights.safetensors",
        "shards/manifest.json",
        "report/scores.csv",
        "report/roc.png",
    ]
    assert found["report/roc.png"] == hashlib.sha256(bytes([5]) * 70_000).hexdigest()
    with pytest.raises(InputError, match=r"gone\.png: no such file, but the report stands on it"):
        compute_checksums(paths, ["gone.png"])
    (tmp_path / "r" / "weights.safetensors").unlink()
    with pytest.raises(InputError, match=r"weights\.safetensors: no such file"):
        compute_checksums(paths)


def test_intervals_of_shares_are_wilson_s() -> None:
    shares, counts = np.array([0.0, 0.25, 0.5, 1.0]), np.array([7, 60, 60, 9])
    low, high = share_interval(shares, counts)
    for number in range(4):
        expected = binomtest(round(shares[number] * counts[number]), counts[number]).proportion_ci(method="wilson")
        assert (low[number], high[number]) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_pictures_are_drawn_where_their_numbers_are(tmp_path: Path) -> None:
    assert draw_missing({}, tmp_path) == []
    content = sample_report.full()
    assert draw_missing(content, tmp_path) == ["calibration.png", "thresholds.png", "replicate.png"]
    first = {path.name: path.read_bytes() for path in tmp_path.glob("*.png")}
    assert draw_missing(content, tmp_path) and first == {path.name: path.read_bytes() for path in tmp_path.glob("*.png")}
    content["controls"]["thresholds"], content["replicate"] = [], None
    assert draw_missing(content, tmp_path) == ["calibration.png"]


def test_a_run_without_an_auc_has_no_bar(tmp_path: Path) -> None:
    arms = sample_report.make_replicate()["arms"]
    arms[1] |= {"auc": None, "auc_interval": None}
    draw_replicate(arms, tmp_path / "some.png")
    draw_replicate([arms[0], *arms[2:]], tmp_path / "same.png")
    assert (tmp_path / "some.png").read_bytes() == (tmp_path / "same.png").read_bytes()
