"""The pictures that are drawn from the numbers in ``report.json``: calibration, thresholds of the controls, and the replication of 2018."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hpc_galaxy.chance import normal_quantile
from hpc_galaxy.files import whole_file

LEVEL = 0.95
RELIABILITY_CAPTION = (
    "Each point is a bin of equally many test galaxies, with a 95 % interval as if they\n"
    "were independent. On the dotted diagonal scores mean what they say. Steeper: the\n"
    "network is too cautious; flatter: too certain."
)
THRESHOLDS_CAPTION = (
    "Each point is a run of its own: fakes with this defect, their own data and network. Bars are 95 % intervals by bricks. Filled red:\n"
    "found; open: not found. On the dotted line at 0.5 the network guesses; the dashed line is the weakest defect that it found. Green\n"
    "squares: the simpler classifier that tells these fakes apart most surely, where one does."
)
REPLICATE_CAPTION = (
    "Each bar is a run of the same survey with one defect of the scripts of 2018, or with all: red where the network tells the classes\n"
    "apart, blue where not; black lines are 95 % intervals by bricks. On the dotted line at 0.5 there is nothing to find. What goes\n"
    "beyond the honest run is leak. Green squares: the simpler classifier that tells them apart most surely, where one does."
)


def draw_missing(content: Mapping[str, Any], folder: Path) -> list[str]:
    """Draw those of the pictures in this module whose numbers are there; return their names.

    Parameters
    ----------
    content : dict
        What is in ``report.json``.
    folder : Path
        Where to.
    """
    drawn = []
    controls, replicate = content.get("controls") or {}, (content.get("replicate") or {}).get("arms")
    if content.get("calibration"):
        draw_reliability(content["calibration"], folder / "calibration.png")
        drawn.append("calibration.png")
    if controls.get("thresholds"):
        draw_thresholds(controls["arms"], controls["thresholds"], folder / "thresholds.png")
        drawn.append("thresholds.png")
    if replicate:
        draw_replicate(replicate, folder / "replicate.png")
        drawn.append("replicate.png")
    return drawn


def share_interval(shares: np.ndarray, counts: np.ndarray, level: float = LEVEL) -> tuple[np.ndarray, np.ndarray]:
    """Return the limits of shares of independent examples (Wilson 1927, J. Am. Stat. Assoc. 22, 209).

    Parameters
    ----------
    shares, counts : ndarray, shape (n,)
        Of how many examples each share is; at least 1.
    """
    z = normal_quantile((1 + level) / 2)
    middle = (shares + z**2 / (2 * counts)) / (1 + z**2 / counts)
    half = z / (1 + z**2 / counts) * np.sqrt(shares * (1 - shares) / counts + z**2 / (4 * counts**2))
    return middle - half, middle + half


def draw_reliability(calibration: Mapping[str, Any], path: Path) -> None:
    """Write the share of fakes against the mean score of each bin as PNG.

    Parameters
    ----------
    calibration : dict
        As of `hpc_galaxy.realism.calibration.Calibration`.
    path : Path
        Where to.
    """
    scores, shares, counts = (np.array(calibration[name], float) for name in ("scores", "shares", "counts"))
    low, high = share_interval(shares, counts)
    figure = Figure(figsize=(5.4, 5.6), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="0.6", linestyle=":", label="scores mean what they say")
    # The interval is not symmetric, and of a share of 0 or 1 it ends there but for rounding.
    axes.errorbar(
        scores, shares, np.maximum([shares - low, high - shares], 0), fmt="o-", capsize=3, markersize=5, color="C0", label="network"
    )
    axes.set(
        xlabel="mean score: the network's probability of 'fake'", ylabel="share of fake galaxies", xlim=(0, 1), ylim=(0, 1), aspect="equal"
    )
    axes.legend(loc="upper left", frameon=False)
    line = f"Brier score {calibration['brier']:.4f}, expected calibration error {calibration['expected_error']:.4f}"
    _finish(figure, line, RELIABILITY_CAPTION, path)


def draw_thresholds(arms: Sequence[Mapping[str, Any]], thresholds: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write the AUC against the strength of each defect as PNG, a panel each.

    Parameters
    ----------
    arms : sequence of dict
        Runs with ``defect``, ``strength``, ``auc``, ``auc_interval``, and ``simpler``, the ``auc`` and ``interval`` of another classifier.
    thresholds : sequence of dict
        With ``defect``, ``unit`` and ``first_detected``, which is None where the network found nothing; ``first_simpler`` and ``simpler``.
    path : Path
        Where to.
    """
    columns = min(len(thresholds), 4)
    rows = -(-len(thresholds) // columns)
    figure = Figure(figsize=(max(3.0 * columns, 6.0), 3.0 * rows + 1.4), layout="constrained")
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for axes, threshold in zip(panels.flat, thresholds, strict=False):
        mine = [arm for arm in arms if arm.get("defect") == threshold["defect"] and arm.get("kind") == "positive"]
        _draw_defect(axes, [arm for arm in mine if arm.get("auc") is not None], threshold)
    for axes in panels.flat[len(thresholds) :]:
        axes.set_visible(False)
    lowest = min([0.42, *[arm["auc_interval"][0] for arm in arms if arm.get("auc_interval")]])
    for axes in panels[:, 0]:
        axes.set(ylabel="test AUC", ylim=(lowest - 0.02, 1.02))
    _finish(figure, "From which strength on each defect is found", THRESHOLDS_CAPTION, path)


def _draw_defect(axes: Axes, arms: Sequence[Mapping[str, Any]], threshold: Mapping[str, Any]) -> None:
    first = threshold.get("first_detected")
    axes.axhline(0.5, color="0.5", linestyle=":")
    if first is not None:
        axes.axvline(first, color="C3", linestyle="--", linewidth=1)
    for arm in arms:
        found = bool(arm.get("found"))
        axes.errorbar(
            arm["strength"], arm["auc"], _bars(arm), fmt="o", color="C3" if found else "C0", markerfacecolor="C3" if found else "white"
        )
        if arm.get("simpler"):
            other = {"auc": arm["simpler"]["auc"], "auc_interval": arm["simpler"]["interval"]}
            axes.errorbar(arm["strength"], other["auc"], _bars(other), fmt="s", color="C2", markersize=5, alpha=0.8)
    said = "not found" if first is None else f"from {first:g}"
    simpler = f"{threshold['simpler']} from {threshold['first_simpler']:g}" if threshold.get("simpler") else ""
    axes.set_title(f"{threshold['defect']}\nnetwork: {said}\n{simpler and f'simpler: {simpler}'}", fontsize=10.5)
    axes.set(xlabel=f"strength ({threshold['unit']})" if threshold.get("unit") else "strength")
    axes.set(xlim=(0, 1.12 * max((arm["strength"] for arm in arms), default=1)))


def draw_replicate(arms: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write the AUC of each run the way of 2018 as PNG, a horizontal bar each, in the order given, from above.

    Parameters
    ----------
    arms : sequence of dict
        Runs with ``name``, ``purpose``, ``auc``, ``auc_interval``, ``found`` and ``simpler``.
    path : Path
        Where to.
    """
    arms = [arm for arm in arms if arm.get("auc") is not None]
    figure = Figure(figsize=(8.6, 1.9 + 0.52 * len(arms)), layout="constrained")
    axes = figure.subplots()
    for row, arm in enumerate(arms):
        axes.barh(row, arm["auc"] - 0.5, left=0.5, height=0.6, color="C3" if arm.get("found") else "C0")
        axes.errorbar(arm["auc"], row, xerr=_bars(arm), fmt="none", ecolor="black", capsize=3)
        if arm.get("simpler"):
            axes.plot(arm["simpler"]["auc"], row, "s", color="C2", markersize=6)
        end = max(arm["auc"], *(arm.get("auc_interval") or [0.5]))
        if arm.get("simpler") and abs(arm["simpler"]["auc"] - end) < 0.03:
            end = max(end, arm["simpler"]["auc"]) + 0.005
        axes.text(max(end, 0.5) + 0.012, row, f"{arm['auc']:.3f}", va="center", fontsize=10)
    axes.axvline(0.5, color="0.3", linestyle=":")
    axes.set_yticks(range(len(arms)), [textwrap.fill(arm["name"], 40) for arm in arms])
    axes.invert_yaxis()
    lowest = min([0.45, *[min(arm.get("auc_interval") or [0.5]) - 0.02 for arm in arms]])
    axes.set(xlabel="test AUC", xlim=(lowest, 1.08))
    axes.set_xticks([tick for tick in np.arange(0, 1.01, 0.1) if tick >= lowest])
    _finish(figure, "What each defect of 2018 gives away", REPLICATE_CAPTION, path)


def _bars(arm: Mapping[str, Any]) -> np.ndarray:
    """Return how far an interval reaches below and above the AUC, shape (2, 1); 0 where there is none."""
    low, high = arm.get("auc_interval") or (arm["auc"], arm["auc"])
    return np.maximum([[arm["auc"] - low], [high - arm["auc"]]], 0)


def _finish(figure: Figure, headline: str, caption: str, path: Path) -> None:
    figure.suptitle(headline, fontsize=11)
    figure.supxlabel(caption, fontsize=8.5)
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=120)
