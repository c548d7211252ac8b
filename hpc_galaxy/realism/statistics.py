"""What the scores of a test split say: confusion, and how far its AUC can be trusted."""

from __future__ import annotations

from typing import Any

import numpy as np

from hpc_galaxy.auc import auc, bootstrap_auc
from hpc_galaxy.training.scores import accuracy, fake_probability


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
