"""Tell fake from real by columns of the source table: the propensity score that galaxies are matched by, and the gate that follows.

The sky is divided in two halves that never meet: in each, galaxies are matched by a score that was learned in that half alone,
and the gate learns in one half and is asked in the other. Were scores to cross the border, matching would fit the very noise that
the gate is tested on, and its AUC would come out below 0.5, by more than its interval.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpc_galaxy.auc import auc, bootstrap_auc
from hpc_galaxy.splits.matching import match_nearest

FOLDS = 2
PARTS = 5
ROUNDS = 4
CALIPER = 0.2
"""Standard deviations of the logit (Austin 2011, Pharm. Stat. 10, 150)."""
# Trees of four leaves, learning slowly, told held-out galaxies best at every size from 1,000 to 60,000; more examples allow more.
TREES = ((10_000, 100), (50_000, 200), (np.inf, 400))
SETTINGS = {"learning_rate": 0.05, "max_leaf_nodes": 4, "min_samples_leaf": 40, "l2_regularization": 1.0, "early_stopping": False}
SCRAMBLE = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio (Knuth, TAOCP 3, 6.4)
WIDENED = 2**0.5
FARTHEST = 4.0  # standard deviations at which values are cut off before they are squared


def fold_of(groups: np.ndarray) -> np.ndarray:
    """Return the half of the sky that each group belongs to, 0 or 1, shape (N,), int64; it depends on the group alone.

    Parameters
    ----------
    groups : ndarray, shape (N,), uint64
        Hashes of the groups' names.
    """
    return (groups % np.uint64(FOLDS)).astype(np.int64)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let OpenMP and BLAS use one thread: sums over threads would depend on their number in the last digit, and trees on that."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        yield


def fit_trees(features: np.ndarray, labels: np.ndarray, seed: int) -> Any:
    """Return scikit-learn's gradient boosting, fitted; None where a class is missing. NaN are a value like others to it."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    if len(np.unique(labels)) < 2:
        return None
    trees = next(trees for limit, trees in TREES if len(labels) < limit)
    with one_thread():
        return HistGradientBoostingClassifier(max_iter=trees, random_state=seed % 2**32, **SETTINGS).fit(features, labels)


def score(model: Any, features: np.ndarray) -> np.ndarray:
    """Return the logit of 'fake', shape (N,), float64; 0 without a model."""
    if model is None or not len(features):
        return np.zeros(len(features))
    with one_thread():
        return np.asarray(model.decision_function(features))


@dataclass(frozen=True)
class Tilt:
    """A sum of every column, its square, and whether it is missing, each times a coefficient.

    Attributes
    ----------
    center, scale : ndarray, shape (k,)
        Of the columns.
    coefficients : ndarray, shape (3 k,)
        Of the terms.
    """

    center: np.ndarray
    scale: np.ndarray
    coefficients: np.ndarray

    @classmethod
    def flat(cls, features: np.ndarray) -> Tilt:
        """Return the one that is 0 everywhere, for columns like these; columns without a value, or of one alone, stay without effect."""
        values = features.astype(np.float64)
        known = np.isfinite(values)
        count = np.maximum(known.sum(axis=0), 1)
        center = np.where(known, values, 0).sum(axis=0) / count
        scale = np.sqrt((np.where(known, values - center, 0) ** 2).sum(axis=0) / count)
        return cls(center, np.where(scale > 1e-6 * np.abs(center), scale, np.inf), np.zeros(3 * features.shape[1]))

    def terms(self, features: np.ndarray) -> np.ndarray:
        """Return the terms, shape (N, 3 k)."""
        known = np.isfinite(features)
        values = np.clip((np.where(known, features, self.center) - self.center) / self.scale, -FARTHEST, FARTHEST)
        return np.concatenate([values, np.where(known, values**2 - 1, 0), ~known], axis=1)

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Return the sum, shape (N,), float64."""
        total = np.zeros(len(features))
        # Term by term: a product of matrices may depend on how many rows there are, in the last digit.
        for coefficient, term in zip(self.coefficients, self.terms(features).T, strict=True):
            total += coefficient * term
        return total


@dataclass(frozen=True)
class Half:
    """The score of one half of the sky.

    Attributes
    ----------
    cuts : ndarray, shape (parts - 1,), uint64
        Where the half is cut into parts, by the scrambled hashes of the groups.
    models : list
        One for each part, that never saw it.
    tilt : Tilt
        What is added.
    """

    cuts: np.ndarray
    models: list[Any]
    tilt: Tilt

    def logit(self, features: np.ndarray, groups: np.ndarray) -> np.ndarray:
        """Return the score of sources of this half, shape (N,), float64."""
        part = np.searchsorted(self.cuts, groups * SCRAMBLE, side="right")
        out = self.tilt(features)
        for number in np.unique(part):
            here = part == number
            out[here] += score(self.models[number], features[here])
        return out


@dataclass(frozen=True)
class CrossFit:
    """The propensity score: how much more a source looks like a fake one than like a real one, by its columns.

    A source's trees never saw its sky group, and nothing of its score was learned in the other half of the sky (`fold_of`). It is sent
    between the ranks of one job alone, never stored.

    Attributes
    ----------
    halves : list of Half
        One for each of `FOLDS`.
    """

    halves: list[Half]

    def logit(self, features: np.ndarray, groups: np.ndarray) -> np.ndarray:
        """Return the logit of the score, shape (N,), float64.

        Parameters
        ----------
        features : ndarray, shape (N, k), float32
            NaN where not known.
        groups : ndarray, shape (N,), uint64
            Hashes of the sky groups, which need not have been fitted to.
        """
        out, fold = np.zeros(len(features)), fold_of(groups)
        for number, half in enumerate(self.halves):
            out[fold == number] = half.logit(features[fold == number], groups[fold == number])
        return out


def fit_cross(features: np.ndarray, labels: np.ndarray, groups: np.ndarray, seed: int, caliper: float = CALIPER) -> CrossFit:
    """Fit the propensity score.

    Gradient boosting, fitted to the other sky groups of the same half, tells most of the difference, but less than all: it shrinks
    what it has learned. So the score is tilted until the galaxies that it matches agree in the means and squares of their columns, as
    in covariate balancing propensity scores (Imai & Ratkovic 2014, J. R. Stat. Soc. B 76, 243).

    Parameters
    ----------
    features, labels, groups : ndarray, shapes (N, k), (N,), (N,)
        Columns (NaN where not known), 0 real or 1 fake, and uint64 hashes of the sky groups.
    seed : int
        Of the trees.
    caliper : float
        That will be matched with, in standard deviations of the logit.
    """
    fold = fold_of(groups)
    rows = [np.flatnonzero(fold == number) for number in range(FOLDS)]
    return CrossFit([_fit_half(features[here], labels[here], groups[here], seed, caliper) for here in rows])


def _fit_half(features: np.ndarray, labels: np.ndarray, groups: np.ndarray, seed: int, caliper: float) -> Half:
    scrambled = groups * SCRAMBLE
    cuts = _cuts(scrambled)
    part = np.searchsorted(cuts, scrambled, side="right")
    # A part with no other beside it would only be scored by trees that have learned it by heart.
    models = [fit_trees(features[part != number], labels[part != number], seed) for number in range(len(cuts) + 1)]
    half = Half(cuts, models, Tilt.flat(features))
    if len(np.unique(labels)) < 2:
        return half
    return Half(cuts, models, _balance(features, labels, half.logit(features, groups), half.tilt, caliper))


def _cuts(scrambled: np.ndarray) -> np.ndarray:
    """Return where to cut sorted groups into at most `PARTS` parts of about as many sources, shape (parts - 1,)."""
    unique, counts = np.unique(scrambled, return_counts=True)
    share = (np.cumsum(counts) - counts / 2) / max(1, len(scrambled))
    part = np.minimum(share * PARTS, PARTS - 1).astype(np.int64)
    return unique[1:][np.diff(part) > 0]


def _balance(features: np.ndarray, labels: np.ndarray, logit: np.ndarray, tilt: Tilt, caliper: float) -> Tilt:
    """Return the tilt that, added to `logit`, makes the matched galaxies agree in its terms."""
    from sklearn.linear_model import LogisticRegression

    terms = tilt.terms(features)
    real, fake = np.flatnonzero(labels == 0), np.flatnonzero(labels == 1)
    for _ in range(ROUNDS):
        scores = logit + tilt(features)
        pairs = match_nearest(scores[real], scores[fake], caliper * spread(scores, labels))
        kept = np.concatenate([real[pairs[:, 0]], fake[pairs[:, 1]]])
        if not len(kept):
            break
        with one_thread():
            step = LogisticRegression(tol=1e-3, max_iter=1000).fit(terms[kept], labels[kept]).coef_[0]
        tilt = Tilt(tilt.center, tilt.scale, tilt.coefficients + step)
    return tilt


def spread(logit: np.ndarray, labels: np.ndarray) -> float:
    """Return the pooled standard deviation of the logit, in units of which the caliper is given (Austin 2011, Pharm. Stat. 10, 150)."""
    return float(np.mean([np.var(logit[labels == label]) for label in (0, 1)]) ** 0.5)


def tabular_auc(features: np.ndarray, labels: np.ndarray, groups: np.ndarray, seed: int, resamplings: int = 1000) -> dict[str, Any]:
    """See whether a classifier can tell fake from real by columns alone, on the half of the sky that it has not learned from.

    Scores are compared within their half: they come from different models. In both directions the same differences between the
    halves are learned and asked for, so that the two AUCs are hardly independent, while a bootstrap of fixed scores would take them for
    so: the interval is wider than the bootstrap's by the square root of 2. Without a difference it then holds 0.5 in 95 of 100 samples, and in 80
    otherwise.

    Parameters
    ----------
    features, labels, groups : ndarray, shapes (N, k), (N,), (N,)
        Columns (NaN where not known), 0 real or 1 fake, and uint64 hashes of the sky groups.
    seed, resamplings : int
        Of the trees and of the bootstrap of sky groups.

    Returns
    -------
    dict
        ``auc`` and the 95 % ``interval``, None where they cannot be had, and then a ``reason``; ``examples``, ``groups``.
    """
    count = len(np.unique(groups))
    result: dict[str, Any] = {"auc": None, "interval": None, "examples": len(labels), "groups": count}
    fold = _halves(labels, groups, seed)
    if fold is None:
        return result | {"reason": "each class needs two examples at least"}
    scores = np.empty(len(labels))
    for number in range(FOLDS):
        scores[fold == number] = score(fit_trees(features[fold != number], labels[fold != number], seed), features[fold == number])
    value = auc(labels, scores, fold)
    result["auc"] = value
    interval = bootstrap_auc(labels, scores, groups, resamplings, seed, fold)
    if interval is None:
        return result | {"reason": f"{count} sky group{'s' * (count != 1)}, at least 2 with both classes are needed"}
    low, high = (value + WIDENED * (limit - value) for limit in interval)
    return result | {"interval": [max(0.0, low), min(1.0, high)]}


def _halves(labels: np.ndarray, groups: np.ndarray, seed: int) -> np.ndarray | None:
    """Return the half that each example is in, shape (N,): that of its group, or where those lack a class, the best that can be had."""
    ranks = np.unique(groups, return_inverse=True)[1]
    for fold in (fold_of(groups), ranks % FOLDS, _stratified(labels, seed)):
        if all(len(np.unique(labels[fold == number])) == 2 for number in range(FOLDS)):
            return fold
    return None


def _stratified(labels: np.ndarray, seed: int) -> np.ndarray:
    """Deal the examples of each class out in turn, in a random order, shape (N,)."""
    fold = np.empty(len(labels), np.int64)
    rng = np.random.default_rng(seed)
    for label in (0, 1):
        rows = np.flatnonzero(labels == label)
        fold[rng.permutation(rows)] = np.arange(len(rows)) % FOLDS
    return fold
