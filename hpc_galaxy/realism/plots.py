"""The ROC curve and the distribution of the scores."""

from __future__ import annotations

import textwrap
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from hpc_galaxy.files import whole_file

ROC_CAPTION = (
    "Each point is one threshold on the score. On the diagonal the network guesses:\n"
    "real and fake look alike to it. The closer the curve comes to the upper left\n"
    "corner, the easier the fakes are to find."
)
SCORES_CAPTION = (
    "If the two histograms lie on each other the network cannot tell fake from real.\n"
    "Right of the line at 0.5 a stamp is called fake. Look for humps that only one\n"
    "class has: they are the galaxies that give the fakes away."
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
    """Write the ROC curve as PNG; `headline` goes above it."""
    figure = Figure(figsize=(5.4, 6.2), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="0.6", linestyle=":", label="guessing")
    axes.plot(*roc_curve(labels, scores), label="network")
    axes.set(xlabel="share of real galaxies called fake", ylabel="share of fake galaxies called fake", aspect="equal")
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.legend(loc="lower right", frameon=False)
    _finish(figure, headline, ROC_CAPTION, path)


def draw_scores(labels: np.ndarray, scores: np.ndarray, headline: str, path: Path) -> None:
    """Write the histograms of the scores of real and fake as PNG; `headline` goes above them."""
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
    axes.set(xlabel="score: the network's probability of 'fake'", ylabel="galaxies", xlim=(low, high))
    axes.legend(frameon=False)
    _finish(figure, headline, SCORES_CAPTION, path)


def _finish(figure: Figure, headline: str, caption: str, path: Path) -> None:
    figure.suptitle(textwrap.fill(headline, 64), fontsize=11)
    figure.supxlabel(caption, fontsize=8.5)
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=120)
