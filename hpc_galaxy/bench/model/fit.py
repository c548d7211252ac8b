"""Which latency and bandwidth explain measured allreduces best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.optimize import least_squares

from hpc_galaxy.bench.model.messages import Link, fastest
from hpc_galaxy.errors import LaunchError


def fit_link(sweep: Mapping[int, Sequence[float]], ranks: int) -> Link:
    """Return the link by which the model's allreduces come closest to measured ones.

    Parameters
    ----------
    sweep : mapping of int to sequence of float
        Seconds, by bytes; two sizes or more, far apart.
    ranks : int
        That took part, two or more.

    Returns
    -------
    Link
        Least squares of the relative deviations from the medians, so that small and large messages count alike. Both are positive.

    Raises
    ------
    LaunchError
        There is one rank, and so no message.

    Notes
    -----
    On two ranks every algorithm sends the same bytes, and the fastest needs one latency: the sweep is a straight line. On more the model
    takes the fastest algorithm at each size, as it does when it predicts.
    """
    if ranks < 2:
        raise LaunchError("fitting a link", f"{ranks} rank, expected 2 or more", "measure with two ranks")
    sizes = sorted(sweep)
    medians = np.array([np.median(sweep[size]) for size in sizes])

    def deviations(logarithms: np.ndarray) -> np.ndarray:
        link = Link(*np.exp(logarithms))
        return np.array([fastest(ranks, size, link) for size in sizes]) / medians - 1

    # Where the smallest and the largest message put the two; in logarithms, so that they stay positive.
    guess = np.log([medians[0] / np.log2(2 * ranks), sizes[-1] / medians[-1]])
    latency, bandwidth = np.exp(least_squares(deviations, guess).x)
    return Link(float(latency), float(bandwidth))
