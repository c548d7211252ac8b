"""Which galaxies a mosaic shows: real and fake of the same brightness."""

from __future__ import annotations

import numpy as np

CANDIDATES = 8  # a class and wanted pair, the nearest to the target


def magnitude_at(magnitudes: np.ndarray, percentile: float) -> float:
    """Return the magnitude at a percentile of *brightness* (99: only 1 % are brighter), galaxies without one left aside."""
    return float(np.nanpercentile(magnitudes, 100 - percentile))


def choose_pairs(table: np.ndarray, target: float, pairs: int, band: str = "g") -> np.ndarray:
    """Choose pairs of a real and a fake galaxy that are alike in magnitude and near `target`.

    The best pair is taken first, then the best of what is left: the one with the smallest difference within the pair plus
    mean distance from the target. No galaxy is chosen twice, not even one that several realisations show.

    Parameters
    ----------
    table : ndarray, shape (N,)
        A source table; rows whose magnitude is not finite are never chosen.
    target : float
        AB magnitude.
    pairs : int
        How many are wanted; fewer come back where a class has fewer.
    band : str
        Of the magnitudes.

    Returns
    -------
    ndarray, shape (n, 2), int
        Rows of `table`: real, fake; the brightest real galaxy first.
    """
    real, fake = (_nearest(table, label, target, f"mag_{band}")[: CANDIDATES * pairs] for label in (0, 1))
    magnitudes = table[f"mag_{band}"].astype(float)
    away = np.abs(magnitudes - target)
    cost = np.abs(magnitudes[real][:, None] - magnitudes[fake]) + (away[real][:, None] + away[fake]) / 2
    chosen = []
    for _ in range(min(pairs, len(real), len(fake))):
        i, j = np.unravel_index(np.argmin(cost), cost.shape)
        chosen.append((real[i], fake[j]))
        cost[i, :] = cost[:, j] = np.inf
    chosen.sort(key=lambda pair: magnitudes[pair[0]])
    return np.array(chosen, dtype=int).reshape(-1, 2)


def _nearest(table: np.ndarray, label: int, target: float, column: str) -> np.ndarray:
    """Return the rows of one class, each galaxy once, the nearest in magnitude first."""
    rows = np.flatnonzero((table["label"] == label) & np.isfinite(table[column]))
    _, first = np.unique(table["id"][rows], return_index=True)
    rows = rows[np.sort(first)]
    return rows[np.argsort(np.abs(table[column][rows] - target), kind="stable")]
