"""How shards store pixels: float32 as they are, or float16 in units of a power of two for each channel, and what that costs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from hpc_galaxy.shards.rounding import RoundingError
from hpc_galaxy.shards.schema import STAMP_DTYPE, StampFormat

HALF = np.dtype("<f2")
LARGEST = 65504.0  # the largest finite float16
BLOCK = 16  # stamps encoded at a time: they stay in the processor's cache
EXPONENTS = range(-100, 101)  # of the scale: pixels of any survey, far from where float32 ends


class Storage(BaseModel):
    """What the numbers in the x-files are; part of the manifest.

    Attributes
    ----------
    dtype : str
        ``<f4``: the pixels themselves. ``<f2``: the pixels divided by `scale`.
    scale : list of float, one a channel
        Powers of two, so that dividing and multiplying by them is exact; None for ``<f4``.
    error : dict
        Of ``<f2``, over all splits: ``rounding_rms_sigma`` and ``rounding_max_sigma``, the error of image pixels in units of their
        noise; ``rounding_max_relative_invvar``; ``clipped``, the number of pixels that are beyond float16's range.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    dtype: Literal["<f4", "<f2"] = STAMP_DTYPE.str  # type: ignore[assignment]
    scale: list[float] | None = None
    error: dict[str, float] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _fits(self) -> Storage:
        if (self.dtype == HALF.str) != (self.scale is not None):
            raise ValueError(f"scale is {self.scale}, expected one number a channel with '<f2', and none with '<f4'")
        if self.scale is not None and not all(_is_power_of_two(value) for value in self.scale):
            raise ValueError(f"scale is {self.scale}, expected powers of two")
        return self


def _is_power_of_two(value: float) -> bool:
    mantissa, exponent = math.frexp(value)
    return mantissa == 0.5 and exponent - 1 in EXPONENTS


def half_scale(noise: Sequence[float]) -> list[float]:
    """Return what float16 pixels are in units of: the power of two nearest (in its logarithm) to a channel's typical value.

    With the noise of the sky as the unit, float16 reaches from 6e-8 to 65504 sigma, with 11 bits of mantissa from 6e-5 sigma on.

    Parameters
    ----------
    noise : sequence of float, one a channel
        Typical noise of images, typical value of inverse variances: the `scale` of the manifest's statistics.

    Raises
    ------
    ValueError
        A value is not above 0.
    """
    if not all(value > 0 and math.isfinite(value) for value in noise):
        raise ValueError(f"typical values are {list(noise)}, expected numbers above 0")
    return [2.0 ** round(math.log2(value)) for value in noise]


def encode(
    x: np.ndarray, scale: Sequence[float], stamps: StampFormat, out: np.ndarray | None = None
) -> tuple[np.ndarray, dict[str, float]]:
    """Return stamps as float16 in units of `scale`, and what is lost by that.

    Parameters
    ----------
    x : ndarray, shape (n, size, size, channels), float32, C-contiguous
        Stamps, axes (stamp, y, x, channel). Beyond +-65504 `scale` they are clipped; what is no number stays none.
    scale : sequence of float, one a channel
        Powers of two, see `half_scale`.
    stamps : StampFormat
        What they are made of.
    out : ndarray, shape as `x`, float16, optional
        Where to.

    Returns
    -------
    stored : ndarray, shape as `x`, float16
        To the nearest, a tie to the even neighbour.
    sums : dict of float
        The error, as `StorageError` takes it: plain numbers, for JSON.
    """
    stored = np.empty(x.shape, HALF) if out is None else out
    error, clipped = RoundingError(stamps), 0
    per_unit = np.tile(1 / np.asarray(scale, STAMP_DTYPE), stamps.size)
    decoded = np.empty((min(BLOCK, len(x)), *x.shape[1:]), STAMP_DTYPE)
    for start in range(0, len(x), BLOCK):
        original, rows = x[start : start + BLOCK], stored[start : start + BLOCK]
        # decoded serves twice: for the pixels in units of the scale, and then for what a reader will see.
        again = decoded[: len(original)]
        # Rows as long as a stamp's: numpy is slow where the last axis is as short as the channels.
        np.multiply(_as_lines(original), per_unit, out=_as_lines(again))
        clipped += _clip(again)
        rows[...] = again
        decode(rows, scale, again)
        error.add(original, again)
    sums = {"squares": math.fsum(error.squares), "pixels": error.pixels, "largest": error.largest}
    return stored, {**sums, "largest_relative": error.largest_relative, "clipped": clipped}


def _as_lines(pixels: np.ndarray) -> np.ndarray:
    """Return a view of stamps, shape (n, size, size, channels), as lines, shape (n * size, size * channels)."""
    return pixels.reshape(-1, pixels.shape[-2] * pixels.shape[-1])


def _clip(pixels: np.ndarray) -> int:
    """Clip pixels to what float16 can hold, in place; return how many were beyond. Infinities stay: they are errors to be found."""
    with np.errstate(invalid="ignore"):  # comparisons with NaN
        if pixels.max() <= LARGEST and pixels.min() >= -LARGEST:
            return 0
        beyond = (np.abs(pixels) > LARGEST) & np.isfinite(pixels)
    pixels[beyond] = np.copysign(LARGEST, pixels[beyond])
    return int(np.count_nonzero(beyond))


@cache
def _halves() -> np.ndarray:
    """Return the float32 of each of the 65,536 float16.

    How fast numpy converts depends on the processor, a look-up less so; benchmarks/bench_pieces.py compares the two.
    """
    return np.arange(1 << 16, dtype=np.uint16).view(HALF).astype(STAMP_DTYPE)


def decode(stored: np.ndarray, scale: Sequence[float] | np.ndarray, out: np.ndarray) -> None:
    """Write the pixels of float16 stamps to `out`.

    Parameters
    ----------
    stored : ndarray, shape (..., size, channels), float16, C-contiguous
        In units of `scale`.
    scale : sequence of float, one a channel
        Powers of two.
    out : ndarray, shape as `stored`, float32, C-contiguous
        Where to; ``stored * scale``, exactly.
    """
    # No index is beyond the table; with "clip" numpy writes to `out` directly.
    np.take(_halves(), stored.view(np.uint16), out=out, mode="clip")
    lines = _as_lines(out)
    lines *= np.tile(np.asarray(scale, STAMP_DTYPE), stored.shape[-2])


@dataclass
class StorageError:
    """The error of float16, of the parts that `encode` returns for each shard, in the shards' order.

    Attributes
    ----------
    stamps : StampFormat
        Which channels are images and which inverse variances.
    parts : list of dict
        The sums of each shard.
    """

    stamps: StampFormat
    parts: list[Mapping[str, float]] = field(default_factory=list)

    def add(self, sums: Mapping[str, float]) -> None:
        """Note the error of the next shard."""
        self.parts.append(sums)

    def attributes(self) -> dict[str, float]:
        """Return `Storage.error`: that of all shards. Without inverse variances nothing can be said in sigmas."""
        total = RoundingError(self.stamps, [part["squares"] for part in self.parts], int(self._sum("pixels")))
        total.largest, total.largest_relative = self._max("largest"), self._max("largest_relative")
        return {**total.attributes(), "clipped": self._sum("clipped")}

    def _sum(self, name: str) -> float:
        return sum(part[name] for part in self.parts)

    def _max(self, name: str) -> float:
        return max((part[name] for part in self.parts), default=0.0)
