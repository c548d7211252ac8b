"""What the network sees of a stamp: which planes, and in which units."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from hpc_galaxy.config.training import Data
from hpc_galaxy.errors import ConfigError
from hpc_galaxy.shards.numpy_shards import SplitReader
from hpc_galaxy.shards.schema import StampFormat

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
    """

    bands: tuple[str, ...]
    planes: tuple[str, ...]
    size: int
    inputs: tuple[str, ...]
    kind: str
    scale: tuple[float, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def channels(self) -> tuple[str, ...]:
        """The names of what the network sees, such as ``image_g``."""
        return tuple(f"{name}_{band}" for name in self.inputs for band in self.bands)

    @property
    def stamps(self) -> StampFormat:
        """The stamps that this is applied to."""
        return StampFormat(self.bands, self.planes, self.size)

    @property
    def in_place(self) -> bool:
        """Whether the channels are those of the stamps, so that `apply` may overwrite them."""
        return self.inputs == self.planes

    def apply(self, stamps: np.ndarray, out: np.ndarray) -> None:
        """Put what the network sees of `stamps` into `out`.

        Parameters
        ----------
        stamps : ndarray, shape (n, size, size, channels of the stamps), float32
            Pixels. They are left as they are unless `out` is the same array.
        out : ndarray, shape (n, size, size, channels), float32, C-contiguous
            A pixel that is not finite makes one that is not.
        """
        if out is not stamps:
            self._choose(stamps, out)
        inverse, times, plus = self._factors
        # Rows of many pixels: numpy is slow where the last axis is as short as the channels.
        rows = out.reshape(-1, len(inverse))
        with np.errstate(over="ignore", invalid="ignore"):
            rows *= inverse
            if self.kind == "arcsinh":
                np.arcsinh(rows, out=rows)
            rows *= times
            rows += plus

    def _choose(self, stamps: np.ndarray, out: np.ndarray) -> None:
        bands = len(self.bands)
        for number, name in enumerate(self.inputs):
            image, *invvar = (stamps[..., bands * place : bands * (place + 1)] for place in map(self.planes.index, SOURCES[name]))
            room = out[..., bands * number : bands * (number + 1)]
            if invvar:
                np.multiply(image, np.sqrt(invvar[0]), out=room)
            else:
                room[...] = image

    @cached_property
    def _factors(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What a row of pixels is multiplied by, then (after the arcsinh) multiplied by and added."""
        scale, mean, std = (np.asarray(values) for values in (self.scale, self.mean, self.std))
        inverse, times, plus = (np.tile(values.astype(np.float32), self.size) for values in (1 / scale, 1 / std, -mean / std))
        return inverse, times, plus

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
        The shards lack a plane that is needed.
    """
    stamps = reader.stamp_format
    inputs: tuple[str, ...] = settings.inputs or stamps.planes
    for name in inputs:
        for plane in SOURCES[name]:
            if plane not in stamps.planes:
                problem = f"'{name}' needs the plane '{plane}'; the shards have {', '.join(stamps.planes)}"
                raise ConfigError("train.data.inputs", problem, "extract with this plane (extract.planes), or leave it out")
    ones = (1.0,) * (len(inputs) * len(stamps.bands))
    plain = Inputs(stamps.bands, stamps.planes, stamps.size, inputs, "standard", ones, (0.0,) * len(ones), ones)
    if settings.normalise == "standard":
        mean, std = _moments(plain, reader)
        return Inputs(stamps.bands, stamps.planes, stamps.size, inputs, "standard", ones, mean, std)
    scale, mean, std = (_by_channel(plain, reader, name) for name in ("scale", "mean", "std"))
    return Inputs(stamps.bands, stamps.planes, stamps.size, inputs, "arcsinh", scale, mean, std)


def _by_channel(inputs: Inputs, reader: SplitReader, name: str) -> tuple[float, ...]:
    """Take a statistic of the manifest; signal-to-noise is in units of its noise already."""
    known = dict(zip(inputs.stamps.channels, getattr(reader.manifest.statistics, name), strict=True))
    neutral = 0.0 if name == "mean" else 1.0
    return tuple(known.get(channel, neutral) for channel in inputs.channels)


def _moments(inputs: Inputs, reader: SplitReader) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation by channel, of training examples spread evenly."""
    chosen = np.unique(np.linspace(0, len(reader) - 1, min(SAMPLE, len(reader))).astype(np.int64))
    total = np.zeros((2, len(inputs.channels)))
    for start in range(0, len(chosen), 64):
        stamps = reader.stamps(chosen[start : start + 64])
        seen = np.empty((*stamps.shape[:3], len(inputs.channels)), np.float32)
        inputs.apply(stamps, seen)
        pixels = seen.reshape(-1, len(inputs.channels)).astype(np.float64)
        total += pixels.sum(axis=0), (pixels**2).sum(axis=0)
    mean, square = total / (len(chosen) * inputs.size**2)
    return tuple(mean.tolist()), _positive(np.sqrt(np.maximum(square - mean**2, 0)))


def _positive(values: np.ndarray) -> tuple[float, ...]:
    # A constant plane carries no information; dividing by its zero scatter would only make NaNs.
    return tuple(np.where(values > 1e-6, values, 1.0).tolist())
