"""Numpy shards: 512 examples a file, memory-mapped when read, never unpickled."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path

import numpy as np
import xxhash

from hpc_galaxy.errors import FormatError
from hpc_galaxy.files import whole_file
from hpc_galaxy.shards.manifest import REMEDY, SHARD_SIZE, Manifest, Shard, load_manifest
from hpc_galaxy.shards.schema import STAMP_DTYPE, StampFormat
from hpc_galaxy.shards.storage import HALF, Storage, decode

PIECE = 1 << 22  # bytes that are hashed and written at a time
OPEN_SHARDS = 256  # memory-mapped at a time; each costs the process a map and a file descriptor


def shard_names(split: str, number: int) -> dict[str, str]:
    """Return the names of a shard's three files: ``xtrain_000000.npy``, ``ytrain_000000.npy``, ``table_train_000000.npy``."""
    ending = f"{split}_{number:06d}.npy"
    return {"x": f"x{ending}", "y": f"y{ending}", "table": f"table_{ending}"}


def write_shard(directory: Path, split: str, number: int, x: np.ndarray, table: np.ndarray) -> Shard:
    """Write the three files of one shard, each of them whole or not at all.

    It holds the interpreter for no longer than moments: it is meant to run in a thread, while the next shard is being read.

    Parameters
    ----------
    directory : Path
        Where to.
    split, number : str, int
        They make the names, see `shard_names`.
    x : ndarray, shape (n, size, size, channels), float32 or float16, C-contiguous
        Stamps as they are to be stored. No copy of them is made.
    table : ndarray, shape (n,), `StampFormat.example_dtype`
        Their rows of the source table and their groups; its ``label`` becomes ``y``.

    Returns
    -------
    Shard
        Names, sizes and checksums, of the bytes in memory: the files are not read again.

    Raises
    ------
    ValueError
        The arrays are not of this kind: a mistake of the caller's.
    OutputError
        A file cannot be written.
    """
    _require_shard(x, table)
    names = shard_names(split, number)
    # x is the last to be written: where it is, the shard is whole.
    arrays = {"table": np.ascontiguousarray(table), "y": np.ascontiguousarray(table["label"]), "x": x}
    written = {names[kind]: write_array(directory / names[kind], array) for kind, array in arrays.items()}
    sizes, sums = ({name: written[name][part] for name in names.values()} for part in (0, 1))
    return Shard.model_validate({**names, "examples": len(x), "bytes": sizes, "xxh128": sums})


def _require_shard(x: np.ndarray, table: np.ndarray) -> None:
    if x.dtype not in (STAMP_DTYPE, HALF) or not x.flags.c_contiguous or not 0 < len(x) <= SHARD_SIZE:
        got = f"{x.dtype.str} {x.shape}, contiguous: {x.flags.c_contiguous}"
        raise ValueError(f"x is {got}, expected 1 to {SHARD_SIZE} C-contiguous stamps of {STAMP_DTYPE.str} or {HALF.str}")
    if table.shape != (len(x),) or not {"label", "group"} <= set(table.dtype.names or ()):
        raise ValueError(f"table is {table.dtype} {table.shape}, expected StampFormat.example_dtype and {len(x)} rows")


def write_array(path: Path, array: np.ndarray) -> tuple[int, str]:
    """Write a C-contiguous array as a whole ``.npy`` file, as `numpy.save` does; return its size and its XXH128."""
    size, digest = 0, xxhash.xxh3_128()
    with whole_file(path) as temporary, open(temporary, "wb", buffering=0) as file:
        for piece in _pieces(array):
            digest.update(piece)
            size += len(piece)
            while piece:  # a write may take less than it was given
                piece = piece[file.write(piece) :]
    return size, digest.hexdigest()


def _pieces(array: np.ndarray) -> Iterator[memoryview]:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(array))
    yield memoryview(header.getvalue())
    content = array.reshape(-1).view(np.uint8).data
    for start in range(0, len(content), PIECE):
        yield content[start : start + PIECE]


def xxh128(path: Path) -> str:
    """Return the hexadecimal XXH128 of a file's content."""
    digest, buffer = xxhash.xxh3_128(), memoryview(bytearray(PIECE))
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
    return digest.hexdigest()


@dataclass(frozen=True)
class SplitReader:
    """One split of a directory of shards, read as if it were one array.

    Several threads may read at a time.

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
        return self._examples

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
        return np.concatenate([np.empty(0, "u1"), *(self.shard_labels(number) for number in range(len(self.shards)))])

    @cached_property
    def table(self) -> np.ndarray:
        """The source table with the sky groups, shape (N,), `StampFormat.example_dtype`."""
        none = np.empty(0, self.stamp_format.example_dtype)
        return np.concatenate([none, *(self.shard_table(number) for number in range(len(self.shards)))])

    def know_labels(self, labels: np.ndarray) -> None:
        """Take the labels, shape (N,), uint8, from whoever has read them, instead of opening every shard's file."""
        vars(self)["labels"] = labels

    def shard_labels(self, number: int) -> np.ndarray:
        """Return the labels of one shard, shape (n,), uint8."""
        return self._load(number, "y", np.dtype("u1"))

    def shard_table(self, number: int) -> np.ndarray:
        """Return the table of one shard, shape (n,), `StampFormat.example_dtype`."""
        return self._load(number, "table", self.stamp_format.example_dtype)

    def stamps(self, indices: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Return the stamps at `indices`, in that order.

        Parameters
        ----------
        indices : ndarray of int, shape (n,)
            0 to N - 1; any order, repeats allowed.
        out : ndarray, shape (n, size, size, channels), float32, C-contiguous, optional
            Where to. A buffer that is used again saves the time that new memory takes.

        Returns
        -------
        ndarray, shape (n, size, size, channels), float32
            Pixels, whatever the shards store; `out` where it was given.

        Raises
        ------
        IndexError
            There is no such example.
        FormatError
            A shard is damaged.
        """
        indices = np.asarray(indices)
        out = self._destination(len(indices), out)
        if len(indices) and not 0 <= indices.min() <= indices.max() < len(self):
            raise IndexError(f"examples {indices.min()} to {indices.max()} of the split '{self.split}', which has {len(self)}")
        # Shard by shard, so that each is opened once even where there are more of them than may be open.
        order = np.argsort(indices)
        numbers, rows = np.divmod(indices[order], SHARD_SIZE)
        scale, flat = self.manifest.storage.scale, out.reshape(len(out), math.prod(self.stamp_format.shape))
        for place, number, row in zip(order.tolist(), numbers.tolist(), rows.tolist(), strict=True):
            if scale is None:
                flat[place] = self._open(number)[row]  # numpy copies one axis faster than three
            else:
                decode(self._open(number)[row].reshape(self.stamp_format.shape), scale, out[place])
        return out

    def _destination(self, count: int, out: np.ndarray | None) -> np.ndarray:
        shape = (count, *self.stamp_format.shape)
        if out is None:
            return np.empty(shape, STAMP_DTYPE)
        if out.shape != shape or out.dtype != STAMP_DTYPE or not out.flags.c_contiguous:
            raise ValueError(f"out is {out.dtype.str} {out.shape}, expected {STAMP_DTYPE.str} {shape}, C-contiguous")
        return out

    @cached_property
    def _examples(self) -> int:
        return self.manifest.examples(self.split)

    @cached_property
    def _open(self) -> Callable[[int], np.ndarray]:
        """Return the stamps of a shard as they are stored, shape (n, pixels). A map is closed when nobody uses it any more."""
        return lru_cache(maxsize=OPEN_SHARDS)(partial(_map, self.directory, self.shards, self.manifest.storage, self.stamp_format))

    def _load(self, number: int, kind: str, dtype: np.dtype) -> np.ndarray:
        shard = self.shards[number]
        return _read(self.directory / getattr(shard, kind), _load_array, dtype, (shard.examples,))


def _map(directory: Path, shards: list[Shard], storage: Storage, stamps: StampFormat, number: int) -> np.ndarray:
    shard = shards[number]
    x = _read(directory / shard.x, _map_array, np.dtype(storage.dtype), (shard.examples, *stamps.shape))
    # A plain array: the rows of a numpy.memmap are slow to make.
    return x.view(np.ndarray).reshape(shard.examples, math.prod(stamps.shape))


def _map_array(path: Path) -> np.ndarray:
    return np.lib.format.open_memmap(path, mode="r")


def _load_array(path: Path) -> np.ndarray:
    # Not numpy.load, which would open zip files as well.
    with open(path, "rb") as file:
        return np.asarray(np.lib.format.read_array(file, allow_pickle=False))


def _read(path: Path, how: Callable[[Path], np.ndarray], dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    try:
        array = how(path)
    except (OSError, ValueError) as error:
        raise FormatError(path, f"not a readable shard ({error})", REMEDY) from error
    if array.dtype != dtype or array.shape != shape:
        raise FormatError(path, f"has {array.dtype.str} {array.shape}, expected {dtype.str} {shape}", REMEDY)
    if not array.flags.c_contiguous:
        raise FormatError(path, "is in Fortran's order, expected C's", REMEDY)
    return array


def open_split(directory: Path, split: str) -> SplitReader:
    """Open a split of a directory of shards."""
    return SplitReader(directory, load_manifest(directory), split)
