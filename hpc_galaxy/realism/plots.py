"""The ROC curve, the distribution of the scores, and the AUC in bins."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from hpc_galaxy.files import whole_file
from hpc_galaxy.realism.where import Bin

NAMED = 6  # curves that are named, at most
ROC_CAPTION = (
    "Each point is one threshold on the score. On the diagonal a network guesses:\n"
    "real and fake look alike to it. The closer the curve comes to the upper left\n"
    "corner, the easier the fakes are to find."
)
SCORES_CAPTION = (
    "If the two histograms lie on each other the network cannot tell fake from real.\n"
    "Right of the line at 0.5 a stamp is called fake. Look for humps that only one\n"
    "class has: they are the galaxies that give the fakes away."
)
BINS_CAPTION = (
    "Each point is the AUC of the galaxies whose value lies within the horizontal bar, with its 95 % interval by bricks. On the line at\n"
    "0.5 they cannot be told apart. Red: told apart, corrected for the number of points. Galaxies of one bin of a quantity differ in the\n"
    "others too: where two quantities show something, it may be one."
)


def roc_curve(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the ROC curve: the share of reals, and of fakes, that score at least each threshold; both from 0 to 1.

    Parameters
    ----------
    labels : ndarray, shape (N,)
        0 real, 1 fake; both occur.
    scores : ndarray, shape (N,)
        Higher means more fake.
    """
    order = np.argsort(-scores, kind="stable")
    fakes = np.cumsum(labels[order] == 1)
    reals = np.cumsum(labels[order] == 0)
    # Equal scores pass the threshold together.
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    return np.append(0, reals[last]) / reals[-1], np.append(0, fakes[last]) / fakes[-1]


def draw_roc(labels: np.ndarray, scores: np.ndarray, headline: str, path: Path) -> None:
    """Write the ROC curve of each network, `scores` of shape (networks, N), as PNG; `headline` goes above."""
    figure = Figure(figsize=(5.4, 6.2), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="0.6", linestyle=":", label="guessing")
    for number, row in enumerate(scores, 1):
        name = "network" if len(scores) == 1 else f"network {number}"
        axes.plot(*roc_curve(labels, row), label=name if len(scores) <= NAMED else None, linewidth=1.5 if len(scores) == 1 else 1)
    axes.set(xlabel="share of real galaxies called fake", ylabel="share of fake galaxies called fake", aspect="equal")
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.legend(loc="lower right", frameon=False)
    _finish(figure, headline, ROC_CAPTION, path)


def draw_scores(labels: np.ndarray, scores: np.ndarray, headline: str, path: Path) -> None:
    """Write the histograms of the scores of real and fake, `scores` of shape (networks, N), as PNG; `headline` goes above them."""
    several, scores = len(scores) > 1, scores.mean(axis=0)
    figure = Figure(figsize=(6.4, 5.2), layout="constrained")
    axes = figure.subplots()
    # An undecided network's scores crowd together: the axis shows their range, not always 0 to 1.
    low, high = min(scores.min(), 0.49), max(scores.max(), 0.51)
    bins = np.linspace(low, high, 41).tolist()
    for label, name, colour in ((0, "real", "C0"), (1, "fake", "C3")):
        mine = scores[labels == label]
        axes.hist(mine, bins, histtype="stepfilled", alpha=0.3, color=colour)
        axes.hist(mine, bins, histtype="step", color=colour, linewidth=1.5, label=f"{name} ({len(mine)})")
    axes.axvline(0.5, color="0.4", linewidth=1)
    whose = "mean over the networks of the" if several else "the network's"
    axes.set(xlabel=f"score: {whose} probability of 'fake'", ylabel="galaxies", xlim=(low, high))
    axes.legend(frameon=False, loc="upper right")
    _finish(figure, headline, SCORES_CAPTION, path)


def draw_bins(bins: Sequence[Bin], headline: str, path: Path) -> None:
    """Write the AUC in bins of each quantity as PNG, a panel each; `headline` goes above them."""
    names = list(dict.fromkeys(each.quantity for each in bins))
    figure = Figure(figsize=(2.9 * max(len(names), 2), 4.6), layout="constrained")
    panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for axes, name in zip(panels, names, strict=True):
        axes.axhline(0.5, color="0.6", linestyle=":")
        for each in (one for one in bins if one.quantity == name):
            middle, (low, high) = (each.low + each.high) / 2, each.interval
            across, up = [[(each.high - each.low) / 2]] * 2, [[each.auc - low], [high - each.auc]]
            axes.errorbar(middle, each.auc, up, across, fmt="o", markersize=4, color="C3" if each.is_told_apart else "C0")
        axes.set_xlabel(name)
    panels[0].set_ylabel("test AUC")
    _finish(figure, headline, BINS_CAPTION, path)


def _finish(figure: Figure, headline: str, caption: str, path: Path) -> None:
    figure.suptitle(textwrap.fill(headline, 64), fontsize=11)
    figure.supxlabel(caption, fontsize=8.5)
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=120)
