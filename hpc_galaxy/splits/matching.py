"""Pair fake galaxies with real ones whose propensity score is nearest."""

from __future__ import annotations

import numpy as np


def match_nearest(real: np.ndarray, fake: np.ndarray, caliper: float) -> np.ndarray:
    """Pair each fake with the nearest real one, one to one, without replacement.

    The closest pair is taken first, then the closest of what is left, until no pair is within the caliper (greedy nearest
    neighbours; Austin 2011, Multivariate Behav. Res. 46, 399). Along a line such a pair is always of neighbours, and pairs that
    do not compete for a member can be taken together: a few dozen rounds do it.

    Parameters
    ----------
    real, fake : ndarray, shapes (n,), (m,), float
        Logits of the propensity score; finite.
    caliper : float
        Largest difference within a pair.

    Returns
    -------
    ndarray, shape (pairs, 2), int
        Places in `real` and in `fake`, by increasing place in `real`. The order of the input decides among equals.
    """
    values = np.concatenate([real, fake]).astype(np.float64)
    is_fake = np.arange(len(values)) >= len(real)
    left = np.lexsort((is_fake, values))
    pairs = [np.empty((0, 2), np.int64)]
    while True:
        left = left[_reachable(values[left], is_fake[left], caliper)]
        if not len(left):
            break
        ones, others = _closest(values[left], is_fake[left], caliper)
        pairs.append(np.sort(np.stack([left[ones], left[others]], axis=1), axis=1))
        left = np.delete(left, np.concatenate([ones, others]))
    found = np.concatenate(pairs) - [0, len(real)]
    return found[np.argsort(found[:, 0])]


def _reachable(values: np.ndarray, is_fake: np.ndarray, caliper: float) -> np.ndarray:
    """Return which of the sorted values have one of the other class within the caliper, shape (N,), bool."""
    near = np.zeros(len(values), bool)
    for mine in (False, True):
        others = np.concatenate([[-np.inf], values[is_fake != mine], [np.inf]])
        here = is_fake == mine
        place = np.searchsorted(others, values[here])
        near[here] = np.minimum(others[place] - values[here], values[here] - others[place - 1]) <= caliper
    return near


def _closest(values: np.ndarray, is_fake: np.ndarray, caliper: float) -> tuple[np.ndarray, np.ndarray]:
    """Return places of pairs, lower and upper, each closer than whatever else its members could be paired with.

    Between a run of one class and the next run, of the other, the pairs lie inside one another like brackets: the innermost is
    the closest. As many are taken as are closer than the innermost pairs at the runs' other ends.
    """
    start = np.flatnonzero(np.append(True, is_fake[1:] != is_fake[:-1]))
    border = start[1:]  # first place of the upper run of each neighbouring pair of runs
    gap = np.concatenate([[np.inf], values[border] - values[border - 1], [np.inf]])
    # Among equal gaps a scrambled number decides: the first would leave long chains to be taken up one a round.
    scrambled = np.append((np.arange(len(gap) - 1, dtype=np.uint32) * np.uint32(2654435769)), np.uint32(0)).astype(np.int64)
    before = (gap[1:-1] < gap[:-2]) | ((gap[1:-1] == gap[:-2]) & (scrambled[1:-1] < scrambled[:-2]))
    after = (gap[1:-1] < gap[2:]) | ((gap[1:-1] == gap[2:]) & (scrambled[1:-1] < scrambled[2:]))
    best = np.flatnonzero(before & after)
    limit = np.minimum(np.minimum(gap[best], gap[best + 2]), caliper)
    length = np.diff(np.append(start, len(values)))
    depth = np.minimum(length[best], length[best + 1])
    number = np.repeat(np.arange(len(best)), depth)
    step = np.arange(len(number)) - np.repeat(np.cumsum(depth) - depth, depth)
    lower, upper = border[best][number] - 1 - step, border[best][number] + step
    good = values[upper] - values[lower] <= limit[number]
    return lower[good], upper[good]
