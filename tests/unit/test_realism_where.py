"""Where fakes are told apart, on scores of which we know it."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from hpc_galaxy.realism.where import Bin, describe, holm, locate, quantities
from hpc_galaxy.shards.schema import DEFAULT, SOURCE_DTYPE, StampFormat

BRICKS, EACH = 20, 40


def galaxies(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Draw labels, scores without a difference, bricks and magnitudes."""
    rng = np.random.default_rng(seed)
    bricks = np.repeat(np.arange(BRICKS), EACH)
    return rng.integers(0, 2, len(bricks)), rng.normal(size=len(bricks)), bricks, rng.uniform(20, 24, len(bricks))


def test_fakes_that_differ_when_bright_are_told_apart_there_alone() -> None:
    labels, scores, bricks, magnitudes = galaxies(1)
    scores = scores + 2.0 * labels * (magnitudes < 21)
    size = np.where(magnitudes > 23.9, np.nan, magnitudes % 1)
    found = locate(labels, scores, bricks, {"g (mag)": magnitudes, "size": size}, 999, 1)
    assert [each.quantity for each in found] == ["g (mag)"] * 4 + ["size"] * 4
    assert [each.is_told_apart for each in found[:4]] == [True, False, False, False]
    assert found[0].auc > 0.85 > 0.6 > found[3].auc and found[0].interval[0] > 0.7
    assert sum(each.examples for each in found[:4]) == len(labels)
    assert sum(each.examples for each in found[4:]) == np.isfinite(size).sum()
    assert all(first.high < second.low for first, second in pairwise(found[:4]))
    assert describe(found, "g (mag)") == f"brighter than g = {found[0].high:.1f}, not fainter"
    assert 20.8 < found[0].high < 21.2


def test_of_several_networks_a_bin_has_the_mean_of_their_auc() -> None:
    labels, scores, bricks, magnitudes = galaxies(3)
    both = np.stack([scores + labels, scores])
    values = {"g (mag)": magnitudes}
    mean = locate(labels, both, bricks, values, 99, 1)
    alone = [locate(labels, row, bricks, values, 99, 1) for row in both]
    assert [each.auc for each in mean] == pytest.approx([(one.auc + other.auc) / 2 for one, other in zip(*alone, strict=True)])
    assert locate(labels, both[:1], bricks, values, 99, 1) == alone[0]


def test_of_samples_that_are_alike_few_have_any_bin_told_apart() -> None:
    wrong = 0
    for seed in range(200):
        labels, scores, bricks, magnitudes = galaxies(seed)
        found = locate(labels, scores, bricks, {"g (mag)": magnitudes, "size": magnitudes % 1}, 399, seed)
        wrong += any(each.is_told_apart for each in found)
    assert wrong <= 20


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.5]) == [1.0, 1.0] and holm([]) == []


def make(low: float, apart: bool) -> Bin:
    return Bin("g (mag)", low, low + 1, 9, 0.6, (0.5, 0.7), 0.5, 0.01 if apart else 0.5)


@pytest.mark.parametrize(
    ("apart", "words"),
    [
        ((False, False, False), ""),
        ((True, True, True), "at all magnitudes"),
        ((True, True, False), "brighter than g = 22.0, not fainter"),
        ((False, True, True), "fainter than g = 21.0, not brighter"),
        ((True, False, True), "at g = 20.0 to 21.0, g = 22.0 to 23.0"),
    ],
)
def test_words(apart: tuple[bool, ...], words: str) -> None:
    assert describe([make(20.0 + number, value) for number, value in enumerate(apart)], "g (mag)") == words
    assert describe([make(20.0, True)], "r (mag)") == ""


def test_equal_values_are_in_one_bin_and_a_bin_of_one_class_is_left_out() -> None:
    labels, scores, bricks, _ = galaxies(3)
    assert len(locate(labels, scores, bricks, {"seeing": np.ones(len(labels))}, 99, 1)) == 1
    assert len(locate(labels, scores, bricks, {"label": labels.astype(float)}, 99, 1)) == 0
    assert locate(labels, scores, bricks, {"nothing": np.full(len(labels), np.nan)}, 99, 1) == []


def test_quantities_of_a_table() -> None:
    table = np.zeros(2, SOURCE_DTYPE)
    table["mag_g"], table["mag_z"], table["flux_r"], table["flux_ivar_r"], table["psfsize_r"] = 21, 19.5, 3, [4, -1], 1.2
    found = quantities(table, DEFAULT)
    assert [(name, *map(float, values)) for name, values in found.items()] == [
        ("g (mag)", 21, 21),
        ("g - z (mag)", 1.5, 1.5),
        ("half-light radius (arcsec)", 0, 0),
        ("signal to noise in r", 6, 0),
        ("seeing in r (arcsec)", pytest.approx(1.2), pytest.approx(1.2)),
    ]
    single = StampFormat(bands=("r",))
    assert "r (mag)" in quantities(np.zeros(1, single.source_dtype), single)
