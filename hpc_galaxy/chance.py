"""Quantiles and tails of the normal and of Student's distribution, and ranks.

scipy.stats has them too, with 420 more modules, which every rank of every stage that compares anything would read before it begins.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import ndtri, stdtr, stdtrit


def normal_quantile(share: Any) -> Any:
    """Return what a standard normal variable lies below with probability `share`."""
    return ndtri(share)


def normal_from_tail(tail: Any) -> Any:
    """Return what a standard normal variable exceeds with probability `tail`, however small that is."""
    return -ndtri(tail)


def student_quantile(share: Any, freedom: Any) -> Any:
    """Return what Student's t, with so many degrees of freedom, lies below with probability `share`."""
    return stdtrit(freedom, share)


def student_tail(value: Any, freedom: Any) -> Any:
    """Return the probability that Student's t, with so many degrees of freedom, exceeds `value`."""
    return stdtr(freedom, -np.asarray(value))


def midranks(values: np.ndarray) -> np.ndarray:
    """Return the rank of each value among all, from 1; equal values share the mean of theirs.

    Parameters
    ----------
    values : ndarray, shape (n,)
        Without NaN.

    Returns
    -------
    ndarray of float64, shape (n,)
    """
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(count) - (count - 1) / 2)[place])
