"""The figures of the stacks, of what the network looks at, and of the galaxies that give it away."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import AsinhNorm, Normalize
from matplotlib.figure import Figure

from hpc_galaxy.bricks.geometry import PIXEL_SCALE
from hpc_galaxy.files import whole_file
from hpc_galaxy.realism.why.occlusion import Occlusion
from hpc_galaxy.realism.why.stacks import Stack, largest_by_chance

DPI = 120
SIGMA = 5.0  # the significances' colours end there
STACKS_CAPTION = (
    "Left: the mean of all real and of all fake test galaxies. Middle: real minus fake, red where the real ones are brighter. Right: the "
    "same over its error, which comes from the scatter between bricks. Where real and fake are alike the right panels show noise: half of "
    "all such panels have no pixel beyond {chance:.1f} sigma. A pattern around the middle is a difference in brightness, size, profile or "
    "centroid; look there for what the network may have learned."
)
OCCLUSION_CAPTION = (
    "A patch of {patch} x {patch} pixels (upper left) is replaced by sky without noise, and the logit is asked for again; the mean over "
    "the {fakes} fakes and {reals} real galaxies that the network is surest of. Red: hiding this place makes it less sure of their class, "
    "blue: surer. A network that looks at the galaxies is red in the middle and white elsewhere; one that is red elsewhere, or in an "
    "inverse variance, uses something else. Each panel has a scale of its own."
)
GALLERY_TITLES = {
    "most_fake": "Most fake: the fakes with the highest scores",
    "most_fooled": "Most fooled: the real galaxies with the highest scores",
}
GALLERY_CAPTIONS = {
    "most_fake": "Look for what these fakes have in common that real galaxies lack: it is what gives them away.",
    "most_fooled": "Real galaxies that look most like fakes to the network. Look for what they share with the most fake fakes.",
}
GALLERY_NOTE = "The score is the network's probability of 'fake'. Both galleries share one colour scale."
ACROSS = 6  # galaxies in a row of a gallery
CELL = (1.05, 1.3)  # the space of each, in units of its picture


def _extent(size: int) -> tuple[float, float, float, float]:
    half = size * PIXEL_SCALE / 2
    return -half, half, -half, half


def _show(axes: Axes, picture: np.ndarray, norm: Normalize, colours: str) -> ScalarMappable:
    # origin="lower": y grows upwards, as on the sky.
    shown = axes.imshow(picture, origin="lower", interpolation="nearest", norm=norm, cmap=colours, extent=_extent(len(picture)))
    axes.tick_params(labelsize=7)
    return shown


def draw_stacks(stacks: Sequence[Stack], bands: Sequence[str], path: Path) -> None:
    """Write the stacks as PNG: a row for each band; real and fake, their differences, and these over their errors.

    Parameters
    ----------
    stacks : sequence of Stack
        The first one's means are shown.
    bands : sequence of str
        Of the last axis of the stacks.
    path : Path
        Where to.
    """
    columns = 2 + 2 * len(stacks)
    figure = Figure(figsize=(1.55 * columns + 2.2, 1.75 * len(bands) + 1.9), layout="constrained")
    grid = figure.subplots(len(bands), columns, squeeze=False, sharex=True, sharey=True)
    for number, (row, band) in enumerate(zip(grid, bands, strict=True)):
        _draw_band(figure, row, stacks, number, band)
    titles = [f"{name} ({count:,})" for name, count in zip(("real", "fake"), stacks[0].counts, strict=True)]
    titles += [f"{what},\n{each.part}" for what in ("real - fake", "significance") for each in stacks]
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title, fontsize=9)
    for axes in grid[-1]:
        axes.set_xlabel("arcsec", fontsize=8)
    caption = STACKS_CAPTION.format(chance=largest_by_chance(stacks[0].difference[..., 0].size))
    _finish(figure, "Mean stamps of real and fake galaxies", caption, path)


def _draw_band(figure: Figure, row: np.ndarray, stacks: Sequence[Stack], number: int, band: str) -> None:
    means, differences = stacks[0].means[..., number], [each.difference[..., number] for each in stacks]
    high = float(np.max(np.abs(means))) or 1.0
    limit = max(float(np.max(np.abs(each))) for each in differences) or 1.0
    brightness = AsinhNorm(linear_width=high / 50, vmin=min(float(np.min(means)), 0.0), vmax=high)
    shown = [_show(axes, mean, brightness, "viridis") for axes, mean in zip(row, means, strict=False)][-1]
    _bar(figure, shown, row[:2], "nanomaggies", ticks=[0, *_round_ticks(high)])
    middle, right = row[2 : 2 + len(stacks)], row[2 + len(stacks) :]
    shown = [_show(axes, each, Normalize(-limit, limit), "RdBu_r") for axes, each in zip(middle, differences, strict=True)][-1]
    _bar(figure, shown, middle, "nanomaggies")
    significances = [each.significance[..., number] for each in stacks]
    shown = [_show(axes, each, Normalize(-SIGMA, SIGMA), "RdBu_r") for axes, each in zip(right, significances, strict=True)][-1]
    _bar(figure, shown, right, "sigma", extend="both")
    row[0].set_ylabel(f"{band}\narcsec", fontsize=9)


def _round_ticks(high: float) -> list[float]:
    """Return powers of ten below `high`, which is positive: the two largest."""
    top = int(np.floor(np.log10(high)))
    return [10.0**power for power in range(top - 1, top + 1)]


def _bar(figure: Figure, shown: ScalarMappable, row: np.ndarray, label: str, **how: Any) -> None:
    bar = figure.colorbar(shown, ax=list(row), fraction=0.08, pad=0.01, aspect=14, **how)
    bar.set_label(label, fontsize=8)
    bar.ax.tick_params(labelsize=7)
    bar.ax.minorticks_off()


def draw_occlusion(found: Occlusion, labels: np.ndarray, path: Path) -> None:
    """Write the mean maps as PNG, a panel for each channel.

    Parameters
    ----------
    found : Occlusion
        What was measured.
    labels : ndarray, shape (galaxies,)
        0 real, 1 fake.
    path : Path
        Where to.
    """
    maps, across = found.maps.mean(axis=0), min(len(found.channels), 4)
    down = -(-len(found.channels) // across)
    figure = Figure(figsize=(2.9 * across, 2.5 * down + 1.9), layout="constrained")
    grid = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True).ravel()
    for axes, channel, each in zip(grid, found.channels, maps, strict=False):
        limit = float(np.max(np.abs(each))) or 1.0
        shown = _show(axes, each, Normalize(-limit, limit), "RdBu_r")
        _bar(figure, shown, np.array([axes]), "fall of the logit")
        axes.set_title("all channels" if channel == found.channels[0] else channel.replace("_", " "), fontsize=10)
    low = -maps.shape[-1] * PIXEL_SCALE / 2
    side = found.patch * PIXEL_SCALE
    grid[0].add_patch(_outline(low + 0.3, -low - 0.3 - side, side))
    for axes in grid[len(found.channels) :]:
        axes.set_axis_off()
    _label_outer(grid, across, len(found.channels))
    fakes = int(np.sum(labels == 1))
    caption = OCCLUSION_CAPTION.format(patch=found.patch, fakes=fakes, reals=len(labels) - fakes)
    _finish(figure, "What the network looks at", caption, path)


def _outline(x: float, y: float, side: float) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((x, y), side, side, fill=False, edgecolor="black", linewidth=0.8)


def _label_outer(grid: np.ndarray, across: int, count: int) -> None:
    """Label the axes at the left and at the bottom; a panel without another below it keeps its own numbers."""
    for number, axes in enumerate(grid[:count]):
        if number % across == 0:
            axes.set_ylabel("arcsec", fontsize=8)
        if number + across >= count:
            axes.set_xlabel("arcsec", fontsize=8)
            axes.tick_params(labelbottom=True)


def draw_gallery(name: str, pictures: np.ndarray, galaxies: Sequence[dict[str, Any]], band: str, path: Path) -> None:
    """Write a gallery as PNG: each galaxy with its score and magnitude under it.

    Parameters
    ----------
    name : str
        A key of `hpc_galaxy.realism.why.galleries.GALLERIES`.
    pictures : ndarray, shape (n, size, size, 3), uint8
        In colour, see `hpc_galaxy.realism.mosaic.colour_pictures`.
    galaxies : sequence of dict
        From `hpc_galaxy.realism.why.galleries.list_galaxies`.
    band : str
        Of their magnitudes.
    path : Path
        Where to.
    """
    down = -(-len(pictures) // ACROSS)
    figure = Figure(figsize=(1.75 * ACROSS, 2.1 * down + 1.3), layout="constrained")
    # One axes for all: dozens of them would take seconds to draw. A picture is 1 wide, and has the space for two lines below it.
    axes = figure.subplots()
    for number, (picture, galaxy) in enumerate(zip(pictures, galaxies, strict=True)):
        x, y = CELL[0] * (number % ACROSS), -CELL[1] * (number // ACROSS)
        axes.imshow(picture, origin="lower", interpolation="nearest", extent=(x, x + 1, y, y + 1))
        magnitude = "magnitude not known" if galaxy["mag"] is None else f"{band} = {galaxy['mag']:.2f} mag"
        axes.text(x + 0.5, y - 0.03, f"score {galaxy['score']:.3f}\n{magnitude}", fontsize=9, ha="center", va="top")
    axes.set(xlim=(0, CELL[0] * ACROSS - 0.05), ylim=(1 - CELL[1] * down, 1))
    axes.set_axis_off()
    side = pictures.shape[1] * PIXEL_SCALE
    caption = f"{GALLERY_CAPTIONS[name]} {GALLERY_NOTE} Each stamp is {side:.1f} arcsec wide."
    _finish(figure, GALLERY_TITLES[name], caption, path)


def _finish(figure: Figure, headline: str, caption: str, path: Path) -> None:
    figure.suptitle(headline, fontsize=12)
    figure.supxlabel(textwrap.fill(caption, int(figure.get_figwidth() * 14)), fontsize=8.5)
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=DPI)
