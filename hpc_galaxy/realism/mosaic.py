"""Pictures of real and fake galaxies, row by row."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from hpc_galaxy.files import whole_file
from hpc_galaxy.realism.pixels import pixel_scatter, plane_of
from hpc_galaxy.shards.schema import DEFAULT, StampFormat

SIDE = 1.25  # of a panel, inches
LEFT, RIGHT, TOP, BOTTOM = 0.45, 0.75, 0.85, 0.95  # margins, inches
# As in the Legacy Surveys' sky viewer: about inverse to a galaxy's fluxes, from blue to red.
COLOUR_WEIGHTS = {"g": 6.0, "r": 3.4, "i": 2.7, "z": 2.2}
CAPTION = (
    "R real, F fake; neighbouring rows are of nearly the same magnitude (right). Look for what tells F from R: smooth profiles without\n"
    "arms, knots or companions. A galaxy that shows in the inverse variance of one class only would be a flaw of the injection. All rows\n"
    "of a column share one scale: images in arcsinh of the noise, no flux being grey; inverse variance linear from 0, which is black:\n"
    "masked pixels, or sky beyond the coadd's edge."
)


def brightness_band(stamps: StampFormat) -> str:
    """Return the band in which galaxies are called bright: g, or the bluest there is."""
    return min(stamps.bands, key=list(COLOUR_WEIGHTS).index)


def draw_mosaic(
    stamps: np.ndarray, letters: Sequence[str], magnitudes: np.ndarray, title: str, path: Path, made_of: StampFormat = DEFAULT
) -> None:
    """Write one mosaic as PNG.

    Parameters
    ----------
    stamps : ndarray, shape (n, size, size, channels), float32
        One row of the picture each, axes (row, y, x, channel); nanomaggies and 1/nanomaggies^2.
    letters : sequence of str
        ``R`` or ``F`` for each row.
    magnitudes : ndarray, shape (n,)
        AB magnitude of each row in `brightness_band`.
    title : str
        Above the columns' titles.
    path : Path
        Where to.
    made_of : StampFormat
        The stamps' bands and planes.
    """
    titles, panels = _panels(stamps, made_of)
    rows, columns, step = len(stamps), len(titles), made_of.size + _gap(made_of.size)
    width, height = columns * SIDE + LEFT + RIGHT, rows * SIDE + TOP + BOTTOM
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((LEFT / width, BOTTOM / height, columns * SIDE / width, rows * SIDE / height))
    axes.axis("off")
    # origin="lower": y grows upwards, as on the sky.
    axes.imshow(_stitched(panels), origin="lower", interpolation="nearest", aspect="auto", extent=(0, columns * step, 0, rows * step))
    for row, (letter, magnitude) in enumerate(zip(letters, magnitudes, strict=True)):
        middle, colour = (rows - row - 0.5) * step, "C0" if letter == "R" else "C3"
        axes.text(-0.12 * step, middle, letter, fontsize=15, fontweight="bold", ha="right", va="center", color=colour)
        axes.text((columns + 0.06) * step, middle, f"{magnitude:.2f}", fontsize=11, va="center")
    for column, name in enumerate(titles):
        axes.text((column + 0.5) * step, (rows + 0.06) * step, name, fontsize=11, ha="center")
    axes.text((columns + 0.06) * step, (rows + 0.06) * step, f"{brightness_band(made_of)} mag", fontsize=11)
    figure.text(LEFT / width, 1 - 0.3 / height, title, fontsize=13, va="center")
    figure.text(LEFT / width, 0.12 / height, CAPTION, fontsize=8.5, va="bottom")
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=120)


def _gap(size: int) -> int:
    """Return the pixels between two panels."""
    return max(1, round(0.04 * size))


def _stitched(panels: Sequence[np.ndarray]) -> np.ndarray:
    """Return all panels as one picture, shape (y, x, 3), the first row on top: hundreds of axes would take many seconds to draw.

    Parameters
    ----------
    panels : sequence of ndarray
        A column each, as from `_panels`.
    """
    rows, size = panels[0].shape[:2]
    step, gap = size + _gap(size), _gap(size) // 2
    picture = np.full((rows * step, len(panels) * step, 3), 0.8, np.float32)
    for column, stamps in enumerate(panels):
        colours = stamps / 255 if stamps.ndim == 4 else stamps[..., None]
        for row, stamp in enumerate(colours):
            y, x = (rows - 1 - row) * step + gap, column * step + gap
            picture[y : y + size, x : x + size] = stamp
    return picture


def _panels(stamps: np.ndarray, made_of: StampFormat) -> tuple[list[str], list[np.ndarray]]:
    """Return the columns' titles and pictures: each of shape (n, size, size), grey from 0 to 1, or (n, size, size, 3), uint8."""
    titles, panels = [], []
    if "image" in made_of.planes:
        titles += [" ".join(made_of.bands), *made_of.bands]
        panels += [colour_pictures(stamps, made_of), *np.moveaxis(scale_images(stamps, made_of), -1, 0)]
    if "invvar" in made_of.planes:
        titles += [f"invvar {band}" for band in made_of.bands]
        panels += [*np.moveaxis(scale_invvar(stamps, made_of), -1, 0)]
    return titles, panels


def noise(stamps: np.ndarray, made_of: StampFormat = DEFAULT) -> np.ndarray:
    """Return the typical noise of a pixel in each band, shape (bands,), nanomaggies; 1 where nothing tells it.

    From the inverse variance; of stamps without, from how much the pixels scatter.
    """
    if "invvar" not in made_of.planes:
        return pixel_scatter(plane_of(stamps, "image", made_of))
    sigma = np.ones(len(made_of.bands))
    for band, invvar in enumerate(np.moveaxis(plane_of(stamps, "invvar", made_of), -1, 0)):
        good = invvar[invvar > 0]
        if good.size:
            sigma[band] = 1 / np.sqrt(np.median(good))
    return sigma


def scale_images(stamps: np.ndarray, made_of: StampFormat = DEFAULT) -> np.ndarray:
    """Return the images as grey values from 0 to 1, shape (n, size, size, bands).

    Arcsinh in units of the noise, from -2 sigma to the brightest.
    """
    stretched = np.arcsinh(plane_of(stamps, "image", made_of) / (2 * noise(stamps, made_of)))
    low = np.arcsinh(-1.0)
    high = np.maximum(np.quantile(stretched, 0.9995, axis=(0, 1, 2)), np.arcsinh(2.5))
    return np.asarray(np.clip((stretched - low) / (high - low), 0, 1))


def scale_invvar(stamps: np.ndarray, made_of: StampFormat = DEFAULT) -> np.ndarray:
    """Return the inverse variances as grey values from 0 to 1, shape (n, size, size, bands): linear, 0 is black."""
    invvar = plane_of(stamps, "invvar", made_of)
    high = np.quantile(invvar, 0.998, axis=(0, 1, 2))
    return np.asarray(np.clip(invvar / np.where(high > 0, high, 1), 0, 1))


def colour_pictures(stamps: np.ndarray, made_of: StampFormat = DEFAULT) -> np.ndarray:
    """Return colour pictures, shape (n, size, size, 3), uint8 (Lupton et al. 2004, PASP 116, 133).

    Red, green and blue are z, r and g; or the reddest, the middle and the bluest band there is. Of two bands, green is the mean.
    """
    bands = sorted(made_of.bands, key=list(COLOUR_WEIGHTS).index)
    weights = np.array([COLOUR_WEIGHTS[band] for band in made_of.bands])
    sigma = float(np.median(noise(stamps, made_of) * weights))
    weighted = dict(zip(made_of.bands, np.moveaxis(plane_of(stamps, "image", made_of) * weights, -1, 0), strict=True))
    blue, red = weighted[bands[0]], weighted[bands[-1]]
    green = (blue + red) / 2 if len(bands) == 2 else weighted[bands[(len(bands) - 1) // 2]]
    planes = zip(red, green, blue, strict=True)
    from astropy.visualization import make_lupton_rgb  # and units, and coordinates, which only the rank that draws has to read

    pictures = np.stack([make_lupton_rgb(*plane, minimum=-sigma, stretch=5 * sigma, Q=7) for plane in planes])
    if "invvar" in made_of.planes:
        pictures[(plane_of(stamps, "invvar", made_of) <= 0).all(axis=-1)] = 0
    return pictures
