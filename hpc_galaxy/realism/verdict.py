"""From numbers to a sentence: told apart, indistinguishable within a margin, undecided, or no verdict at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpc_galaxy.realism.clustered import ClusteredAuc
from hpc_galaxy.realism.power import POWER, SIGNIFICANCE, detectable_auc, needed_for_margin, provable_margin

if TYPE_CHECKING:
    from hpc_galaxy.realism.baselines import Baseline

WIDEST = 0.1  # margin that is taken where none is wanted: within more nobody would call anything indistinguishable
# Chance, of all simpler classifiers together, that one of them seems to tell alike galaxies apart: on top of the network's 5 %.
OUTDONE = 0.01
# What a verdict can be. The first three say something of the galaxies; with the last the data are not fit to ask.
TOLD_APART, ALIKE, UNDECIDED, REFUSED = "told apart", "indistinguishable", "undecided", "refused"


@dataclass(frozen=True)
class Verdict:
    """An answer.

    Attributes
    ----------
    kind : str
        `TOLD_APART`, `ALIKE`, `UNDECIDED` or `REFUSED`.
    margin : float or None
        Within which of 0.5 the AUC had to be shown to lie; None where it was not asked.
    sentence : str
        For people.
    """

    kind: str
    margin: float | None
    sentence: str


def judge(
    found: ClusteredAuc | None,
    p_value: float | None,
    margin: float | None,
    leaks: Sequence[str],
    where: str = "",
    simpler: Sequence[Baseline] = (),
) -> Verdict:
    """Return the verdict on held-out scores.

    Nothing is said of data that leak. "No difference was found" is no evidence of none: galaxies count as indistinguishable when both
    one-sided tests reject that the AUC is further than `margin` from 0.5, which is when its 90 % interval lies within. Nor is a network
    that finds nothing any evidence where a simpler classifier does: it has learned too little.

    Parameters
    ----------
    found : ClusteredAuc or None
        Of the scores; None where there is no error to be had.
    p_value : float, optional
        Of the permutation test.
    margin : float, optional
        Wanted; without it the smallest that a test set of this size can prove, see `provable_margin`, but at most `WIDEST`.
    leaks : sequence of str
        What lets a classifier win without looking at galaxies.
    where : str
        At which galaxies they were told apart, see `hpc_galaxy.realism.where.describe`.
    simpler : sequence of Baseline
        What else was asked to tell the same galaxies apart.
    """
    if leaks:
        return Verdict(REFUSED, None, f"no verdict: {'; '.join(leaks)}")
    if found is None or p_value is None:
        return Verdict(UNDECIDED, None, "undecided: no error without two bricks and both classes")
    number, high = _number(found), found.interval()[1]
    wanted = min(provable_margin(found), WIDEST) if margin is None else margin
    inner = found.interval(1 - 2 * SIGNIFICANCE)
    within = 0.5 - wanted < inner[0] and inner[1] < 0.5 + wanted
    if p_value <= SIGNIFICANCE:
        but = f", though by less than {wanted:.3f}" if within else ""
        best = max(simpler, key=lambda each: each.auc, default=None)
        if best is not None and best.interval[0] > high:
            but += f"; the network has learned too little: a simpler classifier that sees the {best.name} has {_number(best)}"
        return Verdict(TOLD_APART, wanted, f"{number}: told apart{f' {where}' if where else ''} (p = {p_value:.2g}){but}")
    better = surest(simpler)
    if better is not None:
        sees = f"a simpler classifier that sees the {better.name} does: {_number(better)}"
        return Verdict(TOLD_APART, wanted, f"{number}: the network does not tell them apart, but {sees} (p = {better.p_value:.2g})")
    if within:
        return Verdict(ALIKE, wanted, f"{number}: indistinguishable within +/- {wanted:.3f} at {100 * POWER:.0f} % power")
    below = "; so far below 0.5 only by chance: the p-value is of an AUC above it" if high < 0.5 else ""
    return Verdict(UNDECIDED, wanted, f"{number}: undecided (p = {p_value:.2g}{below}); {_what_it_takes(found, wanted)}")


def surest(simpler: Sequence[Baseline], tries: int = 1) -> Baseline | None:
    """Return the classifier that tells the classes apart most surely, None where none does; there were so many `tries` of each.

    The p-values are corrected for the number of classifiers and tries (Bonferroni) and have to be at most `OUTDONE`.
    """
    best = min(simpler, key=lambda each: (each.p_value, -each.auc), default=None)
    return best if best is not None and best.p_value * len(simpler) * tries <= OUTDONE else None


def _number(found: ClusteredAuc | Baseline) -> str:
    low, high = found.interval() if isinstance(found, ClusteredAuc) else found.interval
    return f"AUC {found.auc:.3f} [{low:.3f}, {high:.3f}]"


def _what_it_takes(found: ClusteredAuc, margin: float) -> str:
    seen = f"an AUC of {detectable_auc(found):.3f} would have been seen with a chance of {100 * POWER:.0f} %"
    if provable_margin(found) <= margin:
        return seen
    galaxies = needed_for_margin(margin, found.design_effect)
    return f"{seen}; a margin of {margin:.3f} takes about {galaxies:,} galaxies a class, see 'hpc-galaxy plan'"
