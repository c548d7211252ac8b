"""Rounding of pixels to fewer bits, and what that costs in units of the pixel noise.

The last bits of a float32 pixel are noise that does not compress. With the mantissa rounded to b bits the error is at most
2^-(b+1) of the pixel's own value, far below the noise of all but the brightest pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from hpc_galaxy.shards.schema import StampFormat

MANTISSA_BITS = 23  # of a float32
EXPONENT = np.uint32(0x7F800000)


def round_mantissas(pixels: np.ndarray, bits: int) -> np.ndarray:
    """Return float32 numbers rounded to `bits` bits of mantissa, a tie to the even neighbour.

    Parameters
    ----------
    pixels : ndarray of float32, C-contiguous
        Zeros stay zeros; infinities and NaN stay what they are. What would round up to infinity is rounded down.
    bits : int
        1 to 23; 23 keeps everything.
    """
    if bits == MANTISSA_BITS:
        return pixels
    drop = MANTISSA_BITS - bits
    mask = np.uint32((0xFFFFFFFF << drop) & 0xFFFFFFFF)
    before = pixels.view(np.uint32)
    # IEEE 754 numbers are ordered as integers: adding half of the last bit that stays carries into the exponent where it must.
    after = (before >> np.uint32(drop)) & np.uint32(1)
    after += before
    after += np.uint32((1 << (drop - 1)) - 1)
    after &= mask
    special = (after & EXPONENT) == EXPONENT
    if special.any():
        finite = (before & EXPONENT) != EXPONENT
        after = np.where(special | ~finite, np.where(finite, before & mask, before), after)
    return after.view(np.float32)


KEYS = ("rounding_rms_sigma", "rounding_max_sigma", "rounding_max_relative_invvar")


def rounding_keys(stamps: StampFormat) -> tuple[str, ...]:
    """Return the attributes that state the error of rounding: without inverse variances nothing can be said in sigmas."""
    if "invvar" not in stamps.planes:
        return ()
    return KEYS if "image" in stamps.planes else KEYS[2:]


@dataclass
class RoundingError:
    """The error of rounding, summed stamp by stamp, so that it does not depend on how the stamps came in.

    Attributes
    ----------
    stamps : StampFormat
        Which channels are images and which inverse variances.
    """

    stamps: StampFormat
    squares: list[float] = field(default_factory=list)
    pixels: int = 0
    largest: float = 0.0
    largest_relative: float = 0.0

    def add(self, original: np.ndarray, rounded: np.ndarray) -> None:
        """Note the error of stamps, both of shape (n, y, x, channel), float32."""
        bands = len(self.stamps.bands)
        planes = {name: slice(k * bands, (k + 1) * bands) for k, name in enumerate(self.stamps.planes)}
        # Numbers next to each other differ by a float32 exactly. Pixels that are no numbers are the reader's to complain about.
        with np.errstate(invalid="ignore", over="ignore"):
            error = np.abs(rounded - original)
            if "invvar" in planes:
                invvar = np.maximum(original[..., planes["invvar"]], 0)
                self._add_relative(error[..., planes["invvar"]], invvar)
                if "image" in planes:
                    self._add_sigma(error[..., planes["image"]] ** 2 * invvar, invvar)

    def _add_relative(self, error: np.ndarray, invvar: np.ndarray) -> None:
        relative = np.divide(error, invvar, out=np.zeros_like(error), where=invvar > 0)
        self.largest_relative = max(self.largest_relative, float(relative.max(initial=0)))

    def _add_sigma(self, squares: np.ndarray, invvar: np.ndarray) -> None:
        self.squares += squares.reshape(len(squares), -1).sum(axis=1, dtype=np.float64).tolist()
        self.pixels += int(np.count_nonzero(invvar))
        self.largest = max(self.largest, math.sqrt(float(squares.max(initial=0))))

    def attributes(self) -> dict[str, float]:
        """Return what a file says of its rounding: pixels in units of their noise, inverse variances relative."""
        rms = math.sqrt(math.fsum(self.squares) / self.pixels) if self.pixels else 0.0
        numbers = dict(zip(KEYS, (rms, self.largest, self.largest_relative), strict=True))
        return {name: numbers[name] for name in rounding_keys(self.stamps)}
