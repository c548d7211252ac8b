"""The area under the ROC curve, and how far it can be trusted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LEVEL = 0.95


def auc(labels: np.ndarray, scores: np.ndarray, folds: np.ndarray | None = None) -> float:
    """Return the area under the ROC curve: the chance that a fake scores higher than a real one, ties counting half.

    The Mann-Whitney U statistic over the number of pairs (Hanley & McNeil 1982, Radiology 143, 29).

    Parameters
    ----------
    labels : ndarray, shape (N,)
        0 real, 1 fake.
    scores : ndarray, shape (N,)
        Higher means more fake.
    folds : ndarray, shape (N,), int, optional
        Only pairs within a fold are compared: scores of different folds come from different models.

    Returns
    -------
    float
        NaN where there is no pair to compare, or a score is NaN.
    """
    if np.isnan(scores).any():
        return float("nan")
    return _rank(labels, scores, np.zeros(len(labels), np.int64), folds).auc(np.ones(1, np.int64))


def bootstrap_auc(
    labels: np.ndarray, scores: np.ndarray, groups: np.ndarray, resamplings: int, seed: int, folds: np.ndarray | None = None
) -> tuple[float, float] | None:
    """Return the 95 % interval of the AUC from resampling whole groups, with replacement.

    Galaxies of one brick share seeing, depth and sky, so they are no independent examples; bricks are (Field & Welsh 2007,
    J. R. Stat. Soc. B 69, 369). Resamples that lack one class are left out. The scores are sorted once; a resample only
    counts each group as often as it was drawn.

    Parameters
    ----------
    labels, groups : ndarray, shape (N,)
        0 real or 1 fake, and the brick of each example.
    scores : ndarray, shape (N,) or (networks, N)
        Higher is more fake. Of several networks the mean of their AUC is meant: a resample is the same galaxies for all.
    resamplings : int
        How many times.
    seed : int
        Of the resampling.
    folds : ndarray, shape (N,), int, optional
        Only pairs within a fold are compared.

    Returns
    -------
    (float, float) or None
        The 2.5 and 97.5 percentiles; None with fewer than two groups, or where no resample has both classes.
    """
    names, member = np.unique(groups, return_inverse=True)
    if len(names) < 2 or np.isnan(scores).any():
        return None
    rankings = [_rank(labels, row, member, folds) for row in np.atleast_2d(scores)]
    rng = np.random.default_rng(seed)
    drawn = (np.bincount(rng.integers(len(names), size=len(names)), minlength=len(names)) for _ in range(resamplings))
    values = np.array([np.mean([ranking.auc(times) for ranking in rankings]) for times in drawn])
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    low, high = np.quantile(values, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return float(low), float(high)


@dataclass(frozen=True)
class _Ranking:
    """Examples sorted once, by class, fold and score; their AUC is then quickly had for any weights of their groups.

    Attributes
    ----------
    real, fake : ndarray, int
        The groups of the sorted examples of the two classes.
    below, upto : ndarray, shape (number of fakes,), int
        How many of the sorted reals precede each of the sorted fakes, and how many do so or tie with it.
    real_borders, fake_borders : ndarray, shape (number of folds + 1,), int
        Where the folds begin among the sorted reals and fakes.
    """

    real: np.ndarray
    fake: np.ndarray
    below: np.ndarray
    upto: np.ndarray
    real_borders: np.ndarray
    fake_borders: np.ndarray

    def auc(self, weights: np.ndarray) -> float:
        """Return the AUC where each group counts so often, shape (number of groups,), int; NaN where no pair is left."""
        reals = np.append(0, np.cumsum(weights[self.real]))
        fakes = weights[self.fake]
        fakes_until = np.append(0, np.cumsum(fakes))
        reals_of, fakes_of = np.diff(reals[self.real_borders]), np.diff(fakes_until[self.fake_borders])
        # Twice the reals that each fake beats, counting from the first fold; then what lies in earlier folds is taken off.
        twice = fakes @ (reals[self.below] + reals[self.upto]) - 2 * (fakes_of @ reals[self.real_borders[:-1]])
        pairs = int(fakes_of @ reals_of)
        return float(twice / (2 * pairs)) if pairs else float("nan")


def _rank(labels: np.ndarray, scores: np.ndarray, member: np.ndarray, folds: np.ndarray | None) -> _Ranking:
    number, fold = (1, np.zeros(len(scores), np.int64)) if folds is None else _dense(folds)
    levels, place = _dense(scores)
    key = fold * levels + place
    real, fake = (rows[np.argsort(key[rows], kind="stable")] for rows in (np.flatnonzero(labels != 1), np.flatnonzero(labels == 1)))
    below, upto = np.searchsorted(key[real], key[fake], "left"), np.searchsorted(key[real], key[fake], "right")
    limits = np.arange(number + 1) * levels
    return _Ranking(member[real], member[fake], below, upto, np.searchsorted(key[real], limits), np.searchsorted(key[fake], limits))


def _dense(values: np.ndarray) -> tuple[int, np.ndarray]:
    """Return how many different values there are, and the rank of each among them, shape (N,)."""
    different, rank = np.unique(values, return_inverse=True)
    return len(different), rank
