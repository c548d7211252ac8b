"""Draw docs/pixel_convention.png, the figure of hpc_galaxy/cutouts/README.md: ``python docs/pixel_convention.py``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from hpc_galaxy.cutouts.stamps import boxes

SIZE = 8
NX, NY = 18, 12
CAPTION = (
    "Look for: the source (cross) lies within half a pixel of the stamp's geometric centre (circle), wherever it is inside its pixel;\n"
    "indices count from 0 at the centre of the lower left pixel; beyond the coadd's edge the stamp keeps its shape and is filled with 0."
)


def draw(axes: Axes, bx: float, by: float, title: str) -> None:
    """Draw a corner of a coadd, a source, and its stamp of `SIZE` pixels."""
    x0, y0, x1, y1 = boxes(np.array([bx]), np.array([by]), SIZE)[0]
    for x in range(-3, NX):
        for y in range(-3, NY):
            outside = x < 0 or y < 0
            inside = x0 <= x < x1 and y0 <= y < y1
            if inside or not outside:
                color = ("#e8a0a0" if outside else "#bcd6f0") if inside else "white"
                axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=color, edgecolor="0.75", linewidth=0.5))
    axes.add_patch(Rectangle((x0 - 0.5, y0 - 0.5), SIZE, SIZE, fill=False, edgecolor="C0", linewidth=2))
    axes.plot([-0.5, -0.5, NX], [NY, -0.5, -0.5], color="black", linewidth=2)
    axes.plot(bx, by, "x", color="C3", markersize=10, markeredgewidth=2.5, label=f"source at bx = {bx}, by = {by}")
    axes.plot(x0 + (SIZE - 1) / 2, y0 + (SIZE - 1) / 2, "o", color="black", fillstyle="none", markersize=11, label="centre of the stamp")
    axes.set(
        xlim=(-3.6, NX - 0.5), ylim=(-3.6, NY - 0.5), aspect="equal", xlabel="x (pixel index, from 0)", ylabel="y (pixel index, from 0)"
    )
    axes.set_xticks(range(-2, NX, 2))
    axes.set_yticks(range(-2, NY, 2))
    axes.set_title(f"{title}\nstamp of {SIZE}: first pixel ceil({bx} - {SIZE // 2}) = {x0}, ceil({by} - {SIZE // 2}) = {y0}", fontsize=10)
    axes.legend(loc="upper right", fontsize=9)


def main() -> None:
    """Write the figure."""
    figure = Figure(figsize=(12, 5.2))
    left, right = figure.subplots(1, 2)
    draw(left, 8.3, 5.8, "Inside the coadd")
    draw(right, 2.6, 1.2, "At its edge: red pixels are image 0 and inverse variance 0")
    figure.text(0.05, 0.02, CAPTION, fontsize=10)
    figure.subplots_adjust(0.05, 0.2, 0.98, 0.9, wspace=0.12)
    figure.savefig(Path(__file__).with_suffix(".png"), dpi=90)


if __name__ == "__main__":
    main()
