"""A study as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hpc_galaxy.bench.scaling.compare import Prediction
from hpc_galaxy.bench.scaling.statistics import Estimate, Row
from hpc_galaxy.tracing.draw import COLOURS as COLOURS_OF_PARTS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {"strong": "#1b9e77", "weak": "#7570b3"}
SHIFT = {"strong": 0.985, "weak": 1.015}  # so that the intervals of two curves do not hide each other
PALETTE = ("#1b9e77", "#7570b3", "#d95f02", "#e7298a", "#66a61e", "#e6ab02", "#a6761d")
LAST = {"wait for work": "#cccccc", "rest": "#888888"}  # parts that are no work, and lie on top of all others
NEXT_TO = {"hidden"}  # is no part of the time, but lies behind another


def draw_speed(rows: Sequence[Row], prediction: Prediction | None, path: Path) -> None:
    """Draw images or cutouts a second against nodes, a panel a stage, with the ideal line of each mode and the model."""
    from matplotlib.ticker import LogLocator, NullFormatter

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
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_major_formatter("{x:,.0f}")
        axes.set(ylabel=f"{next(iter(curves.values()))[0].unit}/s", title=f"Speed: {stage}")
        axes.legend(frameon=False, fontsize=8, loc="upper left")
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
        axes.legend(frameon=False, fontsize=8, loc="lower left")
    _finish(figure, "speed of a node over that on the fewest nodes; bars: 95 % intervals (bootstrap over repeats and steps)", path)


def draw_parts(rows: Sequence[Row], prediction: Prediction | None, path: Path) -> None:
    """Draw what the time is made of, a bar a number of nodes, a row of panels a stage and a panel a mode."""
    from matplotlib.figure import Figure

    stages = _by_stage(rows)
    columns = max(len(curves) for _, curves in stages)
    figure = Figure(figsize=(5.2 * columns, 3.9 * len(stages) + 0.3), layout="constrained")
    grid = figure.subplots(len(stages), columns, squeeze=False)
    for axes in grid.flat:
        axes.set_visible(False)
    for line, (stage, curves) in zip(grid, stages, strict=True):
        shown = [row for curve in curves.values() for row in curve]
        names = [name for name in dict.fromkeys(name for row in shown for name in row.parts) if any(row.parts.get(name) for row in shown)]
        for axes, (mode, curve) in zip(line, curves.items(), strict=False):
            axes.set_visible(True)
            axes.set_title(f"{mode} {stage}")
            _stack(axes, curve, sorted(names, key=lambda name: name in LAST))
    _finish(figure, "what the time goes into, from the ranks' traces; a part that hides behind another is left out", path)


def _stack(axes: Axes, curve: Sequence[Row], names: Sequence[str]) -> None:
    train = curve[0].stage == "train"
    factor, unit = (1000, "milliseconds of a step") if train else (1, "seconds of a rank")
    palette = iter(PALETTE * 2)
    labels, below = [str(row.nodes) for row in curve], np.zeros(len(curve))
    for name in names:
        if name in NEXT_TO:
            continue
        values = factor * np.array([row.parts.get(name, 0.0) for row in curve])
        colour = COLOURS_OF_PARTS[name] if train else LAST.get(name) or next(palette)
        axes.bar(
            labels, values, bottom=below, color=colour, label="communication, waiting" if name == "communication" else name, width=0.65
        )
        below += values
    axes.set(xlabel="nodes", ylabel=f"{unit}, mean of ranks", ylim=(0, 1.4 * below.max()))
    axes.legend(frameon=False, fontsize=8, ncols=3, loc="upper left")


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
    axes.xaxis.minorticks_off()
    axes.set_xlabel("nodes")
    axes.grid(alpha=0.3)


def _finish(figure: Any, caption: str, path: Path) -> None:
    figure.supxlabel(caption, fontsize=8)
    figure.savefig(path, dpi=120)
