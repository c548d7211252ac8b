"""Where the chunks of a cutout file lie, so that it can be read without HDF5."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from hpc_galaxy.errors import FormatError
from hpc_galaxy.shards.cutout_file import REMEDY, CutoutFile, source_chunk
from hpc_galaxy.shards.hdf5 import FILTERS, filters, reading
from hpc_galaxy.shards.layout_2018 import File2018
from hpc_galaxy.shards.schema import STAMP_DTYPE, StampFormat

CHECKSUM = 4  # bytes behind each chunk
CHANGED = "let no other job write there, and start this stage again with --overwrite"


@dataclass(frozen=True, slots=True)
class Places:
    """Where a file's chunks lie: what has to be known of it to read it without HDF5. Small, and plain data for other ranks.

    Attributes
    ----------
    size, modified : int
        The file's length, bytes, and its time of modification, ns: what differs from these is another file.
    count : int
        Number of stamps.
    images : ndarray, shape (runs, 2), int64, or None
        First row and byte offset of each run of stamps that lie one behind the other; None where HDF5 has to read the file.
    sources : tuple of int
        Byte offset of each chunk of the source table.
    """

    size: int
    modified: int
    count: int
    images: np.ndarray | None = None
    sources: tuple[int, ...] = ()

    def offsets(self, rows: np.ndarray, stride: int) -> list[int]:
        """Return the byte offset of each of the stamps `rows`, each of which takes `stride` bytes with its checksum."""
        assert self.images is not None
        first, offset = self.images[np.searchsorted(self.images[:, 0], rows, side="right") - 1].T
        return list((offset + (rows - first) * stride).tolist())


def find_places(file: CutoutFile | File2018) -> Places:
    """Return where the chunks of an open file lie.

    Raises
    ------
    FormatError
        HDF5 cannot tell.
    """
    with reading(file.path, "the list of its chunks", REMEDY):
        status = os.fstat(file.file.id.get_vfd_handle())
        found = _chunks(file, status.st_size) if isinstance(file, CutoutFile) else None
        return Places(status.st_size, status.st_mtime_ns, len(file), *(found or ()))


def _chunks(file: CutoutFile, size: int) -> tuple[np.ndarray, tuple[int, ...]] | None:
    """Return what `Places` keeps of the chunks, or None where they cannot be read as they are."""
    stamp, table = stamp_bytes(file.stamps), table_bytes(file.stamps, len(file))
    images, sources = file.file["images"], file.file["sources"]
    # A user block would shift all offsets. Checksums of an odd number of bytes are made in another way.
    if filters(images) != FILTERS["none"] or file.file.userblock_size or (stamp | table) % 2:
        return None
    places, rows = _offsets(images, stamp, size), _offsets(sources, table, size)
    return None if places is None or rows is None else (_runs(places, stamp + CHECKSUM), tuple(rows.tolist()))


def _offsets(dataset: h5py.Dataset, length: int, size: int) -> np.ndarray | None:
    """Return the byte offset of each chunk of `length` bytes in their order, or None where one is not as it has to be."""
    found = np.full(dataset.id.get_num_chunks(), -1, np.int64)

    def note(chunk: h5py.h5d.StoreInfo) -> None:
        # A mask would mean that the chunk has no checksum.
        if chunk.filter_mask == 0 and chunk.size == length + CHECKSUM and 0 <= chunk.byte_offset <= size - chunk.size:
            found[chunk.chunk_offset[0] // dataset.chunks[0]] = chunk.byte_offset

    dataset.id.chunk_iter(note)
    return found if (found >= 0).all() else None


def _runs(offsets: np.ndarray, stride: int) -> np.ndarray:
    starts = np.flatnonzero(np.r_[np.full(min(1, len(offsets)), True), np.diff(offsets) != stride])
    return np.stack([starts, offsets[starts]], axis=1)


def stamp_bytes(stamps: StampFormat) -> int:
    """Return the bytes of a stamp, without its checksum."""
    return math.prod(stamps.shape) * STAMP_DTYPE.itemsize


def table_bytes(stamps: StampFormat, count: int) -> int:
    """Return the bytes of a chunk of the source table of `count` stamps, without its checksum."""
    return source_chunk(count)[0] * stamps.source_dtype.itemsize


def require_same(path: Path, status: os.stat_result, places: Places) -> None:
    """Refuse a file that is not the one it was.

    Raises
    ------
    FormatError
        It has another length or time of modification.
    """
    if (status.st_size, status.st_mtime_ns) != (places.size, places.modified):
        got = f"{status.st_size} bytes of {np.datetime64(status.st_mtime_ns, 'ns')}"
        was = f"{places.size} bytes of {np.datetime64(places.modified, 'ns')}"
        raise FormatError(path, f"has {got} UTC, expected {was} UTC as when it was first read: it was changed", CHANGED)
