"""What the network sees of a stamp: which planes, and in which units."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from hpc_galaxy.config.training import Data
from hpc_galaxy.errors import ConfigError, FormatError
from hpc_galaxy.shards.manifest import SHARD_SIZE
from hpc_galaxy.shards.numpy_shards import SplitReader
from hpc_galaxy.shards.schema import PIXEL_SCALE, StampFormat
from hpc_galaxy.training.data.augment import MOVES, move

try:
    from hpc_galaxy.training.data import _inputs

    COMPILED = True
except ImportError:
    COMPILED = False  # numpy does the same, slower (benchmarks/bench_pieces.py)

MOST_IN_A_ROW = 16384  # numbers in a row of a stamp that the compiled part has room for
BLOCK = 64  # examples that are read at a time
SAMPLE = 4096  # training examples whose moments "standard" takes
SOURCES = {"image": ("image",), "invvar": ("invvar",), "snr": ("image", "invvar")}


@dataclass(frozen=True)
class Inputs:
    """From pixels to what a network is given: ``(arcsinh(value / scale) - mean) / std``, or the same without the arcsinh.

    Attributes
    ----------
    bands, planes, size : tuple of str, tuple of str, int
        Of the stamps.
    inputs : tuple of str
        ``image``, ``invvar``, ``snr``: the channels are all bands of the first, then all of the second.
    kind : str
        ``arcsinh`` or ``standard``.
    scale, mean, std : tuple of float
        One a channel of what the network sees.
    seen_bands : tuple of str
        Which of the bands the network sees, in this order; empty: all, as in weights from before there was a choice.
    mask_centre : float
        Pixels so near to the middle of what the network sees, arcsec, are as where there are no data: image 0, inverse variance 0.
    """

    bands: tuple[str, ...]
    planes: tuple[str, ...]
    size: int
    inputs: tuple[str, ...]
    kind: str
    scale: tuple[float, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    seen_bands: tuple[str, ...] = ()
    mask_centre: float = 0.0

    @property
    def channels(self) -> tuple[str, ...]:
        """The names of what the network sees, such as ``image_g``."""
        return tuple(f"{name}_{band}" for name in self.inputs for band in self.seen_bands or self.bands)

    @property
    def stamps(self) -> StampFormat:
        """The stamps that this is applied to."""
        return StampFormat(self.bands, self.planes, self.size)

    @property
    def in_place(self) -> bool:
        """Whether the channels are those of the stamps, so that `apply` may overwrite them."""
        return self.inputs == self.planes and self.seen_bands in ((), self.bands)

    def apply(self, stamps: np.ndarray, out: np.ndarray, moves: np.ndarray | None = None) -> np.ndarray:
        """Put what the network sees of `stamps` into `out`.

        Parameters
        ----------
        stamps : ndarray, shape (n, size, size, channels of the stamps), float32
            Pixels. They are left as they are unless `out` is the same array.
        out : ndarray, shape (n, size, size, channels), float32, C-contiguous
            Where to. `stamps` itself will do where `in_place` is true and nothing is moved.
        moves : ndarray, shape (n, 4), int32, optional
            What is done to the stamps first, see `hpc_galaxy.training.data.augment.move`.

        Returns
        -------
        ndarray, shape (n,), bool
            Whether all that the network sees of a stamp is finite.
        """
        finite = self._see(stamps, out, moves)
        return self._mask(out, finite) if self.mask_centre else finite

    def _see(self, stamps: np.ndarray, out: np.ndarray, moves: np.ndarray | None) -> np.ndarray:
        stamps = np.asarray(stamps, np.float32)
        if COMPILED and self.size * max(len(self.channels), len(self.stamps.channels)) <= MOST_IN_A_ROW:
            return self._apply_compiled(stamps, out, np.empty((0, MOVES), np.int32) if moves is None else moves)
        if moves is not None:
            moved = np.empty_like(stamps)
            move(stamps, moves, moved)
            stamps = moved
        return self._apply_numpy(stamps, out)

    def _apply_compiled(self, stamps: np.ndarray, out: np.ndarray, moves: np.ndarray) -> np.ndarray:
        finite = np.empty(len(stamps), np.uint8)
        channels, curved = len(self.stamps.channels), self.kind == "arcsinh"
        stamps, moves = np.ascontiguousarray(stamps), np.ascontiguousarray(moves, np.int32)
        _inputs.see(stamps, moves, self._sources, self._factors, out, finite, self.size, channels, curved)
        return finite.astype(bool)

    def _apply_numpy(self, stamps: np.ndarray, out: np.ndarray) -> np.ndarray:
        inverse, times, plus = self._factors
        # Rows of many pixels: numpy is slow where the last axis is as short as the channels.
        rows = out.reshape(len(out), self.size, len(inverse))
        with np.errstate(over="ignore", invalid="ignore"):
            if out is not stamps:
                self._choose(stamps, out)
            rows *= inverse
            if self.kind == "arcsinh":
                np.arcsinh(rows, out=rows)
            rows *= times
            rows += plus
            return np.asarray(np.isfinite(rows).all(axis=(1, 2)))

    def _mask(self, out: np.ndarray, finite: np.ndarray) -> np.ndarray:
        """Take the middle of what the network sees away, in place; return which stamps are finite without it."""
        # What 0 becomes, of image and inverse variance alike: its arcsinh is 0, so only the constant is left.
        out[:, self.masked] = self._factors[2, : len(self.channels)]
        doubtful = np.flatnonzero(~finite)
        finite[doubtful] = np.isfinite(out[doubtful]).all(axis=(1, 2, 3))
        return finite

    def _choose(self, stamps: np.ndarray, out: np.ndarray) -> None:
        for channel, (value, invvar) in enumerate(self._sources.tolist()):
            if invvar < 0:
                out[..., channel] = stamps[..., value]
            else:
                np.multiply(stamps[..., value], np.sqrt(stamps[..., invvar]), out=out[..., channel])

    @cached_property
    def _sources(self) -> np.ndarray:
        """Two of the stamps' channels for each that the network sees: the one that it is, and its inverse variance or -1.

        Shape (channels, 2), int32.
        """
        places = {channel: place for place, channel in enumerate(self.stamps.channels)}
        bands = self.seen_bands or self.bands
        needed = [[f"{plane}_{band}" for plane in SOURCES[name]] for name in self.inputs for band in bands]
        return np.array([[places[value], places[invvar[0]] if invvar else -1] for value, *invvar in needed], np.int32)

    @cached_property
    def masked(self) -> np.ndarray:
        """Which pixels `mask_centre` takes away, shape (size, size), bool."""
        offset = np.arange(self.size) - (self.size - 1) / 2
        return np.asarray(np.hypot(offset[:, None], offset) * PIXEL_SCALE <= self.mask_centre) & (self.mask_centre > 0)

    @cached_property
    def _factors(self) -> np.ndarray:
        """What a row of pixels is multiplied by, then (after the arcsinh) multiplied by and added, shape (3, size * m), float32."""
        scale, mean, std = (np.asarray(values, np.float64) for values in (self.scale, self.mean, self.std))
        return np.tile(np.stack([1 / scale, 1 / std, -mean / std]).astype(np.float32), self.size)

    def to_json(self) -> dict[str, Any]:
        """Return this as plain JSON."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Inputs:
        """Return what `to_json` was called on."""
        values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in content.items()}
        return cls(**values)


def make_inputs(settings: Data, reader: SplitReader) -> Inputs:
    """Return what [train.data] asks for, of the training split.

    Raises
    ------
    ConfigError
        The shards lack a plane or a band that is needed, or the mask takes away nothing or everything.
    """
    stamps = reader.stamp_format
    inputs: tuple[str, ...] = settings.inputs or stamps.planes
    _require_channels(settings, inputs, stamps)
    ones = (1.0,) * (len(inputs) * len(settings.bands or stamps.bands))
    neutral, chosen = (ones, (0.0,) * len(ones), ones), (settings.bands, settings.mask_centre)
    plain = Inputs(stamps.bands, stamps.planes, stamps.size, inputs, "standard", *neutral, *chosen)
    _require_mask(plain)
    if settings.normalise == "standard":
        mean, std = _moments(plain, reader)
        return replace(plain, mean=mean, std=std)
    scale, mean, std = (_by_channel(plain, reader, name) for name in ("scale", "mean", "std"))
    return replace(plain, kind="arcsinh", scale=scale, mean=mean, std=std)


def _require_channels(settings: Data, inputs: tuple[str, ...], stamps: StampFormat) -> None:
    for name in inputs:
        for plane in SOURCES[name]:
            if plane not in stamps.planes:
                problem = f"'{name}' needs the plane '{plane}'; the shards have {', '.join(stamps.planes)}"
                raise ConfigError("train.data.inputs", problem, "extract with this plane (extract.planes), or leave it out")
    for band in settings.bands:
        if band not in stamps.bands or settings.bands.count(band) > 1:
            problem = f"is {list(settings.bands)}, expected each once of those that the shards have, {', '.join(stamps.bands)}"
            raise ConfigError("train.data.bands", problem, "leave this band out, or extract with it (extract.bands)")


def _require_mask(inputs: Inputs) -> None:
    """Refuse a mask that is no control: one that takes nothing away, or all."""
    if inputs.mask_centre and (inputs.masked.all() or not inputs.masked.any()):
        least, most = ((side**2 * 2) ** 0.5 / 2 * PIXEL_SCALE for side in ((inputs.size + 1) % 2, inputs.size - 1))
        problem = f"is {inputs.mask_centre:g}, expected {least:.3f} to less than {most:.3f} for stamps of {inputs.size} pixels"
        raise ConfigError("train.data.mask_centre", problem, "choose a radius in arcsec, or 0 for no mask")


def _by_channel(inputs: Inputs, reader: SplitReader, name: str) -> tuple[float, ...]:
    """Take a statistic of the manifest; signal-to-noise is in units of its noise already."""
    known = dict(zip(inputs.stamps.channels, getattr(reader.manifest.statistics, name), strict=True))
    neutral = 0.0 if name == "mean" else 1.0
    return tuple(known.get(channel, neutral) for channel in inputs.channels)


def _moments(inputs: Inputs, reader: SplitReader) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation by channel, of training examples spread evenly."""
    chosen = np.unique(np.linspace(0, len(reader) - 1, min(SAMPLE, len(reader))).astype(np.int64))
    number, total = 0, np.zeros((2, len(inputs.channels)))
    for start in range(0, len(chosen), BLOCK):
        indices = chosen[start : start + BLOCK]
        stamps = reader.stamps(indices)
        seen = np.empty((*stamps.shape[:3], len(inputs.channels)), np.float32)
        require_finite(reader, indices, inputs.apply(stamps, seen))
        pixels = seen.reshape(-1, len(inputs.channels)).astype(np.float64)
        number += len(pixels)
        total += pixels.sum(axis=0), (pixels**2).sum(axis=0)
    mean, square = total / max(number, 1)
    std = np.sqrt(np.maximum(square - mean**2, 0))
    # A constant plane carries no information; dividing by its zero scatter would only make NaNs.
    return tuple(mean.tolist()), tuple(np.where(std > 1e-6 * np.abs(mean), std, 1.0).tolist())


def require_finite(reader: SplitReader, indices: np.ndarray, finite: np.ndarray) -> None:
    """Refuse examples of which the network would not see finite numbers.

    Parameters
    ----------
    reader : SplitReader
        Their split.
    indices, finite : ndarray, shape (n,), int and bool
        The examples, and what `Inputs.apply` returned of them.

    Raises
    ------
    FormatError
        Names the first.
    """
    if finite.all():
        return
    bad = int(indices[~finite][0])
    shard, row = divmod(bad, SHARD_SIZE)
    identity = reader.shard_table(shard)["id"][row].decode(errors="replace")
    where = f"{reader.directory / reader.shards[shard].x}, split '{reader.split}', example {bad} (id {identity})"
    raise FormatError(where, "has pixels that are not finite after normalisation", "run 'hpc-galaxy check' on the shards")
