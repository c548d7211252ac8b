"""The suite as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from hpc_galaxy.bench.measuring import Measurement
from hpc_galaxy.bench.suite.question import LIMIT, OURS


def draw_suite(measurements: Sequence[Measurement], environment: str, path: Path) -> None:
    """Draw what share of the limit each stage reaches.

    Parameters
    ----------
    measurements : sequence of Measurement
        Of the suite.
    environment : str
        What they were measured on.
    path : Path
        The PNG.
    """
    found = {(one.question, one.side): one for one in measurements}
    pairs = [(one, found[one.question, LIMIT]) for one in measurements if one.side == OURS and (one.question, LIMIT) in found]
    figure = Figure(figsize=(9, 1.6 + 0.5 * len(pairs)), layout="constrained")
    axes = figure.subplots()
    for row, (ours, limit) in enumerate(pairs):
        shares = ours.over(limit)
        axes.plot(shares, [row] * len(shares), "o", color="#1b9e77", alpha=0.4, markeredgewidth=0)
        axes.plot(ours.rate / limit.rate, row, "|", color="black", markersize=22, markeredgewidth=2)
        axes.annotate(f"{ours.rate:,.0f} {ours.unit}/s", (1.0, row), (8, 0), ("axes fraction", "data"), "offset points", va="center")
    axes.axvline(1, color="0.5", linestyle="--")
    axes.set(yticks=range(len(pairs)), yticklabels=[ours.question for ours, _ in pairs], xlabel="speed over the limit on this machine")
    axes.set_ylim(len(pairs) - 0.4, -0.6)
    axes.set_xlim(left=0)
    axes.grid(axis="x", alpha=0.3)
    caption = "a dot: one repeat; a bar: the median; at the dashed line nothing is left to gain"
    figure.supxlabel(f"{caption}\n{environment}", fontsize=8)
    figure.savefig(path, dpi=120)
