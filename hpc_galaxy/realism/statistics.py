"""What the scores of a test split say: confusion, and how far its AUC can be trusted."""

from __future__ import annotations

from typing import Any

import numpy as np

from hpc_galaxy.training.scores import accuracy, auc, fake_probability

LEVEL = 0.95


def confusion_table(labels: np.ndarray, logits: np.ndarray) -> dict[str, dict[str, int]]:
    """Count what was called what.

    Parameters
    ----------
    labels : ndarray, shape (N,)
        0 real, 1 fake.
    logits : ndarray, shape (N, 2)
        The network's; a stamp is called fake where column 1 is higher.

    Returns
    -------
    dict
        ``table["real"]["called fake"]`` and so on.
    """
    called = logits[:, 1] > logits[:, 0]
    return {
        name: {f"called {other}": int(np.sum((labels == label) & (called == call))) for other, call in (("real", False), ("fake", True))}
        for name, label in (("real", 0), ("fake", 1))
    }


def bootstrap_auc(labels: np.ndarray, scores: np.ndarray, groups: np.ndarray, resamplings: int, seed: int) -> tuple[float, float] | None:
    """Return the 95 % interval of the AUC from resampling whole groups, with replacement.

    Galaxies of one brick share seeing, depth and sky, so they are no independent examples; bricks are (Field & Welsh 2007,
    J. R. Stat. Soc. B 69, 369). Resamples that lack one class are left out.

    Parameters
    ----------
    labels, scores, groups : ndarray, shape (N,)
        0 real or 1 fake, the score (higher is more fake), and the brick of each example.
    resamplings : int
        How many times.
    seed : int
        Of the resampling.

    Returns
    -------
    (float, float) or None
        The 2.5 and 97.5 percentiles; None with fewer than two groups, or where no resample has both classes.
    """
    names, member = np.unique(groups, return_inverse=True)
    if len(names) < 2:
        return None
    rows = np.split(np.argsort(member, kind="stable"), np.cumsum(np.bincount(member))[:-1])
    rng = np.random.default_rng(seed)
    values = np.empty(resamplings)
    for number in range(resamplings):
        chosen = np.concatenate([rows[group] for group in rng.integers(len(rows), size=len(rows))])
        values[number] = auc(labels[chosen], scores[chosen])
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    low, high = np.quantile(values, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return float(low), float(high)


def summarise(labels: np.ndarray, logits: np.ndarray, bricks: np.ndarray, resamplings: int, seed: int) -> dict[str, Any]:
    """Return the numbers of the report, ready for JSON.

    Parameters
    ----------
    labels, logits, bricks : ndarray, shapes (N,), (N, 2), (N,)
        The test split in its own order.
    resamplings, seed : int
        Of the bootstrap.
    """
    scores = fake_probability(logits)
    value = auc(labels, scores)
    interval = bootstrap_auc(labels, scores, bricks, resamplings, seed)
    count = len(np.unique(bricks))
    method = f"95 %, bootstrap over {count} bricks, {resamplings} resamplings"
    why_none = f"no interval: {count} brick{'s' * (count != 1)}, at least 2 with both classes are needed"
    return {
        "examples": len(labels),
        "bricks": count,
        "accuracy": accuracy(labels, logits),
        "auc": value if np.isfinite(value) else None,
        "auc_interval": list(interval) if interval else None,
        "auc_interval_method": method if interval else why_none,
        "confusion": confusion_table(labels, logits),
    }
