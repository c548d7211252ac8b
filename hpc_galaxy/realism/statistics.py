"""What the scores of a test split say, in numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from hpc_galaxy.auc import auc, bootstrap_auc
from hpc_galaxy.config import Realism
from hpc_galaxy.realism.baselines import Baseline
from hpc_galaxy.realism.calibration import calibrate
from hpc_galaxy.realism.clustered import ClusteredAuc, clustered_auc, clustered_mean, permutation_p
from hpc_galaxy.realism.power import detectable_auc, provable_margin
from hpc_galaxy.realism.verdict import judge
from hpc_galaxy.training.scores import fake_probability


def confusion_table(labels: np.ndarray, called_fake: np.ndarray) -> dict[str, dict[str, int]]:
    """Count what was called what.

    Parameters
    ----------
    labels : ndarray, shape (N,)
        0 real, 1 fake.
    called_fake : ndarray, shape (N,), bool
        What the networks say.

    Returns
    -------
    dict
        ``table["real"]["called fake"]`` and so on.
    """
    return {
        name: {
            f"called {other}": int(np.sum((labels == label) & (called_fake == call))) for other, call in (("real", False), ("fake", True))
        }
        for name, label in (("real", 0), ("fake", 1))
    }


def call_fake(logits: np.ndarray) -> np.ndarray:
    """Return which stamps are called fake, shape (N,): those whose probability, the mean over the networks, is above one half.

    Parameters
    ----------
    logits : ndarray, shape (networks, N, 2)
        Of one network, column 1 is the higher, which rounding of the probability cannot change.
    """
    if len(logits) == 1:
        return np.asarray(logits[0, :, 1] > logits[0, :, 0])
    return np.asarray(fake_probability(logits).mean(axis=0) > 0.5)


def summarise(
    labels: np.ndarray,
    logits: np.ndarray,
    bricks: np.ndarray,
    settings: Realism,
    seed: int,
    leaks: Sequence[str] = (),
    where: str = "",
    simpler: Sequence[Baseline] = (),
) -> dict[str, Any]:
    """Return the numbers of the report, ready for JSON.

    Of several networks the AUC is the mean of theirs. Its error, interval and p-value say how it would differ on other bricks, for these
    networks as they are; galaxies that all networks get wrong together count as such. How it would differ with other seeds is not in
    them: ``networks_scatter``, the standard deviation of the networks' AUC, tells, over the square root of their number. Accuracy,
    confusion and calibration are of the mean probability.

    Parameters
    ----------
    labels, bricks : ndarray, shape (N,)
        The test split in its own order.
    logits : ndarray, shape (networks, N, 2), or (N, 2) for one network
        Of each network.
    settings : Realism
        How many resamplings and permutations, and the margin.
    seed : int
        Of both.
    leaks : sequence of str
        Why there may be no verdict, see `hpc_galaxy.realism.gate.find_leaks`.
    where : str
        At which galaxies they are told apart, see `hpc_galaxy.realism.where.describe`.
    simpler : sequence of Baseline
        What other classifiers make of the same galaxies.
    """
    logits = logits.reshape(-1, len(labels), 2)
    scores, called, count = fake_probability(logits), call_fake(logits), len(np.unique(bricks))
    found, networks = clustered_auc(labels, scores, bricks), [_of_network(labels, row, bricks) for row in scores]
    right, right_interval = clustered_mean(called == labels, bricks)
    p_value = permutation_p(labels, scores, bricks, settings.permutations, seed) if found else None
    values = [each["auc"] for each in networks if each["auc"] is not None]
    return {
        "examples": len(labels),
        "bricks": count,
        "accuracy": right,
        "accuracy_interval": right_interval,
        "auc": float(np.mean(values)) if len(values) == len(networks) else None,
        **_by_bricks(found),
        "auc_interval_method": _interval_method(count, found is not None),
        "auc_bootstrap_interval": bootstrap_auc(labels, scores, bricks, settings.bootstrap, seed),
        "networks": networks,
        "networks_scatter": float(np.std(values, ddof=1)) if len(values) > 1 else None,
        "p_value": p_value,
        "permutations": settings.permutations,
        "calibration": asdict(calibrate(labels, scores.mean(axis=0))),
        "confusion": confusion_table(labels, called),
        "verdict": asdict(judge(found, p_value, settings.margin or None, leaks, where, simpler)),
    }


def _by_bricks(found: ClusteredAuc | None) -> dict[str, Any]:
    """Return what follows from the scatter between bricks; None throughout where that is not known."""
    if found is None:
        return dict.fromkeys(("auc_interval", "auc_error", "design_effect", "detectable_auc", "provable_margin"))
    numbers = {"auc_interval": found.interval(), "auc_error": found.error, "design_effect": found.design_effect}
    return {**numbers, "detectable_auc": detectable_auc(found), "provable_margin": provable_margin(found)}


def _of_network(labels: np.ndarray, scores: np.ndarray, bricks: np.ndarray) -> dict[str, Any]:
    value, found = auc(labels, scores), clustered_auc(labels, scores, bricks)
    return {"auc": value if np.isfinite(value) else None, "auc_interval": found.interval() if found else None}


def _interval_method(bricks: int, found: bool) -> str:
    if found:
        return f"95 %, Student's t over {bricks} bricks"
    return f"no interval: {bricks} brick{'s' * (bricks != 1)}, at least 2 with both classes are needed"
