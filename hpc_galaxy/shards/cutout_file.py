"""The cutout file: all stamps of one class in one brick, in HDF5."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hpc_galaxy.files import whole_file
from hpc_galaxy.shards.hdf5 import (
    FILTERS,
    PatientFile,
    Require,
    filters,
    load_bitshuffle,
    new_hdf5,
    open_hdf5,
    own_dataset,
    plain_attributes,
    reading,
    require_all_chunks,
    requirement,
    write_attributes,
)
from hpc_galaxy.shards.recognise import recognise
from hpc_galaxy.shards.rounding import MANTISSA_BITS, RoundingError, round_mantissas
from hpc_galaxy.shards.schema import DEFAULT, STAMP_DTYPE, StampFormat, describe

try:
    from hpc_galaxy.shards import _fletcher

    COMPILED = True
except ImportError:
    COMPILED = False  # HDF5 makes the checksums, slower, and a file of the same content with its parts in another order

FORMAT = "hpc_galaxy cutouts"
VERSION = 3
REMEDY = "run 'hpc-galaxy extract --overwrite'"
BLOCK = 16  # stamps rounded and written at a time: they stay in the processor's cache


def cutout_path(root: Path, label: str, brick: str) -> Path:
    """Return ``root/label/AAA/brick.h5``, where AAA is the first three characters of the brick's name."""
    return root / label / brick[:3] / f"{brick}.h5"


def chunk_shape(stamps: StampFormat, compression: str) -> tuple[int, int, int, int]:
    """Return the chunks of ``images``: one a stamp, so that any stamp is one read; compressed, one a stamp and plane.

    Image and inverse variance lie side by side in a stamp. Compressed apart, they take less space.
    """
    channels = len(stamps.channels) if compression == "none" else len(stamps.bands)
    return 1, stamps.size, stamps.size, channels


def source_chunk(rows: int) -> tuple[int]:
    """Return the chunks of ``sources``: one, of up to 512 rows."""
    return (max(1, min(rows, 512)),)


@dataclass
class CutoutWriter:
    """A cutout file being written.

    Attributes
    ----------
    stamps : StampFormat
        What is written.
    images : h5py.Dataset
        Where the stamps go.
    disk : PatientFile
        Knows of errors when they happen.
    mantissa_bits : int
        Bits kept of the pixels' mantissas.
    attributes : dict
        Provenance, stored when the file is closed; values that HDF5 has no type for are stored as JSON.
    tables : list of ndarray
        The source tables so far.
    """

    stamps: StampFormat
    images: h5py.Dataset
    disk: PatientFile
    mantissa_bits: int = MANTISSA_BITS
    attributes: dict[str, Any] = field(default_factory=dict)
    tables: list[np.ndarray] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.error = RoundingError(self.stamps)
        # A stamp and its checksum, as they stand in the file.
        self.chunk = np.empty(math.prod(self.stamps.shape) * STAMP_DTYPE.itemsize + 4, np.uint8)
        self.direct = COMPILED and filters(self.images) == FILTERS["none"]

    def __len__(self) -> int:
        return sum(len(table) for table in self.tables)

    def append(self, images: np.ndarray, sources: np.ndarray) -> None:
        """Add stamps; the file's bytes do not depend on how many come at a time.

        Parameters
        ----------
        images : ndarray, shape (n, size, size, channels), float32
            Axes (source, y, x, channel), channels as in `stamps`; nanomaggies and 1/nanomaggies^2.
        sources : ndarray, shape (n,), `stamps.source_dtype`
            One row a stamp, in the same order.
        """
        require_matching(self.stamps, images, sources)
        start = len(self)
        self.images.resize(start + len(images), axis=0)
        for first in range(0, len(images), BLOCK):
            self._write(start + first, self._rounded(images[first : first + BLOCK]))
        self.disk.raise_error()
        self.tables.append(np.array(sources))

    def _write(self, start: int, images: np.ndarray) -> None:
        if not self.direct:
            self.images[start : start + len(images)] = images
            return
        for row, stamp in enumerate(images, start):
            _fletcher.seal(np.ascontiguousarray(stamp), self.chunk)
            self.images.id.write_direct_chunk((row, 0, 0, 0), self.chunk)

    def _rounded(self, images: np.ndarray) -> np.ndarray:
        if self.mantissa_bits == MANTISSA_BITS:
            return images
        rounded = round_mantissas(np.ascontiguousarray(images), self.mantissa_bits)
        self.error.add(images, rounded)
        return rounded

    def finish(self, file: h5py.File, compression: str) -> None:
        """Write what is known at the end: the source table and the attributes."""
        sources = np.concatenate([np.empty(0, self.stamps.source_dtype), *self.tables])
        file.create_dataset("sources", data=sources, chunks=source_chunk(len(sources)), maxshape=(None,), fletcher32=True)
        rounding = self.error.attributes() if self.mantissa_bits < MANTISSA_BITS else {}
        own = {"format": FORMAT, "version": VERSION, "compression": compression, "mantissa_bits": self.mantissa_bits, **rounding}
        write_attributes(file.attrs, {"channels": np.array(self.stamps.channels, "S"), **own, **self.attributes})


def require_matching(stamps: StampFormat, images: np.ndarray, sources: np.ndarray) -> None:
    """Refuse stamps or a table of another format than the file's: that is a mistake of the caller's.

    Raises
    ------
    ValueError
        They do not match.
    """
    for what, got, expected in (
        ("images", (images.dtype, images.shape), (STAMP_DTYPE, (len(sources), *stamps.shape))),
        ("sources", sources.dtype, stamps.source_dtype),
    ):
        if got != expected:
            raise ValueError(f"{what} are {got}, expected {expected}")


@contextmanager
def create_cutouts(
    path: Path, stamps: StampFormat, compression: str = "none", mantissa_bits: int = MANTISSA_BITS
) -> Iterator[CutoutWriter]:
    """Write one cutout file, whole or not at all.

    Parameters
    ----------
    path : Path
        Final name.
    stamps : StampFormat
        Bands, planes and size of the stamps that will be appended.
    compression : str
        ``none`` or ``bitshuffle`` (with LZ4).
    mantissa_bits : int
        Bits kept of the pixels' mantissas, 1 to 23. With fewer than 23 the file states the error.

    Yields
    ------
    CutoutWriter
        Takes the stamps and the attributes.

    Raises
    ------
    OutputError
        The file cannot be written.
    InputError
        Compression was asked for, and hdf5plugin is not installed.
    """
    how = load_bitshuffle(path).Bitshuffle(cname="lz4") if compression == "bitshuffle" else {}
    with whole_file(path) as temporary, new_hdf5(temporary) as (file, disk):
        # fletcher32: a flipped bit is an error, not a galaxy. rdcc_nbytes: chunks go to the file as they come, whatever comes at a
        # time; no cache decides on their order.
        layout = {"chunks": chunk_shape(stamps, compression), "maxshape": (None, *stamps.shape), "fletcher32": True, "rdcc_nbytes": 0}
        images = file.create_dataset("images", (0, *stamps.shape), STAMP_DTYPE, **layout, **how)
        writer = CutoutWriter(stamps, images, disk, mantissa_bits)
        yield writer
        writer.finish(file, compression)


def write_cutouts(
    path: Path, images: np.ndarray, sources: np.ndarray, attributes: Mapping[str, Any], stamps: StampFormat = DEFAULT, **how: Any
) -> None:
    """Write one cutout file from arrays; `how` is passed to `create_cutouts`."""
    with create_cutouts(path, stamps, **how) as writer:
        writer.attributes |= attributes
        writer.append(images, sources)


@dataclass(frozen=True)
class CutoutFile:
    """An open cutout file that has passed its checks.

    Attributes
    ----------
    path : Path
        Where it is.
    file : h5py.File
        The open file.
    stamps : StampFormat
        What its stamps are made of.
    attributes : dict
        The provenance that was stored with the file.
    """

    path: Path
    file: h5py.File
    stamps: StampFormat
    attributes: dict[str, Any]

    def __len__(self) -> int:
        return int(self.file["images"].shape[0])

    def sources(self) -> np.ndarray:
        """Return the source table, shape (N,), `stamps.source_dtype`."""
        return self._read("sources", slice(None))

    def images(self, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Return stamps, shape (n, size, size, channels), of the given rows (increasing, without repeats).

        Raises
        ------
        FormatError
            A stamp's checksum does not agree with its pixels.
        """
        return self._read("images", rows)

    def _read(self, name: str, rows: np.ndarray | slice) -> np.ndarray:
        with reading(self.path, f"'{name}'", REMEDY):
            return np.asarray(self.file[name][rows])


@contextmanager
def open_cutouts(path: Path) -> Iterator[CutoutFile]:
    """Open a cutout file and check its structure.

    Raises
    ------
    FormatError
        The file is missing, not HDF5, of another version, shows other files' bytes, needs unknown filters, or its datasets are
        not as specified.
    InputError
        It is compressed, and hdf5plugin is not installed.
    """
    with open_hdf5(path, REMEDY) as file:
        with reading(path, "its structure", REMEDY):
            attributes = plain_attributes(file.attrs, requirement(path, REMEDY))
            stamps = _check(path, file, attributes)
        yield CutoutFile(path, file, stamps, attributes)


def _check(path: Path, file: h5py.File, attributes: dict[str, Any]) -> StampFormat:
    """Return the format of the stamps of a file that is as specified."""
    require = requirement(path, REMEDY)
    for name, expected in (("format", FORMAT), ("version", VERSION)):
        require(name, attributes.get(name), expected)
    images, sources = own_dataset(file, "images", require), own_dataset(file, "sources", require)
    stamps = recognise(attributes.get("channels", ()), images.shape[1:] if images.shape else ())
    if stamps is None:
        require("stamps", (attributes.get("channels"), images.shape), "channels such as image_g, and (N, size, size, channels)")
        raise AssertionError("unreachable")
    require("'images' dtype", images.dtype, STAMP_DTYPE)
    require("'sources' columns", describe(sources.dtype), describe(stamps.source_dtype))
    require("'sources' layout", sources.dtype, stamps.source_dtype)
    require("'sources' length", sources.shape, images.shape[:1])
    _check_storage(path, images, sources, str(attributes.get("compression")), stamps, require)
    return stamps


def _check_storage(
    path: Path, images: h5py.Dataset, sources: h5py.Dataset, compression: str, stamps: StampFormat, require: Require
) -> None:
    if compression not in FILTERS:
        require("compression", compression, " or ".join(FILTERS))
    require("filters of 'images'", filters(images), FILTERS[compression])
    require("'images' chunks", images.chunks, chunk_shape(stamps, compression))
    require_all_chunks(images, require)
    require("filters of 'sources'", filters(sources), FILTERS["none"])
    require("'sources' chunks", sources.chunks, source_chunk(len(sources)))
    require_all_chunks(sources, require)
    if compression == "bitshuffle":
        load_bitshuffle(path)
