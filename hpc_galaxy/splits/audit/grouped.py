"""Differences between the classes, with errors that know that galaxies of one sky group are not independent."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpc_galaxy.chance import normal_from_tail, student_tail
from hpc_galaxy.shards.schema import LABELS
from hpc_galaxy.splits.audit.findings import Result, judge

FEWEST_GROUPS = 5  # with fewer, galaxies count as independent: the scatter of two or three groups says nothing
LARGEST_SIGMA = 37.0  # what a double can still tell from certainty


@dataclass(frozen=True)
class Limits:
    """When a difference counts: it has to be both significant and large enough to matter.

    Attributes
    ----------
    warn, fail : (float, float)
        Significance in sigmas, and absolute size, that have to be exceeded.
    """

    warn: tuple[float, float]
    fail: tuple[float, float]

    def judge(self, difference: Difference) -> Result:
        """Return what a difference amounts to."""
        return judge(difference.exceeds(*self.fail), difference.exceeds(*self.warn))


@dataclass(frozen=True)
class Difference:
    """Mean of the real minus mean of the fake galaxies.

    Attributes
    ----------
    real, fake : float
        The means; NaN where a class is missing.
    error : float
        Standard error of their difference.
    sigma : float
        Its significance: the deviation of a normal distribution that is as unlikely.
    """

    real: float
    fake: float
    error: float
    sigma: float

    @property
    def value(self) -> float:
        """Real minus fake."""
        return self.real - self.fake

    def exceeds(self, sigma: float, size: float) -> bool:
        """Return whether it is more significant and larger than given."""
        return self.sigma > sigma and abs(self.value) > size

    def numbers(self) -> dict[str, Any]:
        """Return it, ready for JSON; None for what is not known."""
        found = {"real": self.real, "fake": self.fake, "difference": self.value, "error": self.error, "sigma": self.sigma}
        return {name: value if math.isfinite(value) else None for name, value in found.items()}


def difference(values: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> Difference:
    """Return the difference of the classes' means.

    The error is that of a linear estimator with groups as clusters (Liang & Zeger 1986, Biometrika 73, 13, with the factor
    G / (G - 1) for G groups), or that of independent galaxies where it is larger; its significance is by Student's t
    with G - 1 degrees of freedom.

    Parameters
    ----------
    values : ndarray, shape (N,)
        What is compared; what is not finite is left out.
    labels : ndarray, shape (N,)
        `hpc_galaxy.shards.schema.LABELS`.
    groups : ndarray, shape (N,)
        The sky group of each example.
    """
    known = np.isfinite(values)
    values, labels, groups = values[known].astype(np.float64), labels[known], groups[known]
    rows = {name: labels == label for name, label in LABELS.items()}
    means = {name: float(values[here].mean()) if here.any() else math.nan for name, here in rows.items()}
    if any(map(math.isnan, means.values())):
        return Difference(means["real"], means["fake"], math.nan, 0.0)
    influence = np.zeros(len(values))
    for name, sign in (("real", 1), ("fake", -1)):
        influence[rows[name]] = sign * (values[rows[name]] - means[name]) / rows[name].sum()
    error, freedom = _error(influence, groups)
    return Difference(means["real"], means["fake"], error, _significance(means["real"] - means["fake"], error, freedom))


def _error(influence: np.ndarray, groups: np.ndarray) -> tuple[float, int]:
    """Return the standard error, and its degrees of freedom."""
    independent = float((influence**2).sum())
    names, member = np.unique(groups, return_inverse=True)
    if len(names) < FEWEST_GROUPS:
        return math.sqrt(independent), max(len(influence) - 2, 1)
    by_group = np.bincount(member, influence)
    clustered = float((by_group**2).sum()) * len(names) / (len(names) - 1)
    return math.sqrt(max(independent, clustered)), len(names) - 1


def _significance(value: float, error: float, freedom: int) -> float:
    if value == 0:
        return 0.0
    # Classes that are constant and differ leave no doubt.
    chance = float(student_tail(abs(value) / error, freedom)) if error > 0 else 0.0
    return min(float(normal_from_tail(chance)), LARGEST_SIGMA)
