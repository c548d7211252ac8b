"""The picture of a training: loss, accuracy and AUC against the epoch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hpc_galaxy.files import whole_file

CAPTION = (
    "Left: as long as the validation loss falls with the training loss, the network learns something general; where it turns up, it\n"
    "learns the training examples by heart. The vertical line marks the epoch that is kept. Right: 1 is perfect."
)


def draw_learning_curve(rows: Sequence[dict[str, Any]], best_epoch: int, path: Path) -> None:
    """Write the learning curve as PNG.

    Parameters
    ----------
    rows : sequence of dict
        As in ``metrics.jsonl``.
    best_epoch : int
        The epoch to mark.
    path : Path
        Where to.
    """
    figure = Figure(figsize=(9, 4.4), layout="constrained")
    loss, quality = figure.subplots(1, 2)
    _plot(loss, rows, {"train_loss": ("training", "C0"), "valid_loss": ("validation", "C1")})
    _plot(quality, rows, {"train_accuracy": ("training accuracy", "C0"), "valid_accuracy": ("validation accuracy", "C1")})
    _plot(quality, rows, {"valid_auc": ("validation AUC", "C2")})
    loss.axhline(math.log(2), color="0.6", linewidth=1, linestyle=":", label="guessing")
    quality.axhline(0.5, color="0.6", linewidth=1, linestyle=":", label="guessing")
    loss.set_ylabel("mean cross entropy (natural logarithm)")
    quality.set_ylabel("accuracy, AUC")
    for axes in (loss, quality):
        axes.axvline(best_epoch, color="0.6", linewidth=1)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(frameon=False, loc="upper right" if axes is loss else "lower right")
    figure.suptitle(f"Learning curve; the best epoch is {best_epoch}")
    figure.supxlabel(CAPTION, fontsize=8)
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=120)


def _plot(axes: Axes, rows: Sequence[dict[str, Any]], lines: dict[str, tuple[str, str]]) -> None:
    epochs = [row["epoch"] for row in rows]
    for name, (label, colour) in lines.items():
        axes.plot(epochs, np.array([row[name] for row in rows], dtype=float), marker="o", markersize=4, color=colour, label=label)
