"""A prediction as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hpc_galaxy.bench.model.prediction import LARGE_BATCH, Machine, Row

PARTS = {"compute": "#1b9e77", "communication": "#7570b3", "stragglers": "#e7298a", "data": "#d95f02"}


def draw_prediction(rows: Sequence[Row], machine: Machine, examples: float, stops: int | None, path: Path) -> None:
    """Draw speed, efficiency, the parts of a step, and the cost of an epoch against the number of nodes.

    Parameters
    ----------
    rows : sequence of Row
        By the number of nodes.
    machine : Machine
        The site.
    examples : float
        In an epoch.
    stops : int, optional
        The number of nodes beyond which more do not pay; None where all do.
    path : Path
        The PNG.
    """
    nodes, speed = np.array([row.nodes for row in rows]), np.array([row.images_per_second for row in rows])
    figure = Figure(figsize=(11, 7.5), layout="constrained")
    (fast, share), (parts, cost) = figure.subplots(2, 2)
    fast.loglog(nodes, speed[0] / nodes[0] * nodes, "--", color="0.6", label="ideal")
    fast.loglog(nodes, speed, ".-", color=PARTS["compute"], label="predicted")
    fast.set(xlabel="nodes", ylabel="images/s", title="Speed")
    share.plot(nodes, [row.efficiency for row in rows], ".-", color=PARTS["compute"], label="efficiency")
    share.set(xscale="log", ylim=(0, 1.05), xlabel="nodes", ylabel="speed over that of as many ranks alone", title="Efficiency")
    _mark_large_batches(share, rows)
    below = np.zeros(len(rows))
    for part, colour in PARTS.items():
        values = np.array([1000 * getattr(row.step, part) for row in rows])
        parts.fill_between(nodes, below, below + values, color=colour, label=part)
        below += values
    parts.set(xscale="log", xlabel="nodes", ylabel="milliseconds", title="What a step is made of")
    epoch = examples / speed
    cost.loglog(nodes, epoch / 60, ".-", color=PARTS["communication"], label="minutes an epoch")
    cost.loglog(nodes, epoch * nodes / 3600, ".-", color=PARTS["data"], label="node-hours an epoch")
    cost.set(xlabel="nodes", title=f"An epoch of {examples:,.0f} images")
    for axes in (fast, share, parts, cost):
        if stops is not None:
            axes.axvline(stops, color="0.3", linestyle=":", label=f"more than {stops} nodes do not pay")
        axes.legend(loc="lower left" if axes is parts or axes is share else "best", frameon=axes is parts)
    figure.supxlabel(f"{machine.name}: where the speed leaves the dashed line, an epoch costs more node-hours", fontsize=9)
    figure.savefig(path, dpi=120)


def _mark_large_batches(axes: Axes, rows: Sequence[Row]) -> None:
    """Shade the numbers of nodes at which the global batch is so large that a training needs other settings."""
    large = [row.nodes for row in rows if row.batch > LARGE_BATCH]
    if large:
        axes.axvspan(large[0], rows[-1].nodes, color="0.92", label=f"global batch above {LARGE_BATCH:,}")
