"""What the pixels of stamps are asked: where the light is, where there are no data, what the inverse variances look like."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from hpc_galaxy.shards.recognise import PLANES
from hpc_galaxy.shards.rounding import MANTISSA_BITS
from hpc_galaxy.shards.schema import StampFormat

WINDOW = 2.0  # pixels, sigma of the Gaussian that centroids are weighted with: about that of a seeing disk
REACH = 10  # pixels around the centre that it looks at
ITERATIONS = 4
FARTHEST = 1.5  # pixels: what wanders farther has found a neighbour, and counts no more than this
CENTRE = 5.0  # pixels: radius of what is called the centre
ANNULI = (0.0, 2.0, 4.0, 7.0, 11.0)  # pixels, borders of the rings
CORE = 2  # of them, where most of a galaxy's light is
GRID = 3  # squares along each side of a stamp
REGIONS = len(ANNULI) - 1 + GRID**2
QUANTILES = (0.01, 0.1, 0.9, 0.99)
MANTISSA = np.uint32((1 << MANTISSA_BITS) - 1)

SHARES = {
    "no_data": "share of pixels with inverse variance 0",
    "no_data_centre": "share of stamps with inverse variance 0 within 5 pixels of the centre",
    "no_light": "share of pixels whose value is exactly 0",
    "no_light_centre": "share of stamps with a value of exactly 0 within 5 pixels of the centre",
    "light_without_data": "share of stamps with a value other than 0 where the inverse variance is 0",
}


@dataclass(frozen=True)
class Ruler:
    """Measures stamps of one format.

    Attributes
    ----------
    stamps : StampFormat
        What they are made of.
    noise : tuple of float
        Typical sky noise of each image channel, in its unit; empty without images.
    """

    stamps: StampFormat
    noise: tuple[float, ...]

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """What is known of one stamp after it was measured."""
        bands = len(self.stamps.bands)
        invvar = [("invvar", "<f4", (bands * len(FEATURES),))] if "invvar" in self.stamps.planes else []
        both = [(name, "<f4", (bands, REGIONS)) for name in ("variance", "light")] if len(self.stamps.planes) == len(PLANES) else []
        bits = [("bits", "<u4", (len(self.stamps.channels),)), ("image_bits", "i1")]
        return np.dtype([("x", "<f4"), ("y", "<f4"), ("snr", "<f4"), *[(name, "<f4") for name in SHARES], *bits, *invvar, *both])

    def plane(self, x: np.ndarray, name: str) -> np.ndarray | None:
        """Return the channels of a plane, shape (n, size, size, bands); None where the stamps have no such plane."""
        if name not in self.stamps.planes:
            return None
        first = self.stamps.planes.index(name) * len(self.stamps.bands)
        return x[..., first : first + len(self.stamps.bands)]

    def measure(self, x: np.ndarray, position: np.ndarray) -> np.ndarray:
        """Measure stamps.

        Parameters
        ----------
        x : ndarray, shape (n, size, size, channels), float32
            Axes (source, y, x, channel).
        position : ndarray, shape (n, 2)
            Where the catalog says that the source is: x, y, 0-indexed in the stamp, pixels (`positions`).

        Returns
        -------
        ndarray, shape (n,), `dtype`
            ``x``, ``y``: light minus catalog, pixels, and ``snr``, the signal to noise ratio in the window, NaN without images;
            `SHARES`; ``bits``: which bits of the mantissas are in use, by channel; ``image_bits``: how many of them, in the
            images, -1 where all is 0; ``invvar``: `invvar_features`; ``variance`` and ``light``: `by_region`.
        """
        found = np.zeros(len(x), self.dtype)
        image, invvar = self.plane(x, "image"), self.plane(x, "invvar")
        found["x"], found["y"], found["snr"] = np.nan, np.nan, np.nan
        if image is not None:
            found["x"], found["y"], found["snr"] = centroids(image, position, self.noise)
        self._zeros(found, image, invvar)
        found["bits"] = bits_in_use(x)
        used = self.plane(found["bits"], "image")
        found["image_bits"] = -1 if used is None else count_bits(np.bitwise_or.reduce(used, axis=-1))
        if invvar is not None:
            found["invvar"] = invvar_features(invvar)
        if image is not None and invvar is not None:
            found["variance"], found["light"] = by_region(image, invvar)
        return found

    def _zeros(self, found: np.ndarray, image: np.ndarray | None, invvar: np.ndarray | None) -> None:
        """Fill in the shares of zeros; NaN where the plane is missing."""
        for name in SHARES:
            found[name] = np.nan
        centre = distances(self.stamps.size) <= CENTRE
        for name, plane in (("no_light", image), ("no_data", invvar)):
            if plane is not None:
                zero = plane == 0
                found[name] = zero.mean(axis=(1, 2, 3))
                found[f"{name}_centre"] = zero[:, centre].any(axis=(1, 2))
        if image is not None and invvar is not None:
            found["light_without_data"] = ((invvar == 0) & (image != 0)).any(axis=(1, 2, 3))


def positions(table: np.ndarray, size: int) -> np.ndarray:
    """Return where in its stamp each source is by its catalog, shape (n, 2): x, y, 0-indexed pixels.

    A stamp begins at ``ceil(position - size / 2)``. The stamp's centre where a position is not known, as in files of 2018.
    """
    at = np.stack([table["bx"], table["by"]], axis=-1).astype(np.float64)
    return np.where(np.isfinite(at), at - np.ceil(at - size / 2), (size - 1) / 2)


def distances(size: int) -> np.ndarray:
    """Return the distance of each pixel from the stamp's centre, shape (size, size), pixels."""
    offset = np.arange(size) - (size - 1) / 2
    return np.hypot(offset[:, None], offset)


def centroids(image: np.ndarray, position: np.ndarray, noise: Sequence[float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return where the light is, relative to `position`, and how well it stands out.

    The bands are added, each over its noise variance; the centroid is iterated in a Gaussian window that moves along (the windowed
    positions of SExtractor: Bertin & Arnouts 1996, A&AS 117, 393, and its manual, "Windowed positional parameters").

    Parameters
    ----------
    image : ndarray, shape (n, size, size, bands)
        Nanomaggies.
    position : ndarray, shape (n, 2)
        x, y, in the stamp, pixels.
    noise : sequence of float
        Sky noise of each band, nanomaggies.

    Returns
    -------
    x, y : ndarray, shape (n,)
        Offsets, pixels, cut off at `FARTHEST`.
    snr : ndarray, shape (n,)
        Signal to noise ratio of the light in the window at `position`.
    """
    size = image.shape[1]
    first, last = max(size // 2 - 1 - REACH, 0), min(size // 2 + 1 + REACH, size)
    weights = 1 / np.square(np.asarray(noise, np.float64))
    light = image[:, first:last, first:last].astype(np.float64) @ weights
    pixels = np.arange(first, last)
    offset = np.zeros_like(position)
    snr = np.zeros(len(image))
    for step in range(ITERATIONS):
        along = pixels - (position + offset)[..., None]  # axes (source, x or y, pixel)
        window = np.exp(-(along**2) / (2 * WINDOW**2))
        columns = np.matmul(light, window[:, 0, :, None])[..., 0]  # summed along x
        total = (columns * window[:, 1]).sum(axis=1)
        if step == 0:
            snr = total / np.sqrt(weights.sum() * (window[:, 0] ** 2).sum(axis=1) * (window[:, 1] ** 2).sum(axis=1))
        moment = np.stack(
            [
                (np.matmul(light, (window * along)[:, 0, :, None])[..., 0] * window[:, 1]).sum(axis=1),
                (columns * (window * along)[:, 1]).sum(axis=1),
            ],
            axis=-1,
        )
        # A window as broad as the source shows half of its offset.
        offset += 2 * np.divide(moment, total[:, None], out=np.zeros_like(moment), where=total[:, None] > 0)
        offset = np.clip(offset, -FARTHEST, FARTHEST)
    return offset[:, 0], offset[:, 1], snr


def bits_in_use(x: np.ndarray) -> np.ndarray:
    """Return which bits of the mantissas are set in any pixel of a stamp, shape (n, channels), uint32."""
    pixels = np.ascontiguousarray(x).view(np.uint32).reshape(len(x), -1, x.shape[-1])
    return np.bitwise_or.reduce(pixels, axis=1) & MANTISSA


def count_bits(patterns: np.ndarray) -> np.ndarray:
    """Return how many bits of mantissa numbers with these `bits_in_use` have, shape (n,), int8; -1 where none is set."""
    wide = patterns.astype(np.int64)
    lowest = wide & -wide
    bits = MANTISSA_BITS - np.log2(np.maximum(lowest, 1)).astype(np.int8)
    return np.where(patterns == 0, -1, bits).astype(np.int8)


FEATURES = (
    "level",
    *[f"ring{number}" for number in range(len(ANNULI) - 1)],
    *[f"quantile{100 * value:g}" for value in QUANTILES],
    "slope_x",
    "slope_y",
    "no_data",
)
"""What is asked of each band's inverse variance; all but ``level`` and ``no_data`` are relative to the stamp's median."""


def invvar_features(invvar: np.ndarray) -> np.ndarray:
    """Return what inverse variances alone tell of a stamp.

    Parameters
    ----------
    invvar : ndarray, shape (n, size, size, bands)
        1/nanomaggies^2; 0 where there are no data.

    Returns
    -------
    ndarray, shape (n, bands x `FEATURES`), float32
        For each band: log10 of the median; the means of rings around the centre; quantiles; right minus left and top minus bottom half;
        share of pixels without data. NaN where there are none.
    """
    count, size, _, bands = invvar.shape
    pixels = np.moveaxis(invvar, -1, 1).reshape(count, bands, size * size)
    ordered = np.sort(pixels, axis=-1)  # numpy sorts float32 faster than it partitions them (benchmarks/bench_pieces.py)
    middle, *tails = (ordered[..., int(share * (size * size - 1))] for share in (0.5, *QUANTILES))
    masks = np.concatenate([rings(size), halves(size)], axis=-1)
    number = np.matmul((pixels > 0).astype(np.float32), masks)
    with np.errstate(divide="ignore", invalid="ignore"):
        means = np.matmul(pixels, masks) / number / middle[..., None]
        inner, (right, left, top, bottom) = means[..., :-4], np.moveaxis(means[..., -4:], -1, 0)
        ratios = [np.log10(middle), *np.moveaxis(inner, -1, 0), *(np.stack(tails) / middle), right - left, top - bottom]
    features = np.stack([*ratios, (pixels == 0).mean(axis=-1)], axis=-1).astype(np.float32)
    features[~np.isfinite(features)] = np.nan
    return features.reshape(count, -1)


def by_region(image: np.ndarray, invvar: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean variance and the mean light of the rings around the centre and of the squares of a coarse grid.

    Parameters
    ----------
    image, invvar : ndarray, shape (n, size, size, bands)
        Nanomaggies and 1/nanomaggies^2.

    Returns
    -------
    variance, light : ndarray, shape (n, bands, `REGIONS`), float32
        Over the pixels with data; NaN where there are none. nanomaggies^2 and nanomaggies.
    """
    count, size, _, bands = image.shape
    masks = np.concatenate([rings(size), squares(size)], axis=-1)
    pixels, weight = (np.moveaxis(plane, -1, 1).reshape(count, bands, size * size) for plane in (image, invvar))
    data = weight > 0
    number = np.matmul(data.astype(np.float32), masks)
    variance = np.divide(1, weight, out=np.zeros_like(weight), where=data)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.matmul(variance, masks) / number, np.matmul(np.where(data, pixels, 0), masks) / number


def rings(size: int) -> np.ndarray:
    """Return the rings around the centre, shape (pixels, number of rings), float32: 1 inside."""
    radius = distances(size)
    return _flat([(radius >= inner) & (radius < outer) for inner, outer in pairwise(ANNULI)])


def halves(size: int) -> np.ndarray:
    """Return the right, left, top and bottom half of a stamp, shape (pixels, 4), float32: 1 inside."""
    y, x = np.indices((size, size)) - (size - 1) / 2
    return _flat([x > 0, x < 0, y > 0, y < 0])


def squares(size: int) -> np.ndarray:
    """Return the squares of a coarse grid, shape (pixels, `GRID` x `GRID`), float32: 1 inside."""
    row, column = np.indices((size, size)) * GRID // size
    return _flat([(row == y) & (column == x) for y in range(GRID) for x in range(GRID)])


def _flat(parts: Sequence[np.ndarray]) -> np.ndarray:
    return np.stack([part.reshape(-1) for part in parts], axis=-1).astype(np.float32)
