"""What may be done to a galaxy without changing its physics: mirror it, turn it by right angles, shift it by whole pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hpc_galaxy.config.training import Data

FLIP, ROTATE, SHIFT_X, SHIFT_Y = range(4)  # the kinds of draws


@dataclass(frozen=True)
class Augmentation:
    """Random changes of training stamps.

    What is drawn for an example depends on seed, epoch and the example alone, not on ranks or batches.

    Attributes
    ----------
    settings : Data
        The section [train.data].
    seed, epoch : int
        They decide the draws.
    """

    settings: Data
    seed: int
    epoch: int

    def apply(self, stamps: np.ndarray, indices: np.ndarray, out: np.ndarray) -> None:
        """Put the changed `stamps` into `out`.

        Parameters
        ----------
        stamps, out : ndarray, shape (n, size, size, channels), axes (example, y, x, channel)
            Raw pixels; what a shift brings in has image 0 and inverse variance 0, that is, no data.
        indices : ndarray, shape (n,), int
            The examples' numbers in their split.
        """
        wanted = self.settings.augment
        flips = self.draw(indices, FLIP, 2) if "flip" in wanted else np.zeros(len(indices), int)
        turns = self.draw(indices, ROTATE, 4) if "rotate" in wanted else np.zeros(len(indices), int)
        far = self.settings.max_shift if "shift" in wanted else 0
        shifts = [self.draw(indices, kind, 2 * far + 1) - far for kind in (SHIFT_X, SHIFT_Y)]
        for stamp, room, flip, turn, dx, dy in zip(stamps, out, flips, turns, *shifts, strict=True):
            turned = np.rot90(stamp[:, ::-1] if flip else stamp, int(turn))
            shift(turned, int(dx), int(dy), room)

    def draw(self, indices: np.ndarray, kind: int, choices: int) -> np.ndarray:
        """Return a number from 0 to `choices` - 1 for each example, shape (n,), int64."""
        key = mix(np.uint64(self.seed) ^ mix(np.uint64(self.epoch) ^ mix(np.uint64(kind))))
        return (mix(indices.astype(np.uint64) ^ key) % np.uint64(choices)).astype(np.int64)


def shift(stamp: np.ndarray, dx: int, dy: int, out: np.ndarray) -> None:
    """Put `stamp`, axes (y, x, channel), into `out`, its content moved by (dx, dy) pixels; what comes in is 0."""
    size = len(stamp)
    if dx or dy:
        out[...] = 0
    to_x, to_y = slice(max(dx, 0), size + min(dx, 0)), slice(max(dy, 0), size + min(dy, 0))
    of_x, of_y = slice(max(-dx, 0), size + min(-dx, 0)), slice(max(-dy, 0), size + min(-dy, 0))
    out[to_y, to_x] = stamp[of_y, of_x]


def mix(values: np.ndarray | np.uint64) -> np.ndarray:
    """Return well-mixed 64 bits of each of `values`, uint64 (SplitMix64: Steele, Lea & Flood 2014, OOPSLA, 453)."""
    z = np.asarray(values, np.uint64)
    with np.errstate(over="ignore"):
        z = z + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
