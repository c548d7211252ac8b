"""What the scores of a test split say, in numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from hpc_galaxy.auc import auc, bootstrap_auc
from hpc_galaxy.config import Realism
from hpc_galaxy.realism.calibration import calibrate
from hpc_galaxy.realism.clustered import clustered_auc, clustered_mean, permutation_p
from hpc_galaxy.realism.power import detectable_auc, provable_margin
from hpc_galaxy.realism.verdict import judge
from hpc_galaxy.training.scores import fake_probability


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


def summarise(
    labels: np.ndarray, logits: np.ndarray, bricks: np.ndarray, settings: Realism, seed: int, leaks: Sequence[str] = (), where: str = ""
) -> dict[str, Any]:
    """Return the numbers of the report, ready for JSON.

    Parameters
    ----------
    labels, logits, bricks : ndarray, shapes (N,), (N, 2), (N,)
        The test split in its own order.
    settings : Realism
        How many resamplings and permutations, and the margin.
    seed : int
        Of both.
    leaks : sequence of str
        Why there may be no verdict, see `hpc_galaxy.realism.gate.find_leaks`.
    where : str
        At which galaxies they are told apart, see `hpc_galaxy.realism.where.describe`.
    """
    scores, count = fake_probability(logits), len(np.unique(bricks))
    value, found = auc(labels, scores), clustered_auc(labels, scores, bricks)
    right, right_interval = clustered_mean((logits[:, 1] > logits[:, 0]) == labels, bricks)
    p_value = permutation_p(labels, scores, bricks, settings.permutations, seed) if found else None
    return {
        "examples": len(labels),
        "bricks": count,
        "accuracy": right,
        "accuracy_interval": right_interval,
        "auc": value if np.isfinite(value) else None,
        "auc_interval": found.interval() if found else None,
        "auc_interval_method": _interval_method(count, found is not None),
        "auc_bootstrap_interval": bootstrap_auc(labels, scores, bricks, settings.bootstrap, seed),
        "auc_error": found.error if found else None,
        "design_effect": found.design_effect if found else None,
        "p_value": p_value,
        "permutations": settings.permutations,
        "detectable_auc": detectable_auc(found) if found else None,
        "provable_margin": provable_margin(found) if found else None,
        "calibration": asdict(calibrate(labels, scores)),
        "confusion": confusion_table(labels, logits),
        "verdict": asdict(judge(found, p_value, settings.margin or None, leaks, where)),
    }


def _interval_method(bricks: int, found: bool) -> str:
    if found:
        return f"95 %, Student's t over {bricks} bricks"
    return f"no interval: {bricks} brick{'s' * (bricks != 1)}, at least 2 with both classes are needed"
