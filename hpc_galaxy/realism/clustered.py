"""How far the AUC of held-out scores can be trusted when the examples come in groups: its error, interval and p-value."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logit

from hpc_galaxy.chance import midranks, student_quantile

LEVEL = 0.95
SMALL = 1e-12  # two AUC that differ by less are equal


@dataclass(frozen=True)
class ClusteredAuc:
    """An AUC and its standard errors.

    Attributes
    ----------
    auc : float
        The chance that a fake scores higher than a real one; over several networks, the mean of theirs.
    error : float
        Its standard error, where the examples of a group may depend on each other in any way.
    independent_error : float
        The same, were all examples independent.
    groups : int
        So many.
    """

    auc: float
    error: float
    independent_error: float
    groups: int

    @property
    def design_effect(self) -> float:
        """How many times as many examples are needed as if they were independent."""
        return (self.error / self.independent_error) ** 2 if self.independent_error else 1.0

    def quantile(self, share: float) -> float:
        """Return Student's t for ``groups - 1`` degrees of freedom."""
        return float(student_quantile(share, self.groups - 1))

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """Return a confidence interval: Student's t on the log-odds of the AUC, which keeps it between 0 and 1.

        Of few groups it holds what it promises better than the percentiles of a bootstrap do (benchmarks/bench_coverage.py). An AUC of
        exactly 0 or 1 has no error that could be measured: the interval is that value.
        """
        if not 0 < self.auc < 1:
            return self.auc, self.auc
        half = self.quantile((1 + level) / 2) * self.error / (self.auc * (1 - self.auc))
        low, high = expit(logit(self.auc) + np.array([-half, half]))
        return float(low), float(high)


def clustered_auc(labels: np.ndarray, scores: np.ndarray, groups: np.ndarray) -> ClusteredAuc | None:
    """Return the AUC of held-out scores with an error that allows for groups.

    A group's influence is the sum of its examples' placements, which are the shares of the other class that they beat, or that beat them
    (DeLong et al. 1988, Biometrics 44, 837; for groups Obuchowski 1997, Biometrics 53, 567).

    Parameters
    ----------
    labels : ndarray, shape (N,)
        0 real, 1 fake.
    scores : ndarray, shape (N,) or (networks, N)
        Higher means more fake; one row for each network.
    groups : ndarray, shape (N,)
        What the examples may not be independent within: bricks.

    Returns
    -------
    ClusteredAuc or None
        None with fewer than two groups, without examples of both classes, or where a score is NaN.
    """
    names, member = np.unique(groups, return_inverse=True)
    fake = labels == 1
    fakes, reals = int(fake.sum()), int((~fake).sum())
    if len(names) < 2 or not fakes or not reals or np.isnan(scores).any():
        return None
    placed = np.mean([_placements(fake, row) for row in np.atleast_2d(scores)], axis=0)
    value = float(placed[fake].mean())
    influence = (placed - value) / np.where(fake, fakes, reals)
    by_group = np.bincount(member, influence)
    error = np.sqrt(len(names) / (len(names) - 1) * (by_group @ by_group))
    independent = np.sqrt(
        sum(influence[mine] @ influence[mine] * count / max(count - 1, 1) for mine, count in ((fake, fakes), (~fake, reals)))
    )
    return ClusteredAuc(value, float(error), float(independent), len(names))


def _placements(fake: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return the share of reals that each fake beats, and of fakes that beat each real, ties counting half; shape (N,)."""
    ranks, placed = midranks(scores), np.empty(len(scores))
    placed[fake] = (ranks[fake] - midranks(scores[fake])) / (~fake).sum()
    placed[~fake] = 1 - (ranks[~fake] - midranks(scores[~fake])) / fake.sum()
    return placed


def permutation_p(labels: np.ndarray, scores: np.ndarray, groups: np.ndarray, permutations: int, seed: int) -> float:
    """Return how likely an AUC at least as high is if fake and real galaxies are alike.

    Then the classes of a whole group may change places: real and fake galaxies of a brick share its seeing, depth and neighbours, and
    changing all of them at once needs no assumption about that. The p-value is ``(1 + k) / (1 + permutations)``, never 0 (Phipson & Smyth
    2010, Stat. Appl. Genet. Mol. Biol. 9, 39).

    Parameters
    ----------
    labels, scores, groups : ndarray
        As of `clustered_auc`.
    permutations : int
        How many are drawn; each group's classes change places with a chance of one half.
    seed : int
        Of the drawing.
    """
    _, member = np.unique(groups, return_inverse=True)
    ranks = np.mean([midranks(row) for row in np.atleast_2d(scores)], axis=0)
    # Of each group: the ranks and the numbers of its reals, and of its fakes.
    sums, counts = (
        np.array([np.bincount(member, weights * (labels == label), member.max() + 1) for label in (0, 1)])
        for weights in (ranks, np.ones(len(ranks)))
    )
    swapped = np.random.default_rng(seed).integers(0, 2, (permutations, sums.shape[1]))
    # The actual classes come first.
    swapped = np.concatenate([np.zeros((1, sums.shape[1]), swapped.dtype), swapped])
    ranked, fakes = (table[1].sum() + swapped @ (table[0] - table[1]) for table in (sums, counts))
    values = (ranked - fakes * (fakes + 1) / 2) / (fakes * (len(ranks) - fakes))
    return float(np.mean(values >= values[0] - SMALL))


def clustered_mean(values: np.ndarray, groups: np.ndarray, level: float = LEVEL) -> tuple[float, tuple[float, float] | None]:
    """Return a mean over examples, such as the accuracy, and its interval; None of fewer than two groups.

    Parameters
    ----------
    values, groups : ndarray, shape (N,)
        One number, and the group, of each example.
    level : float
        Of the interval, from Student's t and the groups' sums of deviations.
    """
    names, member = np.unique(groups, return_inverse=True)
    mean, count = float(np.mean(values)), len(names)
    if count < 2:
        return mean, None
    sums = np.bincount(member, values - mean)
    half = float(student_quantile((1 + level) / 2, count - 1) * np.sqrt(count / (count - 1) * (sums @ sums)) / len(values))
    return mean, (mean - half, mean + half)
