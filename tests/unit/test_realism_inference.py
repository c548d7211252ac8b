"""Error, p-value, power and verdict of held-out scores, against scikit-learn, scipy, plain counting and simulated experiments."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.stats import norm, ttest_1samp
from sklearn.metrics import brier_score_loss, roc_auc_score

from hpc_galaxy.realism.baselines import Baseline
from hpc_galaxy.realism.calibration import calibrate
from hpc_galaxy.realism.clustered import ClusteredAuc, clustered_auc, clustered_mean, permutation_p
from hpc_galaxy.realism.power import detectable_auc, needed_for_margin, needed_to_detect, provable_margin
from hpc_galaxy.realism.verdict import ALIKE, REFUSED, TOLD_APART, UNDECIDED, judge


def example(bricks: int, each: int, seed: int, shift: float = 0.0, brick_spread: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw labels, scores and bricks; galaxies of a brick share a part of their score."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(bricks), 2 * each)
    labels = np.tile(np.repeat([0, 1], each), bricks)
    return labels, rng.normal(size=len(groups)) + brick_spread * rng.normal(size=bricks)[groups] + shift * labels, groups


def test_the_auc_is_scikit_learn_s_and_its_independent_error_delong_s() -> None:
    labels, scores, groups = example(12, 10, 1, 0.5)
    scores = np.round(scores, 1)  # ties
    found = clustered_auc(labels, scores, groups)
    assert found is not None and found.groups == 12
    assert found.auc == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    fakes, reals = scores[labels == 1], scores[labels == 0]
    won = (fakes[:, None] > reals) + 0.5 * (fakes[:, None] == reals)
    variance = won.mean(axis=1).var(ddof=1) / len(fakes) + won.mean(axis=0).var(ddof=1) / len(reals)
    assert found.independent_error == pytest.approx(np.sqrt(variance), rel=1e-12)


def test_groups_of_one_example_are_independent_ones() -> None:
    labels, scores, _ = example(400, 1, 2, 0.3, 0.0)
    found = clustered_auc(labels, scores, np.arange(len(labels)))
    assert found is not None
    assert found.error == pytest.approx(found.independent_error, rel=2e-3) and found.design_effect == pytest.approx(1, abs=4e-3)


def test_several_networks_are_averaged() -> None:
    labels, first, groups = example(10, 20, 3, 0.4)
    second = example(10, 20, 4)[1]
    both = clustered_auc(labels, np.array([first, second]), groups)
    assert both is not None
    assert both.auc == pytest.approx((roc_auc_score(labels, first) + roc_auc_score(labels, second)) / 2)
    same, one = clustered_auc(labels, np.array([first, first]), groups), clustered_auc(labels, first, groups)
    assert one is not None and same is not None and same.error == pytest.approx(one.error)


@pytest.mark.parametrize(
    ("labels", "scores", "groups"), [([0, 1], [0.1, 0.2], [7, 7]), ([1, 1], [0.1, 0.2], [1, 2]), ([0, 1], [0.1, np.nan], [1, 2])]
)
def test_no_error_without_two_groups_both_classes_and_numbers(labels: list[int], scores: list[float], groups: list[int]) -> None:
    assert clustered_auc(np.array(labels), np.array(scores), np.array(groups)) is None


def test_the_interval_keeps_its_promise_with_few_dependent_bricks() -> None:
    covered = sum(low <= 0.5 <= high for low, high in (found_of(seed).interval() for seed in range(1000)))
    assert 930 <= covered <= 970


def found_of(seed: int) -> ClusteredAuc:
    found = clustered_auc(*example(13, 8, seed))
    assert found is not None
    return found


def test_an_interval_stays_between_0_and_1() -> None:
    low, high = ClusteredAuc(0.99, 0.02, 0.02, 5).interval()
    assert 0 < low < 0.99 < high < 1
    assert ClusteredAuc(1.0, 0.0, 0.0, 5).interval() == (1.0, 1.0)


def test_the_p_value_is_the_share_of_all_swaps() -> None:
    labels, scores, groups = example(7, 4, 5, 0.5)
    labels[3:5] = 0  # bricks with unequal numbers
    swaps = itertools.product((0, 1), repeat=7)
    actual = roc_auc_score(labels, scores)
    values = [roc_auc_score(np.where(np.array(swap)[groups] == 1, 1 - labels, labels), scores) for swap in swaps]
    exact = np.mean(np.array(values) >= actual - 1e-12)
    assert permutation_p(labels, scores, groups, 20_000, 1) == pytest.approx(exact, abs=0.01)


def test_the_p_value_rejects_as_often_as_it_says() -> None:
    values = np.array([permutation_p(*example(13, 8, seed), 199, seed) for seed in range(1000)])
    assert 30 <= np.sum(values <= 0.05) <= 70
    assert permutation_p(*example(13, 8, 0, 1.5), 999, 0) < 0.004


def test_a_mean_over_groups_of_one_has_student_s_interval() -> None:
    values = np.random.default_rng(1).normal(size=30)
    mean, interval = clustered_mean(values, np.arange(30))
    expected = ttest_1samp(values, 0).confidence_interval()
    assert interval is not None and (mean, *interval) == pytest.approx((values.mean(), expected.low, expected.high))
    assert clustered_mean(values, np.zeros(30)) == (mean, None)


def test_examples_needed_are_the_published_ones() -> None:
    # Noether 1987; the figures of two one-sided tests from simulation.
    for auc, count in ((0.51, 14_350), (0.52, 3_567), (0.55, 580)):
        assert needed_to_detect(auc) == pytest.approx(count, rel=0.02)
    for margin, count in ((0.02, 4_531), (0.01, 18_205)):
        assert needed_for_margin(margin) == pytest.approx(count, rel=0.02)
    assert needed_for_margin(0.02, design_effect=3) == pytest.approx(3 * needed_for_margin(0.02), abs=3)
    for wrong in (0.5, 0.4):
        with pytest.raises(ValueError, match=r"expected more than 0\.5"):
            needed_to_detect(wrong)


def test_power_is_what_simulated_experiments_have() -> None:
    """Of experiments with the detectable AUC, nine in ten detect it."""
    error = float(np.mean([found_of(seed).error for seed in range(50)]))
    goal = detectable_auc(ClusteredAuc(0.5, error, error, 13))
    total = np.sqrt(2) * norm.ppf(goal)  # within a brick
    examples = [example(13, 8, 1000 + seed, total * np.sqrt(2)) for seed in range(200)]  # the bricks' spread doubles the variance
    aucs = [roc_auc_score(labels, scores) for labels, scores, _ in examples]
    assert np.mean(aucs) == pytest.approx(goal, abs=0.01)
    seen = [permutation_p(*one, 199, 1) <= 0.05 for one in examples]
    assert 0.84 < np.mean(seen) <= 1


def test_alike_samples_are_shown_to_be_alike_with_the_stated_power() -> None:
    kinds = []
    for seed in range(300):
        found = found_of(seed)
        kinds.append(judge(found, 0.5, provable_margin(found), []).kind)
    assert 0.84 < kinds.count(ALIKE) / 300 < 0.96


def test_calibration_of_perfect_and_of_boastful_scores() -> None:
    rng = np.random.default_rng(2)
    scores = rng.random(20_000)
    labels = (rng.random(20_000) < scores).astype(int)
    honest, boastful = calibrate(labels, scores), calibrate(labels, np.clip(2 * scores - 0.5, 0, 1))
    assert honest.brier == pytest.approx(brier_score_loss(labels, scores))
    assert honest.expected_error < 0.02 < 0.1 < boastful.expected_error
    assert honest.counts == (2000,) * 10 and np.all(np.diff(honest.scores) > 0)
    assert calibrate(labels[:3], scores[:3]).counts == (1, 1, 1)


@pytest.mark.parametrize(
    ("auc", "error", "p_value", "margin", "leaks", "kind", "sentence"),
    [
        (0.5, 0.005, 0.4, 0.02, [], ALIKE, "AUC 0.500 [0.490, 0.510]: indistinguishable within +/- 0.020 at 90 % power"),
        (0.7, 0.01, 0.0001, 0.02, [], TOLD_APART, "AUC 0.700 [0.680, 0.719]: told apart (p = 0.0001)"),
        (0.51, 0.004, 0.01, 0.02, [], TOLD_APART, "AUC 0.510 [0.502, 0.518]: told apart (p = 0.01), though by less than 0.020"),
        (0.53, 0.03, 0.2, 0.02, [], UNDECIDED, "a margin of 0.020 takes about 4,5"),
        (0.5, 0.005, 0.4, 0.02, ["shared pixels"], REFUSED, "no verdict: shared pixels"),
    ],
)
def test_verdicts(auc: float, error: float, p_value: float, margin: float, leaks: list[str], kind: str, sentence: str) -> None:
    verdict = judge(ClusteredAuc(auc, error, error, 100), p_value, margin, leaks)
    assert verdict.kind == kind and sentence in verdict.sentence


SEES = {"noise": (0.61, 0.0002), "centroid": (0.5, 0.5)}


@pytest.mark.parametrize(
    ("sees", "p_value", "leaks", "kind", "sentence"),
    [
        (
            SEES,
            0.3,
            [],
            TOLD_APART,
            "the network does not tell them apart, but a simpler classifier that sees the noise does: AUC 0.610 [0.590, 0.630]",
        ),
        (SEES, 0.01, [], TOLD_APART, "too little: a simpler classifier that sees the noise has AUC 0.610 [0.590, 0.630]"),
        ({"noise": (0.52, 0.0002)}, 0.01, [], TOLD_APART, "AUC 0.500 [0.490, 0.510]: told apart (p = 0.01), though by less than 0.020"),
        (SEES, 0.3, ["shared pixels"], REFUSED, "no verdict: shared pixels"),
        ({"noise": (0.52, 0.006), "centroid": (0.5, 0.5)}, 0.3, [], ALIKE, "indistinguishable"),  # 0.012 when corrected for two
        ({"noise": (0.52, 0.006)}, 0.3, [], TOLD_APART, "sees the noise"),
        ({"noise": (0.61, 0.0002), "centroid": (0.9, 0.0002)}, 0.3, [], TOLD_APART, "sees the centroid does: AUC 0.900"),
        ({}, 0.3, [], ALIKE, "indistinguishable"),
    ],
)
def test_what_a_simpler_classifier_finds_is_not_indistinguishable(
    sees: dict[str, tuple[float, float]], p_value: float, leaks: list[str], kind: str, sentence: str
) -> None:
    simpler = [Baseline(name, 1000, auc, (auc - 0.02, auc + 0.02), p) for name, (auc, p) in sees.items()]
    verdict = judge(ClusteredAuc(0.5, 0.005, 0.005, 100), p_value, 0.02, leaks, simpler=simpler)
    assert verdict.kind == kind and sentence in verdict.sentence


def test_an_auc_far_below_one_half_is_not_alike() -> None:
    low = judge(ClusteredAuc(0.4, 0.005, 0.005, 100), 1.0, 0.02, [])
    assert low.kind == UNDECIDED and "(p = 1; so far below 0.5 only by chance" in low.sentence


def test_a_test_set_that_can_show_nothing_says_so() -> None:
    few = judge(ClusteredAuc(0.5, 0.06, 0.06, 4), 0.5, None, [])
    assert few.kind == UNDECIDED and few.margin == 0.1 and "a margin of 0.100 takes about 181 galaxies a class" in few.sentence
    assert judge(None, None, None, []).kind == UNDECIDED
