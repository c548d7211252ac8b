"""The propensity score, and the gate that a matched sample has to pass."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from sample_skewed import skewed
from threadpoolctl import threadpool_limits

from hpc_galaxy.splits import tabular
from hpc_galaxy.splits.balance import mean_difference
from hpc_galaxy.splits.matching import match_nearest
from hpc_galaxy.splits.tabular import CrossFit, fit_cross, fold_of, spread, tabular_auc


def sides_of(groups: np.ndarray) -> np.ndarray:
    """Train 0, valid 1, test 2: 60, 20 and 20 percent of the groups."""
    return np.array([0, 0, 0, 1, 2])[np.unique(groups, return_inverse=True)[1] % 5]


def matched(model: CrossFit, columns: np.ndarray, labels: np.ndarray, groups: np.ndarray, sides: np.ndarray) -> np.ndarray:
    """Return who has a partner, within its split."""
    logit = model.logit(columns, groups, sides)
    kept = np.zeros(len(labels), bool)
    for side in np.unique(sides):
        real, fake = (np.flatnonzero((labels == label) & (sides == side)) for label in (0, 1))
        pairs = match_nearest(logit[real], logit[fake], 0.2 * spread(logit, labels))
        kept[real[pairs[:, 0]]] = kept[fake[pairs[:, 1]]] = True
    return kept


def test_matching_makes_fainter_fakes_like_real_ones() -> None:
    after = []
    for seed in range(4):
        columns, labels, groups = skewed(3000, 60, 0.5, seed)
        sides = sides_of(groups)
        kept = matched(fit_cross(columns, labels, groups, seed, 0.2, sides), columns, labels, groups, sides)
        before = tabular_auc(columns, labels, groups, seed, 200, sides)
        after.append(tabular_auc(columns[kept], labels[kept], groups[kept], seed, 200, sides[kept]))
        assert before["interval"][0] > 0.51 and before["auc"] > 0.55
        assert after[-1]["interval"][0] <= 0.5 <= after[-1]["interval"][1]
        assert kept.mean() > 0.8
        was = max(abs(mean_difference(column, labels) or 0) for column in columns.T)
        now = max(abs(mean_difference(column, labels[kept]) or 0) for column in columns[kept].T)
        assert was > 0.12 and now < 0.05
    assert abs(np.mean([one["auc"] for one in after]) - 0.5) < 0.012


def test_nothing_is_learned_across_the_splits() -> None:
    columns, labels, groups = skewed(800, 30, 0.5, 1)
    sides = sides_of(groups)
    other = np.where(sides == 0, labels, 1 - labels)
    one, two = (fit_cross(columns, mine, groups, 1, 0.2, sides).logit(columns, groups, sides) for mine in (labels, other))
    assert (one[sides == 0] == two[sides == 0]).all() and not np.allclose(one[sides != 0], two[sides != 0])


def test_trees_never_saw_the_group_that_they_score() -> None:
    columns, labels, groups = skewed(800, 30, 0.0, 1)
    # Nothing but the group's own galaxies tells that its fakes are those of a certain seeing.
    groups[np.isin(groups, np.unique(groups)[:5])] = name = np.unique(groups)[0]
    columns[groups == name, 5] = np.where(labels[groups == name] == 1, 3.0, 4.0)
    model = fit_cross(columns, labels, groups, 1, 0.2, np.zeros(len(labels), int))
    of_split = model.scores[0]
    assert len(of_split.models) == 5
    part = int(np.searchsorted(of_split.cuts, np.array([name]) * tabular.SCRAMBLE, side="right")[0])
    probe = np.repeat(columns[:1], 2, axis=0)
    probe[:, 5] = [3.0, 4.0]
    told = [float(np.diff(tabular.score(one, probe))[0]) for one in of_split.models]
    assert told[part] == 0, "the part's own trees have seen it"
    assert all(value < 0 for number, value in enumerate(told) if number != part)


def test_halves_take_the_place_of_splits() -> None:
    columns, labels, groups = skewed(400, 20, 0.5, 1)
    model = fit_cross(columns, labels, groups, 1)
    explicit = fit_cross(columns, labels, groups, 1, sides=fold_of(groups))
    assert (model.logit(columns, groups) == explicit.logit(columns, groups, fold_of(groups))).all()
    assert set(fold_of(groups)) == {0, 1} == set(model.scores)


def test_a_score_depends_on_the_source_alone() -> None:
    columns, labels, groups = skewed(800, 30, 0.5, 2)
    columns[::7, 2] = np.nan
    # As it is sent between ranks.
    model = pickle.loads(pickle.dumps(fit_cross(columns, labels, groups, 1)))  # noqa: S301
    together = model.logit(columns, groups)
    assert together.dtype == np.float64 and np.isfinite(together).all()
    for rows in (slice(0, 1), slice(3, 8), slice(100, 777)):
        assert (model.logit(columns[rows], groups[rows]) == together[rows]).all()
    assert model.logit(columns[:0], groups[:0]).shape == (0,)
    strangers = np.random.default_rng(1).integers(0, 2**63, 50, dtype=np.uint64)
    assert np.isfinite(model.logit(columns[:50], strangers)).all()


def test_the_number_of_threads_makes_no_difference() -> None:
    columns, labels, groups = skewed(2500, 30, 0.5, 3)
    results = []
    for threads in (1, 2):
        with threadpool_limits(threads):
            results.append((fit_cross(columns, labels, groups, 1).logit(columns, groups), tabular_auc(columns, labels, groups, 1, 50)))
    assert (results[0][0] == results[1][0]).all() and results[0][1] == results[1][1]


def test_missing_values_are_matched_too() -> None:
    columns, labels, groups = skewed(2000, 40, 0.0, 4)
    missing = np.random.default_rng(1).random(len(labels)) < np.where(labels == 1, 0.3, 0.1)
    columns[missing, 3] = np.nan
    sides = sides_of(groups)
    kept = matched(fit_cross(columns, labels, groups, 1, 0.2, sides), columns, labels, groups, sides)
    was, now = (mean_difference(missing[rows], labels[rows]) or 0 for rows in (np.ones(len(kept), bool), kept))
    assert was > 0.4 and abs(now) < 0.08
    assert tabular_auc(columns, labels, groups, 1, 100)["interval"][0] > 0.55


@pytest.mark.parametrize(("both_ways", "number"), [(True, 100), (False, 20), (False, 8)])
def test_without_a_difference_the_interval_holds_one_half(both_ways: bool, number: int) -> None:
    held, values = 0, []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        columns, groups = rng.normal(size=(500, 4)).astype(np.float32), rng.integers(0, number, 500).astype(np.uint64)
        labels = rng.integers(0, 2, 500)
        result = tabular_auc(columns, labels, groups, seed, 100, None if both_ways else (groups // 2 % 2).astype(int))
        low, high = result["interval"]
        values.append(result["auc"])
        held += low <= 0.5 <= high
    error = np.std(values) / 40**0.5
    assert abs(np.mean(values) - 0.5) < 3 * error
    # 38 of 40 are expected. The bootstrap of given scores holds it in 33 or 34.
    assert held >= 36


def test_where_labels_have_no_meaning_scores_have_none() -> None:
    rng = np.random.default_rng(1)
    columns, groups = rng.normal(size=(400, 3)).astype(np.float32), rng.integers(0, 8, 400).astype(np.uint64)
    nothing = fit_cross(columns, np.zeros(400, int), groups, 1)
    assert (nothing.logit(columns, groups) == 0).all()
    constant = fit_cross(np.ones((400, 2), np.float32), rng.integers(0, 2, 400), groups, 1)
    assert len(np.unique(constant.logit(np.ones((400, 2), np.float32), np.zeros(400, np.uint64)))) == 1
    unknown = np.full((400, 2), np.nan, np.float32)
    assert np.isfinite(fit_cross(unknown, rng.integers(0, 2, 400), groups, 1).logit(unknown, groups)).all()


def test_too_little_to_tell() -> None:
    columns, labels, groups = skewed(200, 8, 0.5, 1)
    one = tabular_auc(columns, labels, np.zeros(400, np.uint64), 1, 50)
    assert 0 < one["auc"] < 1 and one["interval"] is None and one["groups"] == 1
    assert one["reason"] == "1 sky group, at least 2 with both classes are needed"
    same_half = tabular_auc(columns, labels, groups // np.uint64(2) * np.uint64(2), 1, 50)
    assert same_half["interval"] is not None, "groups that chance has put on one half of the sky are divided"
    nobody = tabular_auc(columns, np.zeros(400), groups, 1, 50)
    assert nobody["auc"] is None and nobody["reason"] == "too few examples of each class to learn from"
    asked = tabular_auc(columns, labels, groups, 1, 50, np.where(labels == 1, 0, 1))
    assert asked["auc"] is None and asked["reason"] == "too few examples of each class to learn from"
    unanswered = tabular_auc(columns, labels, groups, 1, 50, ((labels == 1) & (np.arange(400) % 3 == 0)).astype(int))
    assert unanswered["auc"] is None and unanswered["reason"] == "no examples of both classes to ask about"
    assert tabular_auc(columns[:0], labels[:0], groups[:0], 1, 50)["auc"] is None
