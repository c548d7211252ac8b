"""Numpy shards: 512 examples a file, memory-mapped when read, never unpickled."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from hpc_galaxy.errors import FormatError
from hpc_galaxy.files import sha256, whole_file
from hpc_galaxy.shards.manifest import SHARD_SIZE, Manifest, Shard, load_manifest
from hpc_galaxy.shards.schema import STAMP_DTYPE, StampFormat

REMEDY = "run 'hpc-galaxy split --overwrite'"


def _names(split: str, number: int) -> dict[str, str]:
    ending = f"{split}_{number:06d}.npy"
    return {"x": f"x{ending}", "y": f"y{ending}", "table": f"table_{ending}"}


def _describe(directory: Path, names: dict[str, str], examples: int) -> Shard:
    return Shard(**names, examples=examples, sha256={name: sha256(directory / name) for name in names.values()})


def write_shard(directory: Path, split: str, number: int, x: np.ndarray, table: np.ndarray) -> Shard:
    """Write the three files of one shard.

    Parameters
    ----------
    directory : Path
        Where to.
    split, number : str, int
        They make the names: ``xtrain_000000.npy``, ``ytrain_000000.npy``, ``table_train_000000.npy``.
    x : ndarray, shape (n, size, size, channels), float32
        Stamps.
    table : ndarray, shape (n,), `StampFormat.source_dtype`
        Their source table; its ``label`` becomes ``y``.
    """
    names = _names(split, number)
    # x is the last to be written: where it is, the shard is whole.
    for kind, array in (("table", table), ("y", table["label"]), ("x", x)):
        with whole_file(directory / names[kind]) as temporary, open(temporary, "wb") as file:
            np.save(file, np.ascontiguousarray(array), allow_pickle=False)
    return _describe(directory, names, len(x))


def load_shard(directory: Path, split: str, number: int) -> tuple[np.ndarray, Shard] | None:
    """Return a shard that an interrupted run has left whole, its stamps memory-mapped; None when there is none."""
    names = _names(split, number)
    if not (directory / names["x"]).exists():
        return None
    x = np.load(directory / names["x"], mmap_mode="r", allow_pickle=False)
    return x, _describe(directory, names, len(x))


@dataclass(frozen=True)
class SplitReader:
    """One split of a directory of shards, read as if it were one array.

    Parameters
    ----------
    directory : Path
        Holds the shards and ``manifest.json``.
    manifest : Manifest
        Its manifest.
    split : str
        ``train``, ``valid`` or ``test``.
    """

    directory: Path
    manifest: Manifest
    split: str

    def __len__(self) -> int:
        return self.manifest.examples(self.split)

    @property
    def shards(self) -> list[Shard]:
        """The shards of this split, in order."""
        return self.manifest.splits[self.split]

    @cached_property
    def stamp_format(self) -> StampFormat:
        """What the stamps are made of."""
        return self.manifest.stamps

    @cached_property
    def labels(self) -> np.ndarray:
        """Labels, shape (N,), uint8: 0 real, 1 fake."""
        return self._concatenate("y", np.dtype("u1"))

    @cached_property
    def table(self) -> np.ndarray:
        """The source table, shape (N,), `StampFormat.source_dtype`."""
        return self._concatenate("table", self.stamp_format.source_dtype)

    @cached_property
    def _stamps(self) -> list[np.ndarray]:
        return [self._load(shard, "x", STAMP_DTYPE, self.stamp_format.shape) for shard in self.shards]

    def stamps(self, indices: np.ndarray) -> np.ndarray:
        """Return the stamps at `indices` (in that order), shape (n, size, size, channels), float32, C-contiguous."""
        out = np.empty((len(indices), *self.stamp_format.shape), STAMP_DTYPE)
        number, row = np.divmod(np.asarray(indices), SHARD_SIZE)
        for shard in np.unique(number):
            here = number == shard
            out[here] = self._stamps[shard][row[here]]
        return out

    def _concatenate(self, kind: str, dtype: np.dtype) -> np.ndarray:
        parts = [self._load(shard, kind, dtype, ()) for shard in self.shards]
        return np.concatenate([np.empty(0, dtype), *parts])

    def _load(self, shard: Shard, kind: str, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
        path = self.directory / str(getattr(shard, kind))
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise FormatError(path, f"not a readable shard ({error})", REMEDY) from error
        expected = (shard.examples, *shape)
        if array.dtype != dtype or array.shape != expected:
            raise FormatError(path, f"has {array.dtype.str} {array.shape}, expected {dtype.str} {expected}", REMEDY)
        return array


def open_split(directory: Path, split: str) -> SplitReader:
    """Open a split of a directory of shards."""
    return SplitReader(directory, load_manifest(directory), split)
