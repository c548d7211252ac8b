"""Whether a score of 0.7 means that 7 of 10 are fake."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BINS = 10


@dataclass(frozen=True)
class Calibration:
    """How scores compare with what they claim.

    Attributes
    ----------
    brier : float
        Mean square of score minus label: 0 is perfect, 0.25 is what a constant 0.5 has (Brier 1950, Mon. Weather Rev. 78, 1).
    expected_error : float
        Mean over the bins, by their examples, of share of fakes minus mean score, without sign.
    scores, shares : tuple of float
        The mean score and the share of fakes of each bin, lowest scores first.
    counts : tuple of int
        Examples of each bin.
    """

    brier: float
    expected_error: float
    scores: tuple[float, ...]
    shares: tuple[float, ...]
    counts: tuple[int, ...]


def calibrate(labels: np.ndarray, scores: np.ndarray, bins: int = BINS) -> Calibration:
    """Compare scores with labels in bins of equally many examples (Nixon et al. 2019, arXiv:1904.01685).

    Parameters
    ----------
    labels, scores : ndarray, shape (N,), N at least 1
        0 real or 1 fake, and the probability of fake, from 0 to 1.
    bins : int
        At most so many; equal scores are not kept together.
    """
    order = np.argsort(scores, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    means = np.array([scores[part].mean() for part in parts])
    shares = np.array([np.mean(labels[part] == 1) for part in parts])
    counts = np.array([len(part) for part in parts])
    brier = float(np.mean((scores - (labels == 1)) ** 2))
    error = float(np.average(np.abs(shares - means), weights=counts))
    return Calibration(brier, error, tuple(means.tolist()), tuple(shares.tolist()), tuple(counts.tolist()))
