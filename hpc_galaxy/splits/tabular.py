"""Tell fake from real by columns of the source table: the propensity score that galaxies are matched by, and the gate that follows.

Each split is scored and matched by itself, and the gate learns from one split and is asked about the others. Were a score learned from
both, matching would take out of the one what is there by chance in the other: whatever is learned from the first would be wrong
about the second, and an AUC comes out below 0.5, by more than its interval, for tables and for networks alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hpc_galaxy.auc import LEVEL, auc, bootstrap_auc
from hpc_galaxy.chance import normal_quantile, student_quantile
from hpc_galaxy.splits.matching import match_nearest

FOLDS = 2
PARTS = 5
ROUNDS = 4
CALIPER = 0.2
"""Standard deviations of the logit (Austin 2011, Pharm. Stat. 10, 150)."""
# Of what was tried, slow trees of four leaves told held-out galaxies best or nearly so, from 1,000 to 60,000 examples.
TREES = ((10_000, 100), (50_000, 200), (np.inf, 400))
SETTINGS = {"learning_rate": 0.05, "max_leaf_nodes": 4, "min_samples_leaf": 40, "l2_regularization": 1.0, "early_stopping": False}
SCRAMBLE = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio (Knuth, TAOCP 3, 6.4)
FARTHEST = 4.0  # standard deviations at which values are cut off before they are multiplied
EXAMPLES_A_TERM = 20


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
    """Let OpenMP and BLAS use one thread: sums over threads may depend on their number in the last digit, and ranks share cores."""
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # comes with scikit-learn

    with threadpool_limits(1):
        yield


def fit_trees(features: np.ndarray, labels: np.ndarray, seed: int) -> Any:
    """Return scikit-learn's gradient boosting, fitted; None where a class is missing. NaN are a value like others to it."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    if len(np.unique(labels)) < 2:
        return None
    trees = next(trees for limit, trees in TREES if len(labels) < limit)
    # A column without any value cannot be binned; any number in its place says as little.
    columns = np.where(np.isnan(features).all(axis=0), np.float32(0), features)
    with one_thread():
        return HistGradientBoostingClassifier(max_iter=trees, random_state=seed % 2**32, **SETTINGS).fit(columns, labels)


def score(model: Any, features: np.ndarray) -> np.ndarray:
    """Return the logit of 'fake', shape (N,), float64; 0 without a model."""
    if model is None or not len(features):
        return np.zeros(len(features))
    with one_thread():
        return np.asarray(model.decision_function(features))


@dataclass(frozen=True)
class Tilt:
    """A sum of every column, of products of two columns, and of whether it is missing, each times a coefficient.

    Attributes
    ----------
    center, scale : ndarray, shape (k,)
        Of the columns.
    left, right : ndarray, shape (p,), int
        The columns that are multiplied.
    coefficients : ndarray, shape (2 k + p,)
        Of the terms.
    """

    center: np.ndarray
    scale: np.ndarray
    left: np.ndarray
    right: np.ndarray
    coefficients: np.ndarray

    @classmethod
    def flat(cls, features: np.ndarray) -> Tilt:
        """Return the one that is 0 everywhere, for columns like these: with all products, or for few sources just the squares."""
        center, scale = _center_and_scale(features)
        width = features.shape[1]
        left, right = np.triu_indices(width)
        if len(features) < EXAMPLES_A_TERM * (2 * width + len(left)):
            left, right = np.arange(width), np.arange(width)
        return cls(center, scale, left, right, np.zeros(2 * width + len(left)))

    def terms(self, features: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the terms, shape (N,) each; a column that is missing contributes nothing else."""
        known = np.isfinite(features)
        values = np.clip((np.where(known, features, self.center) - self.center) / self.scale, -FARTHEST, FARTHEST)
        yield from values.T
        yield from (~known).T.astype(np.float64)
        for one, other in zip(self.left, self.right, strict=True):
            yield np.where(known[:, one] & known[:, other], values[:, one] * values[:, other], float(one == other))

    def moved(self, step: np.ndarray) -> Tilt:
        """Return this with `step`, shape (2 k + p,), added to the coefficients."""
        return replace(self, coefficients=self.coefficients + step)

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Return the sum, shape (N,), float64."""
        total = np.zeros(len(features))
        # Term by term: a product of matrices may depend on how many rows there are, in the last digit.
        for coefficient, term in zip(self.coefficients, self.terms(features), strict=True):
            total += coefficient * term
        return total


def _center_and_scale(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation of the known values; a scale of infinity keeps constant columns without effect."""
    known = np.isfinite(features)
    count = np.maximum(known.sum(axis=0), 1)
    center = np.where(known, features, 0).sum(axis=0, dtype=np.float64) / count
    scale = np.sqrt((np.where(known, features - center, 0) ** 2).sum(axis=0) / count)
    return center, np.where(scale > 1e-6 * np.abs(center), scale, np.inf)


@dataclass(frozen=True)
class SplitScore:
    """The score of one split.

    Attributes
    ----------
    cuts : ndarray, shape (parts - 1,), uint64
        Where the split's sky groups, sorted by their scrambled hashes, are cut into parts.
    models : list
        One for each part, that never saw it.
    tilt : Tilt
        What is added.
    """

    cuts: np.ndarray
    models: list[Any]
    tilt: Tilt

    def logit(self, features: np.ndarray, groups: np.ndarray) -> np.ndarray:
        """Return the score of sources of this split, shape (N,), float64."""
        part = np.searchsorted(self.cuts, groups * SCRAMBLE, side="right")
        out = self.tilt(features)
        for number in np.unique(part):
            here = part == number
            out[here] += score(self.models[number], features[here])
        return out


@dataclass(frozen=True)
class CrossFit:
    """The propensity score: how much more a source looks like a fake one than like a real one, by its columns.

    A source's trees never saw its sky group, and nothing of its score was learned from another split. It is sent between the ranks of
    one job, never stored.

    Attributes
    ----------
    scores : dict of int to SplitScore
        For each split that was fitted to.
    """

    scores: dict[int, SplitScore]

    def logit(self, features: np.ndarray, groups: np.ndarray, sides: np.ndarray | None = None) -> np.ndarray:
        """Return the logit of the score, shape (N,), float64; 0 in a split that was not fitted to.

        Parameters
        ----------
        features : ndarray, shape (N, k), float32
            NaN where not known.
        groups : ndarray, shape (N,), uint64
            Hashes of the sky groups, which need not have been fitted to.
        sides : ndarray, shape (N,), int, optional
            The split of each source, if it was given to the fit.
        """
        out = np.zeros(len(features))
        sides = fold_of(groups) if sides is None else sides
        for side, of_split in self.scores.items():
            here = sides == side
            out[here] = of_split.logit(features[here], groups[here])
        return out


def fit_cross(
    features: np.ndarray, labels: np.ndarray, groups: np.ndarray, seed: int, caliper: float = CALIPER, sides: np.ndarray | None = None
) -> CrossFit:
    """Fit the propensity score, in each split by itself.

    Gradient boosting, fitted to the other sky groups of the same split, tells most of the difference, but less than all: it shrinks
    what it has learned. So the score is tilted until the galaxies that it matches agree in the means of their columns and of products
    of these, as in covariate balancing propensity scores (Imai & Ratkovic 2014, J. R. Stat. Soc. B 76, 243).

    Parameters
    ----------
    features, labels, groups : ndarray, shapes (N, k), (N,), (N,)
        Columns (NaN where not known), 0 real or 1 fake, and uint64 hashes of the sky groups.
    seed : int
        Of the trees.
    caliper : float
        That will be matched with, in standard deviations of the logit.
    sides : ndarray, shape (N,), int, optional
        The split of each source, within which it will be matched; without it the halves of `fold_of` take the splits' place.
    """
    sides = fold_of(groups) if sides is None else sides
    rows = {int(side): np.flatnonzero(sides == side) for side in np.unique(sides)}
    return CrossFit({side: _fit_split(features[here], labels[here], groups[here], seed, caliper) for side, here in rows.items()})


def _fit_split(features: np.ndarray, labels: np.ndarray, groups: np.ndarray, seed: int, caliper: float) -> SplitScore:
    scrambled = groups * SCRAMBLE
    cuts = _cuts(scrambled)
    part = np.searchsorted(cuts, scrambled, side="right")
    # A split of one part gets no trees: they would have learned their own galaxies by heart. The tilt is stiffer.
    models = [fit_trees(features[part != number], labels[part != number], seed) for number in range(len(cuts) + 1)]
    flat = SplitScore(cuts, models, Tilt.flat(features))
    if len(np.unique(labels)) < 2:
        return flat
    return SplitScore(cuts, models, _balance(features, labels, flat.logit(features, groups), flat.tilt, caliper))


def _cuts(scrambled: np.ndarray) -> np.ndarray:
    """Return where to cut sorted groups into at most `PARTS` parts of about as many sources, shape (parts - 1,)."""
    unique, counts = np.unique(scrambled, return_counts=True)
    share = (np.cumsum(counts) - counts / 2) / max(1, len(scrambled))
    part = np.minimum(share * PARTS, PARTS - 1).astype(np.int64)
    return unique[1:][np.diff(part) > 0]


def _balance(features: np.ndarray, labels: np.ndarray, logit: np.ndarray, tilt: Tilt, caliper: float) -> Tilt:
    """Return the tilt that, added to `logit`, makes the matched galaxies agree in its terms."""
    from sklearn.linear_model import LogisticRegression

    terms = np.stack(list(tilt.terms(features)), axis=1)
    real, fake = np.flatnonzero(labels == 0), np.flatnonzero(labels == 1)
    for _ in range(ROUNDS):
        scores = logit + tilt(features)
        pairs = match_nearest(scores[real], scores[fake], caliper * spread(scores, labels))
        kept = np.concatenate([real[pairs[:, 0]], fake[pairs[:, 1]]])
        if not len(kept):
            break
        with one_thread():
            step = LogisticRegression(tol=1e-3, max_iter=1000).fit(terms[kept], labels[kept]).coef_[0]
        tilt = tilt.moved(step)
    return tilt


def spread(logit: np.ndarray, labels: np.ndarray) -> float:
    """Return the pooled standard deviation of the logit, in units of which the caliper is given (Austin 2011, Pharm. Stat. 10, 150)."""
    return float(np.mean([np.var(logit[labels == label]) for label in (0, 1)]) ** 0.5)


def tabular_auc(
    features: np.ndarray, labels: np.ndarray, groups: np.ndarray, seed: int, resamplings: int = 1000, held_out: np.ndarray | None = None
) -> dict[str, Any]:
    """See whether a classifier can tell fake from real by columns alone, in sky groups that it has not learned from.

    Parameters
    ----------
    features, labels, groups : ndarray, shapes (N, k), (N,), (N,)
        Columns (NaN where not known), 0 real or 1 fake, and uint64 hashes of the sky groups.
    seed, resamplings : int
        Of the trees and of the bootstrap of sky groups.
    held_out : ndarray, shape (N,), int, optional
        0 for what is learned from; what is asked about has other numbers, and is compared with its own number alone: examples of one
        split. Without it each half of the groups is asked about what was learned from the other.

    Returns
    -------
    dict
        ``auc`` and its 95 % ``interval``, None where they cannot be had, and then the ``reason``; ``examples`` and ``groups`` that were
        asked about.
    """
    asked = np.ones(len(labels), bool) if held_out is None else held_out != 0
    count = len(np.unique(groups[asked]))
    result: dict[str, Any] = {"auc": None, "interval": None, "examples": int(asked.sum()), "groups": count}
    folds = _halves(labels, groups, seed) if held_out is None else held_out
    if folds is None or not _has_both(labels[~asked if held_out is not None else asked]):
        return result | {"reason": "too few examples of each class to learn from"}
    scores = _scores_apart(features, labels, folds, seed, both_ways=held_out is None)
    asked_about = labels[asked], scores[asked]
    value = auc(*asked_about, folds[asked])
    if not np.isfinite(value):
        return result | {"reason": "no examples of both classes to ask about"}
    interval = bootstrap_auc(*asked_about, groups[asked], resamplings, seed, folds[asked])
    result["auc"] = value
    if interval is None:
        return result | {"reason": f"{count} sky group{'s' * (count != 1)}, at least 2 with both classes are needed"}
    wider = _widening(count, both_ways=held_out is None)
    return result | {"interval": [max(0.0, value + wider * (interval[0] - value)), min(1.0, value + wider * (interval[1] - value))]}


def _scores_apart(features: np.ndarray, labels: np.ndarray, folds: np.ndarray, seed: int, both_ways: bool) -> np.ndarray:
    """Return the logits of all but fold 0, shape (N,), learned from fold 0; `both_ways`: also of fold 0, learned from the rest."""
    scores = np.zeros(len(labels))
    first = folds == 0
    for learned, asked in ((first, ~first), (~first, first))[: 1 + both_ways]:
        scores[asked] = score(fit_trees(features[learned], labels[learned], seed), features[asked])
    return scores


def _widening(groups: int, both_ways: bool) -> float:
    """Return by how much an interval is wider than the bootstrap's.

    Few groups: Student's t for the normal distribution, and the missing degree of freedom (Cameron & Miller 2015, J. Hum. Resour. 50,
    317, sect. VI). Both ways: what differs between the halves by chance is learned and asked for twice, the two AUCs are hardly
    independent, and a bootstrap of given scores takes them for so. Without a difference between the classes the interval then held
    0.5 in 94 to 97 of 100 made-up samples; the bootstrap's own in 85 to 92.
    """
    tail = (1 + LEVEL) / 2
    few = float(student_quantile(tail, groups - 1) / normal_quantile(tail)) * (groups / (groups - 1)) ** 0.5
    return few * (2**0.5 if both_ways else 1)


def _has_both(labels: np.ndarray) -> bool:
    return len(np.unique(labels)) == 2


def _halves(labels: np.ndarray, groups: np.ndarray, seed: int) -> np.ndarray | None:
    """Return the half that each example is in, 0 or 1, shape (N,): that of its group; where these lack a class, others."""
    rank = np.unique(groups, return_inverse=True)[1]
    for fold in (fold_of(groups), rank % FOLDS, _dealt(labels, seed)):
        if _has_both(labels[fold == 0]) and _has_both(labels[fold == 1]):
            return np.asarray(fold)
    return None


def _dealt(labels: np.ndarray, seed: int) -> np.ndarray:
    """Deal the examples of each class out in turn, in a random order, shape (N,)."""
    fold = np.empty(len(labels), np.int64)
    rng = np.random.default_rng(seed)
    for label in (0, 1):
        rows = np.flatnonzero(labels == label)
        fold[rng.permutation(rows)] = np.arange(len(rows)) % FOLDS
    return fold
