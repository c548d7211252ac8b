"""Predicted against measured, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hpc_galaxy.bench.model.published import CURVES
from hpc_galaxy.files import whole_file

COLOURS = ("#1b9e77", "#d95f02", "#7570b3", "#e7298a", "#66a61e", "#a6761d")
MARKS = {"allreduce": "o", "step": "s"}
BAND = 0.15
AGREES = 0.04  # of an efficiency


class Compared(Protocol):
    """What is drawn: see ``bench_model.Prediction``."""

    case: str
    ranks: int
    what: str
    measured: float
    predicted: float
    fitted: bool


def draw_comparison(rows: Sequence[Compared], path: Path) -> None:
    """Draw measured seconds of this machine, and published efficiencies, against what the model says."""
    figure = Figure(figsize=(12, 5.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    if rows:
        _draw_seconds(left, rows)
    _draw_published(right)
    with whole_file(path) as partial:
        figure.savefig(partial, dpi=120, format="png")


def _draw_seconds(axes: Axes, rows: Sequence[Compared]) -> None:
    cases = list(dict.fromkeys(row.case for row in rows))
    for row in rows:
        if row.what in MARKS and row.ranks > 1:
            colour = COLOURS[cases.index(row.case) % len(COLOURS)]
            inside = "none" if row.fitted else colour
            axes.plot(row.measured, row.predicted, MARKS[row.what], markeredgecolor=colour, markerfacecolor=inside, markersize=7)
    values = [value for row in rows for value in (row.measured, row.predicted)]
    ends = [min(values) / 1.5, max(values) * 1.5]
    axes.plot(ends, ends, color="0.4", linewidth=0.8, zorder=0)
    axes.fill_between(ends, [end * (1 - BAND) for end in ends], [end * (1 + BAND) for end in ends], color="0.9", zorder=-1)
    for case, colour in zip(cases, COLOURS, strict=False):
        axes.plot([], [], "s", color=colour, label=case)
    for what, mark in MARKS.items():
        axes.plot([], [], mark, color="0.3", label=what)
    axes.plot([], [], "s", markerfacecolor="none", markeredgecolor="0.3", label="2 ranks: fitted")
    axes.set(xscale="log", yscale="log", xlim=ends, ylim=ends, xlabel="measured, s", ylabel="predicted, s")
    axes.set_title("2, 4 and 8 ranks on this machine; grey: 15 %")
    axes.legend(frameon=False, fontsize=9)


def _draw_published(axes: Axes) -> None:
    for curve, colour in zip(CURVES, COLOURS, strict=False):
        axes.plot(curve.measured, curve.predicted, "D", color=colour, label=curve.what)
    ends = [0.6, 1.0]
    axes.plot(ends, ends, color="0.4", linewidth=0.8, zorder=0)
    axes.fill_between(ends, [end - AGREES for end in ends], [end + AGREES for end in ends], color="0.9", zorder=-1)
    axes.set(xlim=ends, ylim=ends, xlabel="measured efficiency", ylabel="predicted efficiency", title="Published runs; grey: 0.04")
    axes.legend(frameon=False, fontsize=9)
