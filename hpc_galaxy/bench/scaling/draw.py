"""A study as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hpc_galaxy.bench.scaling.compare import Prediction
from hpc_galaxy.bench.scaling.statistics import Estimate, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {"strong": "#1b9e77", "weak": "#7570b3"}
SHIFT = {"strong": 0.985, "weak": 1.015}  # so that the intervals of two curves do not hide each other
PALETTE = ("#1b9e77", "#7570b3", "#d95f02", "#e7298a", "#66a61e", "#e6ab02", "#a6761d", "#999999")
NEXT_TO = {"hidden"}  # is no part of the time, but lies behind another


def draw_speed(rows: Sequence[Row], prediction: Prediction | None, path: Path) -> None:
    """Draw images or cutouts a second against nodes, a panel a stage, with the ideal line of each mode and the model."""
    figure, panels = _panels(rows)
    for axes, (stage, curves) in zip(panels, _by_stage(rows), strict=True):
        for mode, curve in curves.items():
            nodes = np.array([row.nodes for row in curve])
            ideal = curve[0].rate.value * nodes / nodes[0]
            axes.plot(nodes, ideal, "--", color=COLOURS[mode], linewidth=1, alpha=0.6, label=f"{mode}, ideal")
            _points(axes, mode, nodes, [row.rate for row in curve], f"{mode}, measured")
        if stage == "train" and prediction is not None and "weak" in curves:
            values = [prediction.rates[row.nodes] for row in curves["weak"]]
            axes.plot([row.nodes for row in curves["weak"]], values, "x:", color="black", label="weak, model", markersize=8)
        _nodes_axis(axes, rows, stage)
        axes.set_yscale("log", base=2)
        axes.yaxis.set_major_formatter("{x:,.0f}")
        axes.set(ylabel=f"{next(iter(curves.values()))[0].unit}/s", title=f"Speed: {stage}")
        axes.legend(frameon=False, fontsize=8)
    fitted = f"; the model knows {prediction.fitted[0]} and {prediction.fitted[1]} nodes" if prediction else ""
    _finish(figure, f"bars: 95 % intervals (bootstrap over repeats and steps); dashed: as fast a node as on the fewest{fitted}", path)


def draw_efficiency(rows: Sequence[Row], prediction: Prediction | None, path: Path) -> None:
    """Draw the efficiency against nodes, a panel a stage."""
    figure, panels = _panels(rows)
    for axes, (stage, curves) in zip(panels, _by_stage(rows), strict=True):
        axes.axhline(1, color="0.6", linestyle="--", linewidth=1)
        for mode, curve in curves.items():
            _points(axes, mode, np.array([row.nodes for row in curve]), [row.efficiency for row in curve], mode)
        if stage == "train" and prediction is not None and "weak" in curves:
            first = curves["weak"][0]
            values = [prediction.rates[row.nodes] * first.nodes / row.nodes / first.rate.value for row in curves["weak"]]
            axes.plot([row.nodes for row in curves["weak"]], values, "x:", color="black", label="weak, model", markersize=8)
        _nodes_axis(axes, rows, stage)
        axes.set(ylabel="efficiency", title=f"Efficiency: {stage}")
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False, fontsize=8)
    _finish(figure, "speed of a node over that on the fewest nodes; bars: 95 % intervals (bootstrap over repeats and steps)", path)


def draw_parts(rows: Sequence[Row], prediction: Prediction | None, path: Path) -> None:
    """Draw what the time is made of, a bar a number of nodes, a panel for each stage and mode."""
    curves = [(stage, mode, curve) for stage, modes in _by_stage(rows) for mode, curve in modes.items()]
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2 * len(curves), 4.6), layout="constrained")
    for axes, (stage, mode, curve) in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves, strict=True):
        names = [name for name in dict.fromkeys(name for row in curve for name in row.parts) if any(row.parts.get(name) for row in curve)]
        factor, unit = (1000, "milliseconds of a step") if stage == "train" else (1, "seconds of a rank")
        labels, below = [str(row.nodes) for row in curve], np.zeros(len(curve))
        for name, colour in zip((name for name in names if name not in NEXT_TO), PALETTE * 2, strict=False):
            values = factor * np.array([row.parts.get(name, 0.0) for row in curve])
            label = "communication, waiting" if name == "communication" else name
            axes.bar(labels, values, bottom=below, color=colour, label=label, width=0.65)
            below += values
        axes.set(xlabel="nodes", ylabel=f"{unit}, mean of ranks", title=f"{mode} {stage}", ylim=(0, 1.3 * below.max()))
        axes.legend(frameon=False, fontsize=8, ncols=2, loc="upper left")
    _finish(figure, "what the time goes into, from the ranks' traces", path)


def _panels(rows: Sequence[Row]) -> tuple[Figure, Sequence[Axes]]:
    from matplotlib.figure import Figure

    stages = len({row.stage for row in rows})
    figure = Figure(figsize=(5.6 * stages, 4.6), layout="constrained")
    return figure, figure.subplots(1, stages, squeeze=False)[0]


def _by_stage(rows: Sequence[Row]) -> list[tuple[str, dict[str, list[Row]]]]:
    stages = dict.fromkeys(row.stage for row in rows)
    modes = {stage: dict.fromkeys(row.mode for row in rows if row.stage == stage) for stage in stages}
    return [(stage, {mode: [r for r in rows if (r.stage, r.mode) == (stage, mode)] for mode in modes[stage]}) for stage in stages]


def _points(axes: Axes, mode: str, nodes: np.ndarray, values: Sequence[Estimate], label: str) -> None:
    middle = np.array([one.value for one in values])
    # Quantiles need not lie around the value itself.
    bars = np.array([[max(0.0, one.value - one.low), max(0.0, one.high - one.value)] for one in values]).T
    axes.errorbar(SHIFT[mode] * nodes, middle, np.nan_to_num(bars), fmt="o-", color=COLOURS[mode], label=label, capsize=4, markersize=4)


def _nodes_axis(axes: Axes, rows: Sequence[Row], stage: str) -> None:
    nodes = sorted({row.nodes for row in rows if row.stage == stage})
    axes.set_xscale("log", base=2)
    axes.set_xticks(nodes, [str(number) for number in nodes])
    axes.minorticks_off()
    axes.set_xlabel("nodes")
    axes.grid(alpha=0.3)


def _finish(figure: Any, caption: str, path: Path) -> None:
    figure.supxlabel(caption, fontsize=8)
    figure.savefig(path, dpi=120)
