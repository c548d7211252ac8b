"""What it costs to wait for the slowest of many ranks, from how the times of few were scattered."""

from __future__ import annotations

from math import log

import numpy as np

TAIL = 0.1  # of the measured times are taken for the beginning of the tail
EULER = 0.5772156649


def expected_maximum(times: np.ndarray, ranks: int) -> float:
    """Return how long the slowest of `ranks` takes on average.

    Parameters
    ----------
    times : ndarray, shape (n,)
        One rank's times for the same work, measured often; the ranks are taken to be alike and independent.
    ranks : int
        So many.

    Notes
    -----
    Of up to ten ranks the sample itself says it: its i-th smallest of n times is the largest of `ranks` with probability
    (i/n)^ranks - ((i-1)/n)^ranks. Of more, the excess over the 90th percentile is taken to be
    exponentially distributed, which gives a maximum that grows with the logarithm of the number of ranks (Gumbel 1958, Statistics of
    Extremes). A sample cannot say anything of what is rarer than itself: a node that hangs once a day is in no model.
    """
    ordered, count = np.sort(np.asarray(times, float)), len(times)
    beyond = TAIL * ranks  # ranks that are in the tail, on average
    if beyond <= 1:
        return float(ordered @ np.diff((np.arange(count + 1) / count) ** ranks))
    threshold = float(np.quantile(ordered, 1 - TAIL))
    tail = ordered[ordered > threshold]
    return threshold + (float(tail.mean()) - threshold) * (log(beyond) + EULER) if len(tail) else threshold
