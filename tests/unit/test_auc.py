"""The area under the ROC curve and its interval, against the plain way to compute them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import rankdata
from sklearn.metrics import roc_auc_score

from hpc_galaxy.auc import auc, bootstrap_auc


def example(size: int, groups: int, seed: int, digits: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, size).astype(np.uint8)
    return labels, np.round(rng.normal(size=size) + 0.3 * labels, digits), rng.integers(0, groups, size)


def plain_auc(labels: np.ndarray, scores: np.ndarray) -> float:
    fakes = int(labels.sum())
    return float((rankdata(scores)[labels == 1].sum() - fakes * (fakes + 1) / 2) / (fakes * (len(labels) - fakes)))


def plain_bootstrap(labels: np.ndarray, scores: np.ndarray, groups: np.ndarray, resamplings: int, seed: int) -> np.ndarray:
    """Put together every resample and rank it anew."""
    rows = [np.flatnonzero(groups == name) for name in np.unique(groups)]
    rng, values = np.random.default_rng(seed), []
    for _ in range(resamplings):
        chosen = np.concatenate([rows[number] for number in rng.integers(len(rows), size=len(rows))])
        values.append(plain_auc(labels[chosen], scores[chosen]))
    return np.quantile(values, (0.025, 0.975))


@pytest.mark.parametrize("digits", [8, 1, 0])
def test_auc_is_scikit_learn_s(digits: int) -> None:
    labels, scores, _ = example(500, 5, 1, digits)
    assert auc(labels, scores) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


@pytest.mark.parametrize("digits", [8, 1])
def test_bootstrap_is_the_plain_one(digits: int) -> None:
    labels, scores, groups = example(400, 9, 2, digits)
    assert bootstrap_auc(labels, scores, groups, 60, 5) == pytest.approx(plain_bootstrap(labels, scores, groups, 60, 5), abs=1e-12)


def test_of_several_networks_the_mean_is_resampled() -> None:
    labels, scores, groups = example(300, 7, 2, 8)
    both = np.stack([scores, example(300, 7, 2, 0)[1]])
    names, rng, values = np.unique(groups), np.random.default_rng(5), []
    for _ in range(40):
        chosen = np.concatenate([np.flatnonzero(groups == name) for name in names[rng.integers(len(names), size=len(names))]])
        values.append(np.mean([plain_auc(labels[chosen], row[chosen]) for row in both]))
    assert bootstrap_auc(labels, both, groups, 40, 5) == pytest.approx(np.quantile(values, (0.025, 0.975)), abs=1e-12)


def test_folds_are_compared_within_themselves() -> None:
    labels, scores, groups = example(600, 12, 3, 1)
    folds = groups % 3
    won = pairs = 0.0
    for number in range(3):
        mine = folds == number
        count = labels[mine].sum() * (1.0 - labels[mine]).sum()
        won, pairs = won + count * roc_auc_score(labels[mine], scores[mine]), pairs + count
    assert auc(labels, scores, folds) == pytest.approx(won / pairs, abs=1e-12)
    # What is added to all scores of a fold makes no difference, unlike where all are compared.
    moved = scores + 7 * folds
    assert auc(labels, moved, folds) == auc(labels, scores, folds) != auc(labels, moved)
    assert bootstrap_auc(labels, moved, groups, 50, 1, folds) == bootstrap_auc(labels, scores, groups, 50, 1, folds)


def test_order_makes_no_difference() -> None:
    labels, scores, groups = example(300, 6, 4, 1)
    order = np.random.default_rng(1).permutation(300)
    assert auc(labels[order], scores[order]) == auc(labels, scores)
    assert bootstrap_auc(labels[order], scores[order], groups[order], 50, 1) == bootstrap_auc(labels, scores, groups, 50, 1)


def test_what_cannot_be_had() -> None:
    one, scores, groups = np.ones(4), np.arange(4.0), np.array([b"a", b"b", b"a", b"b"])
    assert np.isnan(auc(one, scores)) and bootstrap_auc(one, scores, groups, 10, 1) is None
    labels = np.array([0, 1, 0, 1])
    assert np.isnan(auc(labels, np.array([0, 1, np.nan, 2]))), "a network that diverged has no AUC"
    assert bootstrap_auc(labels, np.array([0, 1, np.nan, 2]), groups, 10, 1) is None
    assert bootstrap_auc(labels, scores, np.zeros(4), 10, 1) is None
    assert np.isnan(auc(labels, scores, np.array([0, 1, 0, 1]))), "no fold has both classes"
    # Groups of one class each: resamples of one group alone are left out.
    assert bootstrap_auc(labels, scores, np.array([0, 1, 0, 1]), 200, 1) == (0.75, 0.75)
