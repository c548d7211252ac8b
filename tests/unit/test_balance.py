"""The report on matching: numbers, lines and picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread
from sample_skewed import COLUMNS, skewed

from hpc_galaxy.splits.balance import Sample, balance_lines, balance_problems, balance_report, draw_balance, mean_difference


def report_of(smd: dict[str, tuple[float | None, float | None]], after: dict[str, Any] | None = None) -> dict[str, Any]:
    before = {"auc": 0.6123, "interval": [0.6, 0.62], "examples": 90, "groups": 9}
    return {
        "columns": {name: {"smd_before": was, "smd_after": now} for name, (was, now) in smd.items()},
        "tabular_auc_before": before,
        "tabular_auc_after": after or {"auc": 0.501, "interval": [0.49, 0.51], "examples": 80, "groups": 9},
        "real": 12345,
        "fake": 6000,
        "pairs": 5000,
        "caliper": 0.2,
        "seed": 1,
    }


def test_mean_difference() -> None:
    values, labels = np.array([1.0, 3, 2, 6, np.nan]), np.array([0, 0, 1, 1, 1])
    # Means 2 and 4, variances 2 and 8.
    assert mean_difference(values, labels) == pytest.approx(2 / 5**0.5)
    assert mean_difference(-values, labels) == pytest.approx(-2 / 5**0.5)
    assert mean_difference(np.ones(5), labels) == 0
    assert mean_difference(labels.astype(float), labels) is None, "both constant, and not the same"
    assert mean_difference(np.array([1.0, 2, np.nan, 3, np.nan]), labels) is None, "one fake value"


def test_report_of_a_skewed_sample() -> None:
    columns, labels, groups = skewed(1500, 40, 0.5, 1)
    columns[(np.arange(len(labels)) % 3 == 0) & (labels == 1), 3] = np.nan
    sides = (np.unique(groups, return_inverse=True)[1] % 2).astype(np.int8)
    before = Sample(columns, labels, groups, sides)
    alike = np.random.default_rng(1).permutation(labels)
    report = balance_report(before, Sample(columns, alike, groups, sides), COLUMNS, 0.2, 1)
    assert json.loads(json.dumps(report)) == report
    assert list(report["columns"]) == [*COLUMNS[:4], "shape_r missing", *COLUMNS[4:]]
    one = labels == 1
    expected = (columns[one, 1].mean() - columns[~one, 1].mean()) / np.sqrt((columns[one, 1].var() + columns[~one, 1].var()) / 2)
    assert report["columns"]["mag_r"]["smd_before"] == pytest.approx(expected, rel=1e-3) and expected > 0.05
    assert report["columns"]["shape_r missing"]["smd_before"] > 0.9
    assert abs(report["columns"]["shape_r missing"]["smd_after"]) < 0.1
    assert report["tabular_auc_before"]["interval"][0] > 0.55
    low, high = report["tabular_auc_after"]["interval"]
    assert low < 0.5 < high
    assert (report["real"], report["fake"], report["pairs"]) == (1500, 1500, 1500)
    asked = int((sides != 0).sum())
    assert report["tabular_auc_after"]["examples"] == asked, "the training split was asked about itself"


def test_lines() -> None:
    assert balance_lines(report_of({"mag_g": (0.3, -0.012), "shape_r missing": (None, 0.0)})) == [
        "standardised mean differences (fake - real) of 5,000 pairs of 12,345 real, 6,000 fake:",
        "  column           before   after",
        "  mag_g            +0.300  -0.012",
        "  shape_r missing       -  +0.000",
        "tabular AUC before 0.612 [0.600, 0.620], after 0.501 [0.490, 0.510]",
    ]


@pytest.mark.parametrize(
    ("smd", "after", "expected"),
    [
        (0.05, {"auc": 0.55, "interval": [0.51, 0.59]}, "real and fake can be told apart by the matched columns alone"),
        (0.05, {"auc": 0.45, "interval": [0.41, 0.49]}, "tabular AUC lies below 0.5, farther than chance would have it"),
        (0.05, {"auc": 0.5, "interval": None, "reason": "1 sky group"}, "has no interval (1 sky group)"),
        (0.05, {"auc": None, "interval": None, "reason": "nobody"}, "has no interval (nobody)"),
        (-0.11, {"auc": 0.5, "interval": [0.49, 0.51]}, "still differ by more than 0.1 in mag_g"),
        (None, {"auc": 0.5, "interval": [0.49, 0.51]}, "still differ by more than 0.1 in mag_g"),
    ],
)
def test_warnings(smd: float | None, after: dict[str, Any], expected: str, tmp_path: Path) -> None:
    report = report_of({"mag_g": (0.3, smd)}, after)
    (problem,) = balance_problems(report)
    assert expected in problem
    assert balance_lines(report)[-1] == f"WARNING: {problem}"
    draw_balance(report, tmp_path / "matching.png")


def test_no_warning_at_the_limits() -> None:
    assert balance_problems(report_of({"mag_g": (0.3, 0.1)}, {"auc": 0.51, "interval": [0.5, 0.52]})) == []


def test_picture(tmp_path: Path) -> None:
    pictures = []
    for number, after in enumerate((0.02, 0.3)):
        path = tmp_path / f"{number}.png"
        draw_balance(report_of({"mag_g": (0.4, after), "shape_r": (-0.2, 0.01)}), path)
        pictures.append(imread(path))
    assert pictures[0].shape == pictures[1].shape and min(pictures[0].shape[:2]) > 200
    assert not np.array_equal(*pictures)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.png", "1.png"]
