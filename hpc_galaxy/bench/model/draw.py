"""A prediction as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from hpc_galaxy.bench.model.prediction import Machine, Row

PARTS = {"compute": "#1b9e77", "communication": "#7570b3", "stragglers": "#e7298a", "data": "#d95f02"}


def draw_prediction(rows: Sequence[Row], machine: Machine, examples: float, path: Path) -> None:
    """Draw speed, the parts of a step, and the cost of an epoch against the number of nodes.

    Parameters
    ----------
    rows : sequence of Row
        By the number of nodes.
    machine : Machine
        The site.
    examples : float
        In an epoch.
    path : Path
        The PNG.
    """
    nodes, speed = np.array([row.nodes for row in rows]), np.array([row.images_per_second for row in rows])
    figure = Figure(figsize=(12, 4), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    left.loglog(nodes, speed[0] / nodes[0] * nodes, "--", color="0.6", label="ideal")
    left.loglog(nodes, speed, ".-", color=PARTS["compute"], label="predicted")
    left.set(xlabel="nodes", ylabel="images/s", title="Speed")
    left.legend(frameon=False)
    below = np.zeros(len(rows))
    for part, colour in PARTS.items():
        values = np.array([1000 * getattr(row.step, part) for row in rows])
        middle.fill_between(nodes, below, below + values, color=colour, label=part)
        below += values
    middle.set(xscale="log", xlabel="nodes", ylabel="milliseconds", title="What a step is made of")
    middle.legend(loc="lower left")
    epoch = examples / speed
    right.loglog(nodes, epoch / 60, ".-", color=PARTS["communication"], label="minutes an epoch")
    right.loglog(nodes, epoch * nodes / 3600, ".-", color=PARTS["data"], label="node-hours an epoch")
    right.set(xlabel="nodes", title=f"An epoch of {examples:,.0f} images")
    right.legend(frameon=False)
    figure.supxlabel(f"{machine.name}: where the speed leaves the dashed line, an epoch costs more node-hours", fontsize=9)
    figure.savefig(path, dpi=120)
