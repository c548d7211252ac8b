"""Pictures of real and fake galaxies, row by row."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from astropy.visualization import make_lupton_rgb
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hpc_galaxy.files import whole_file
from hpc_galaxy.shards.schema import BANDS

TITLES = ("g r z", *BANDS, *(f"invvar {band}" for band in BANDS))
SIDE = 1.25  # of a panel, inches
LEFT, RIGHT, TOP, BOTTOM = 0.45, 0.75, 0.85, 0.95  # margins, inches
COLOUR_WEIGHTS = np.array([6.0, 3.4, 2.2])  # of g, r, z, as in the Legacy Surveys' sky viewer: about inverse to a galaxy's fluxes
CAPTION = (
    "R real, F fake; neighbouring rows are of nearly the same g magnitude (right). Look for what tells F from R: smooth profiles without\n"
    "arms, knots or companions. A galaxy that shows in the inverse variance of one class only would be a flaw of the injection. All rows\n"
    "of a column share one scale: g, r, z in arcsinh of the noise, no flux being grey; inverse variance linear from 0, which is black:\n"
    "masked pixels, or sky beyond the coadd's edge."
)


def draw_mosaic(stamps: np.ndarray, letters: Sequence[str], magnitudes: np.ndarray, title: str, path: Path) -> None:
    """Write one mosaic as PNG.

    Parameters
    ----------
    stamps : ndarray, shape (n, 64, 64, 6), float32
        One row of the picture each, axes (row, y, x, channel); nanomaggies and 1/nanomaggies^2.
    letters : sequence of str
        ``R`` or ``F`` for each row.
    magnitudes : ndarray, shape (n,)
        AB magnitude in g of each row.
    title : str
        Above the columns' titles.
    path : Path
        Where to.
    """
    rows, columns = len(stamps), len(TITLES)
    width, height = columns * SIDE + LEFT + RIGHT, rows * SIDE + TOP + BOTTOM
    figure = Figure(figsize=(width, height))
    grid = figure.subplots(rows, columns, squeeze=False)
    figure.subplots_adjust(LEFT / width, BOTTOM / height, 1 - RIGHT / width, 1 - TOP / height, wspace=0.04, hspace=0.04)
    panels = np.concatenate([scale_images(stamps), scale_invvar(stamps)], axis=-1)
    colours = colour_pictures(stamps)
    for axes, panel, colour, letter, magnitude in zip(grid, panels, colours, letters, magnitudes, strict=True):
        _draw_row(axes, panel, colour)
        axes[0].set_ylabel(
            letter, rotation=0, fontsize=15, fontweight="bold", labelpad=14, va="center", color="C0" if letter == "R" else "C3"
        )
        axes[-1].text(1.08, 0.5, f"{magnitude:.2f}", transform=axes[-1].transAxes, va="center", fontsize=11)
    for axes, name in zip(grid[0], TITLES, strict=True):
        axes.set_title(name, fontsize=11)
    grid[0, -1].text(1.08, 1.06, "g mag", transform=grid[0, -1].transAxes, fontsize=11)
    figure.text(LEFT / width, 1 - 0.3 / height, title, fontsize=13, va="center")
    figure.text(LEFT / width, 0.12 / height, CAPTION, fontsize=8.5, va="bottom")
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=120)


def _draw_row(axes: Sequence[Axes], panel: np.ndarray, colour: np.ndarray) -> None:
    # origin="lower": y grows upwards, as on the sky.
    axes[0].imshow(colour, origin="lower", interpolation="nearest")
    for column, axis in enumerate(axes[1:]):
        axis.imshow(panel[..., column], origin="lower", interpolation="nearest", cmap="gray", vmin=0, vmax=1)
    for axis in axes:
        axis.set_xticks([])
        axis.set_yticks([])


def noise(stamps: np.ndarray) -> np.ndarray:
    """Return the typical noise of a pixel in each band, shape (3,), nanomaggies; 1 where no pixel has an inverse variance."""
    sigma = np.ones(3)
    for band in range(3):
        good = stamps[..., 3 + band][stamps[..., 3 + band] > 0]
        if good.size:
            sigma[band] = 1 / np.sqrt(np.median(good))
    return sigma


def scale_images(stamps: np.ndarray) -> np.ndarray:
    """Return the images as grey values from 0 to 1, shape (n, 64, 64, 3): arcsinh in units of the noise, from -2 sigma to the brightest."""
    stretched = np.arcsinh(stamps[..., :3] / (2 * noise(stamps)))
    low = np.arcsinh(-1.0)
    high = np.maximum(np.quantile(stretched, 0.9995, axis=(0, 1, 2)), np.arcsinh(2.5))
    return np.asarray(np.clip((stretched - low) / (high - low), 0, 1))


def scale_invvar(stamps: np.ndarray) -> np.ndarray:
    """Return the inverse variances as grey values from 0 to 1, shape (n, 64, 64, 3): linear, 0 is black."""
    invvar = stamps[..., 3:]
    high = np.quantile(invvar, 0.998, axis=(0, 1, 2))
    return np.asarray(np.clip(invvar / np.where(high > 0, high, 1), 0, 1))


def colour_pictures(stamps: np.ndarray) -> np.ndarray:
    """Return colour pictures, shape (n, 64, 64, 3), uint8: z, r, g as red, green, blue (Lupton et al. 2004, PASP 116, 133)."""
    sigma = float(np.median(noise(stamps) * COLOUR_WEIGHTS))
    g, r, z = np.moveaxis(stamps[..., :3] * COLOUR_WEIGHTS, -1, 0)
    planes = zip(z, r, g, strict=True)
    pictures = np.stack([make_lupton_rgb(*plane, minimum=-sigma, stretch=5 * sigma, Q=7) for plane in planes])
    pictures[(stamps[..., 3:] <= 0).all(axis=-1)] = 0
    return pictures
