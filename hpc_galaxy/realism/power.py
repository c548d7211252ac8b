"""What a test set can show: the AUC that it detects, the margin within which it can call two samples alike, and how many it takes.

For independent examples Noether (1987, J. Am. Stat. Assoc. 82, 645); two one-sided tests for equivalence (Schuirmann 1987, J.
Pharmacokinet. Biopharm. 15, 657). Groups cost a design effect.
"""

from __future__ import annotations

import math

from hpc_galaxy.chance import normal_quantile
from hpc_galaxy.realism.clustered import ClusteredAuc

SIGNIFICANCE = 0.05  # of each one-sided test
POWER = 0.9
# The variance of the AUC of n + n independent examples that are alike is (2 n + 1) / (12 n^2), or 1 / (6 n).
PER_EXAMPLE = 6.0


def detectable_auc(found: ClusteredAuc, power: float = POWER) -> float:
    """Return the lowest AUC that a test set like this one tells from 0.5 with such a chance, at most 1."""
    return min(1.0, 0.5 + (found.quantile(1 - SIGNIFICANCE) + found.quantile(power)) * found.error)


def provable_margin(found: ClusteredAuc, power: float = POWER) -> float:
    """Return the smallest margin around 0.5 within which two samples that are alike are shown to be so with such a chance.

    Both one-sided tests have to succeed, so each may fail in half of the remaining cases; at most 0.5.
    """
    return min(0.5, (found.quantile(1 - SIGNIFICANCE) + found.quantile((1 + power) / 2)) * found.error)


def needed_to_detect(auc: float, design_effect: float = 1.0, power: float = POWER) -> int:
    """Return how many examples a class it takes to tell `auc` from 0.5.

    Raises
    ------
    ValueError
        `auc` is not above 0.5.
    """
    if not 0.5 < auc <= 1:
        raise ValueError(f"an AUC of {auc}; expected more than 0.5")
    return _examples(normal_quantile(1 - SIGNIFICANCE) + normal_quantile(power), auc - 0.5, design_effect)


def needed_for_margin(margin: float, design_effect: float = 1.0, power: float = POWER) -> int:
    """Return how many examples a class it takes to show that two samples which are alike are so within 0.5 +- `margin`.

    Raises
    ------
    ValueError
        `margin` is not between 0 and 0.5.
    """
    if not 0 < margin < 0.5:
        raise ValueError(f"a margin of {margin}; expected more than 0 and less than 0.5")
    return _examples(normal_quantile(1 - SIGNIFICANCE) + normal_quantile((1 + power) / 2), margin, design_effect)


def _examples(quantiles: float, distance: float, design_effect: float) -> int:
    return math.ceil(design_effect * (quantiles / distance) ** 2 / PER_EXAMPLE)
