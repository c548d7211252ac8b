"""The summary as a picture."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import numpy as np

from hpc_galaxy.files import whole_file
from hpc_galaxy.tracing.diagnosis import diagnose, sentence
from hpc_galaxy.tracing.operators import Operator
from hpc_galaxy.tracing.steps import PARTS, STEP, Steps

COLOURS = dict(zip(PARTS, ("#d95f02", "#1b9e77", "#7570b3", "#e7298a", "#66a61e", "#999999", "#c9c6e3"), strict=True))
BARS = 32  # ranks with a bar of their own
WRAP = 110  # characters


def draw_summary(steps: Steps, operators: list[Operator], out: Path) -> None:
    """Draw what each rank's time went into, how even the steps were, and the top operators.

    Parameters
    ----------
    steps : Steps
        What was recorded.
    operators : list of Operator
        May be empty; then that panel is left out.
    out : Path
        The PNG.
    """
    from matplotlib.figure import Figure

    rows = 3 if operators else 2
    figure = Figure(figsize=(9, 3.4 * rows + 0.6), layout="constrained")
    axes = figure.subplots(rows, 1)
    _draw_parts(axes[0], steps)
    _draw_balance(axes[1], steps)
    if operators:
        _draw_operators(axes[2], operators)
    figure.suptitle(textwrap.fill(sentence(steps, diagnose(steps)), WRAP), fontsize=10)
    with whole_file(out) as partial:
        figure.savefig(partial, dpi=120)


def _draw_parts(axes: Any, steps: Steps) -> None:
    seconds = steps.parts.sum(axis=1)
    order = np.argsort(-steps.busy.sum(axis=1), kind="stable")[:BARS]
    order.sort()
    names = [f"rank {steps.files[rank].header['rank']}" for rank in order]
    left = np.zeros(len(order))
    for number, part in enumerate(PARTS[:-1]):
        values = seconds[order, number]
        axes.barh(names, values, left=left, color=COLOURS[part], label="communication and waiting" if part == "communication" else part)
        left += values
    axes.invert_yaxis()
    axes.set_xlabel("seconds")
    few = f", the {BARS} busiest of {len(steps.files)} ranks" if len(steps.files) > BARS else ""
    axes.set_title(f"What each rank's time went into{few}", fontsize=10, loc="left")
    axes.legend(ncols=6, fontsize=7, loc="lower center", bbox_to_anchor=(0.5, -0.36), frameon=False)


def _draw_balance(axes: Any, steps: Steps) -> None:
    chosen = np.array([kind == STEP for kind in steps.kinds])
    busy, begun = 1000 * steps.busy[:, chosen], steps.begun[chosen]
    if not busy.size:
        return
    axes.plot(begun, busy.max(axis=0), ".-", ms=3, lw=0.8, color=COLOURS["data"], label="busiest rank")
    axes.plot(begun, np.median(busy, axis=0), ".-", ms=3, lw=0.8, color=COLOURS["compute"], label="median rank")
    axes.plot(begun, 1000 * steps.wall[:, chosen].mean(axis=0), lw=0.8, color="#666666", label="whole step")
    axes.set(xlabel="seconds since the first step", ylabel="milliseconds", ylim=(0, None))
    axes.set_title("Each step: where the busiest rank leaves the median one, the others wait for it", fontsize=10, loc="left")
    axes.legend(fontsize=7, frameon=False, loc="upper right")


def _draw_operators(axes: Any, operators: list[Operator]) -> None:
    axes.barh([one.name[:40] for one in operators], [100 * one.share for one in operators], color=COLOURS["compute"])
    axes.invert_yaxis()
    axes.set_xlabel("share of all operators' own time, per cent")
    axes.set_title("Top operators in the windows of torch.profiler", fontsize=10, loc="left")
