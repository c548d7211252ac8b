"""What may be done to a galaxy without changing its physics: mirror it, turn it by right angles, shift it by whole pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hpc_galaxy.config.training import Data

FLIP, TURNS, SHIFT_X, SHIFT_Y = range(4)
"""The columns of moves, which are also the kinds of draws."""
MOVES = 4


@dataclass(frozen=True)
class Augmentation:
    """Random moves of training stamps.

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

    def moves(self, indices: np.ndarray) -> np.ndarray:
        """Return what is to be done to each example, as `move` takes it.

        Parameters
        ----------
        indices : ndarray, shape (n,), int
            The examples' numbers in their split.

        Returns
        -------
        ndarray, shape (n, 4), int32
            Whether it is mirrored in x, by how many right angles it is then turned, by how many pixels it is then shifted in x and y.
        """
        wanted, far = self.settings.augment, self.settings.max_shift
        moves = np.zeros((len(indices), MOVES), np.int32)
        if "flip" in wanted:
            moves[:, FLIP] = self._draw(indices, FLIP, 2)
        if "rotate" in wanted:
            moves[:, TURNS] = self._draw(indices, TURNS, 4)
        for column in (SHIFT_X, SHIFT_Y) if "shift" in wanted else ():
            moves[:, column] = self._draw(indices, column, 2 * far + 1) - far
        return moves

    def _draw(self, indices: np.ndarray, kind: int, choices: int) -> np.ndarray:
        """Return a number from 0 to `choices` - 1 for each example, shape (n,), int64."""
        key = mix(np.uint64(self.seed) ^ mix(np.uint64(self.epoch) ^ mix(np.uint64(kind))))
        return (mix(np.asarray(indices).astype(np.uint64) ^ key) % np.uint64(choices)).astype(np.int64)


def move(stamps: np.ndarray, moves: np.ndarray, out: np.ndarray) -> None:
    """Put the mirrored, turned and shifted `stamps` into `out`; about their geometric centre, all planes alike.

    Parameters
    ----------
    stamps, out : ndarray, shape (n, size, size, channels), axes (example, y, x, channel)
        Raw pixels, two arrays. What a shift brings in has image 0 and inverse variance 0, that is, no data.
    moves : ndarray, shape (n, 4), int
        As `Augmentation.moves` returns them; a quarter turn takes +x to -y, as `numpy.rot90` does.
    """
    for stamp, room, (flip, turns, dx, dy) in zip(stamps, out, moves.tolist(), strict=True):
        _shift(np.rot90(stamp[:, ::-1] if flip else stamp, turns), dx, dy, room)


def _shift(stamp: np.ndarray, dx: int, dy: int, out: np.ndarray) -> None:
    """Put `stamp`, axes (y, x, channel), into `out`, its content moved by (dx, dy) pixels."""
    size = len(stamp)
    # A stamp smaller than the shift is left empty.
    dx, dy = (min(max(by, -size), size) for by in (dx, dy))
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
