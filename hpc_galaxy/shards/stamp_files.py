"""Stamps out of many files in any order: one read of its bytes a stamp, straight to where it belongs.

HDF5 takes long for a stamp, most of it for finding the chunk and for copies, and longer to open and check a file: both are timed by
benchmarks/bench_pieces.py. In an uncompressed cutout file a stamp is one chunk, 98,304 bytes and a checksum. Once HDF5 has told where
the chunks lie (`Places`), the operating system reads them, and nothing else of the file is looked at again; the checksums are verified
all the same.
"""

from __future__ import annotations

import os
import resource
from collections import OrderedDict
from collections.abc import MutableMapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import numpy as np

from hpc_galaxy.errors import FormatError, InputError
from hpc_galaxy.shards.cutout_file import REMEDY, source_chunk
from hpc_galaxy.shards.layouts import open_stamps
from hpc_galaxy.shards.places import CHECKSUM, Places, find_places, require_same, stamp_bytes, table_bytes
from hpc_galaxy.shards.schema import STAMP_DTYPE, StampFormat

try:
    from hpc_galaxy.shards._fletcher import matches

    COMPILED = True
except ImportError:
    COMPILED = False  # HDF5 reads everything

MOST_FILES = 1000  # held open at a time
RESERVE = 64  # file descriptors left to everybody else
MEMORY = 128 << 20  # bytes of source tables held at a time
HELD_BY_HDF5 = 2 << 20  # bytes that an open HDF5 file takes, about
IF_CACHED = getattr(os, "RWF_NOWAIT", None)  # preadv's flag for what is in the system's memory; Linux has it


class _Direct:
    """A file whose chunks the operating system reads."""

    def __init__(self, path: Path, places: Places, stamps: StampFormat) -> None:
        self.path, self.places = path, places
        self.dtype, self.chunk_rows = stamps.source_dtype, source_chunk(places.count)[0]
        self.stamp, self.chunk = stamp_bytes(stamps), table_bytes(stamps, places.count)
        self.tables: dict[int, np.ndarray] = {}
        self.trailer = bytearray(CHECKSUM)
        try:
            self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise FormatError(path, "no such cutout file", "run 'hpc-galaxy extract'") from None
        except OSError as error:
            raise _unreadable(path, error) from error

    def close(self) -> None:
        os.close(self.descriptor)

    @property
    def nbytes(self) -> int:
        return len(self.tables) * self.chunk

    def begin(self, rows: np.ndarray, out: np.ndarray, at: np.ndarray) -> np.ndarray:
        """Read the stamps that are in the system's memory, and ask the disk for the others; return the places of these.

        A disk answers many requests at a time faster than one after the other.
        """
        self._require_same()
        for chunk in {row // self.chunk_rows for row in rows.tolist()} - self.tables.keys():
            self._ask(self.places.sources[chunk], self.chunk)
        lacking = []
        for place, row, offset in zip(at.tolist(), rows.tolist(), self._offsets(rows), strict=True):
            if not self._read_cached(offset, out[place], row):
                self._ask(offset, self.stamp)
                lacking.append(place)
        return np.array(lacking, np.intp)

    def finish(self, rows: np.ndarray, out: np.ndarray, at: np.ndarray) -> None:
        """Read stamps, waiting for the disk."""
        self._require_same()
        for place, row, offset in zip(at.tolist(), rows.tolist(), self._offsets(rows), strict=True):
            self._read(offset, out[place], f"'images' row {row}")

    def sources(self, rows: np.ndarray, found: np.ndarray, at: np.ndarray) -> None:
        """Read rows of the source table."""
        chunks = rows // self.chunk_rows
        for chunk in set(chunks.tolist()):
            if chunk not in self.tables:
                table = np.empty(self.chunk_rows, self.dtype)
                self._read(self.places.sources[chunk], table.view(np.uint8), f"'sources' chunk {chunk}")
                self.tables[chunk] = table
            here = chunks == chunk
            found[at[here]] = self.tables[chunk][rows[here] - chunk * self.chunk_rows]

    def _offsets(self, rows: np.ndarray) -> list[int]:
        return self.places.offsets(rows, self.stamp + CHECKSUM)

    def _require_same(self) -> None:
        require_same(self.path, os.fstat(self.descriptor), self.places)

    def _ask(self, offset: int, length: int) -> None:
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self.descriptor, offset, length + CHECKSUM, os.POSIX_FADV_WILLNEED)

    def _read_cached(self, offset: int, into: np.ndarray, row: int) -> bool:
        """Read a stamp if that takes no waiting; return whether it was read."""
        if IF_CACHED is None:
            return False
        try:
            done = os.preadv(self.descriptor, [into.data, self.trailer], offset, IF_CACHED)
        except OSError:
            return False  # it would have to wait, or this file system cannot tell
        if done == self.stamp + CHECKSUM:
            self._verify(into, f"'images' row {row}")
            return True
        return False

    def _read(self, offset: int, into: np.ndarray, what: str) -> None:
        """Read a chunk and verify its checksum."""
        try:
            if os.preadv(self.descriptor, [into.data, self.trailer], offset) < into.nbytes + CHECKSUM:
                self._read_on(offset, into)
        except OSError as error:
            raise _unreadable(self.path, error) from error
        self._verify(into, what)

    def _read_on(self, offset: int, into: np.ndarray) -> None:
        """Read a chunk part by part: what the system gave at once was not all."""
        content = bytearray()
        while len(content) < into.nbytes + CHECKSUM:
            more = os.pread(self.descriptor, into.nbytes + CHECKSUM - len(content), offset + len(content))
            if not more:
                raise FormatError(self.path, f"ends at byte {offset + len(content)}, expected {self.places.size} bytes", REMEDY)
            content += more
        into.reshape(-1).view(np.uint8)[:] = np.frombuffer(content, np.uint8, into.nbytes)
        self.trailer[:] = content[into.nbytes :]

    def _verify(self, into: np.ndarray, what: str) -> None:
        if not matches(into, self.trailer):
            raise FormatError(self.path, f"{what} cannot be read (its checksum does not agree with its bytes)", REMEDY)


def _unreadable(path: Path, error: OSError) -> InputError:
    return InputError(path, f"cannot be read ({error.strerror or error})", "check permissions and the disk, then start this stage again")


class _ThroughHdf5:
    """A file that HDF5 reads: compressed, of 2018's layout, or not as the package writes it. It has the methods of `_Direct`."""

    def __init__(self, path: Path, known: Places | None, stamps: StampFormat) -> None:
        self.path = path
        with ExitStack() as stack:
            self.file = stack.enter_context(open_stamps(path))
            if self.file.stamps != stamps:
                got = f"has stamps {self.file.stamps.shape} of {', '.join(self.file.stamps.channels)}"
                raise FormatError(path, f"{got}, expected {stamps.shape} of {', '.join(stamps.channels)}", REMEDY)
            self.places = known or find_places(self.file)
            self._require_same()
            self.table: np.ndarray | None = None
            self.stack = stack.pop_all()

    def close(self) -> None:
        self.stack.close()

    @property
    def nbytes(self) -> int:
        return HELD_BY_HDF5 + (0 if self.table is None else self.table.nbytes)

    def begin(self, rows: np.ndarray, out: np.ndarray, at: np.ndarray) -> np.ndarray:
        """Read nothing yet."""
        return at

    def finish(self, rows: np.ndarray, out: np.ndarray, at: np.ndarray) -> None:
        """Read stamps; HDF5 takes increasing rows, each once."""
        self._require_same()
        once, which = np.unique(rows, return_inverse=True)
        out[at] = self.file.images(once)[which]

    def sources(self, rows: np.ndarray, found: np.ndarray, at: np.ndarray) -> None:
        """Read rows of the source table."""
        if self.table is None:
            self.table = self.file.sources()
        found[at] = self.table[rows]

    def _require_same(self) -> None:
        require_same(self.path, os.fstat(self.file.file.id.get_vfd_handle()), self.places)


class StampFiles:
    """The stamps of many files of either layout, read in any order. Files stay open, as many as the system allows.

    Parameters
    ----------
    paths : sequence of Path
        The files; elsewhere they are known by their numbers in this.
    stamps : StampFormat
        What the stamps of all of them are made of.
    places : mapping of int to Places, optional
        What `find_places` said of files, by number, perhaps on another rank. It may grow while this is in use, and gets the files that
        are opened here. A file that is in it has to be as it was then, and is not checked again, which is most of what opening takes.

    Notes
    -----
    Not to be used by two threads at a time.
    """

    def __init__(self, paths: Sequence[Path], stamps: StampFormat, places: MutableMapping[int, Places] | None = None) -> None:
        self.paths, self.stamps = paths, stamps
        self.places: MutableMapping[int, Places] = {} if places is None else places
        self.capacity = room_for_files(len(paths))
        self._opened: OrderedDict[int, _Direct | _ThroughHdf5] = OrderedDict()
        self._memory = 0  # what the open files take, bytes

    def __enter__(self) -> StampFiles:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close all files; those that are needed again are opened again."""
        self._evict(0)

    def read(self, file: np.ndarray, row: np.ndarray, out: np.ndarray, table: np.ndarray) -> None:
        """Read stamps and their rows of the source tables.

        Parameters
        ----------
        file, row : ndarray, shape (n,), int
            Where each stamp is: the file's number, and the row in it. Any order; repeats are allowed.
        out : ndarray, shape (n, size, size, channels), float32, C-contiguous
            Gets the stamps, axes (source, y, x, channel).
        table : ndarray, shape (n,), with the columns of `StampFormat.source_dtype`
            Gets their rows of the source tables; its other columns stay as they are.

        Raises
        ------
        FormatError
            A file is damaged, has other stamps, no such row, or is not the one it was.
        InputError
            The system cannot read a file.
        """
        self._require_room(file, row, out, table)
        found = np.empty(len(row), self.stamps.source_dtype)
        order = np.lexsort((row, file))
        groups = np.split(order, np.flatnonzero(np.diff(file[order])) + 1) if len(order) else []
        # No more files at a time than stay open: each is visited twice.
        for first in range(0, len(groups), self.capacity):
            self._read(groups[first : first + self.capacity], file, row, out, found)
        for name in found.dtype.names or ():
            table[name] = found[name]

    def _read(self, groups: list[np.ndarray], file: np.ndarray, row: np.ndarray, out: np.ndarray, found: np.ndarray) -> None:
        lacking = [self._begin(int(file[at[0]]), row, out, at) for at in groups]
        for at, rest in zip(groups, lacking, strict=True):
            opened = self._open(int(file[at[0]]), row[at])
            before = opened.nbytes
            if len(rest):
                opened.finish(row[rest], out, rest)
            opened.sources(row[at], found, at)
            self._memory += opened.nbytes - before
            self._evict(MOST_FILES)

    def _begin(self, number: int, row: np.ndarray, out: np.ndarray, at: np.ndarray) -> np.ndarray:
        """Read what can be read without waiting; return the places of all else. What takes HDF5 to open is not opened twice for it."""
        if number in self._opened or self._is_direct(number):
            return self._open(number, row[at]).begin(row[at], out, at)
        return at

    def _is_direct(self, number: int) -> bool:
        return COMPILED and number in self.places and self.places[number].images is not None

    def _open(self, number: int, rows: np.ndarray) -> _Direct | _ThroughHdf5:
        """Return an open file that has the (increasing) rows."""
        if number not in self._opened:
            self._evict(self.capacity - 1)
            self._opened[number] = self._new(number)
            self._memory += self._opened[number].nbytes
        self._opened.move_to_end(number)
        opened = self._opened[number]
        if rows[-1] >= opened.places.count:
            raise FormatError(opened.path, f"has {opened.places.count} stamps, expected more than {rows[-1]}", REMEDY)
        return opened

    def _new(self, number: int) -> _Direct | _ThroughHdf5:
        if not self._is_direct(number):
            checked = _ThroughHdf5(self.paths[number], self.places.get(number), self.stamps)
            self.places[number] = checked.places
            if not self._is_direct(number):
                return checked
            checked.close()
        return _Direct(self.paths[number], self.places[number], self.stamps)

    def _evict(self, files: int) -> None:
        """Close the files that were not used for longest, until `files` are left, and their tables fit."""
        while len(self._opened) > files or (len(self._opened) > 1 and self._memory > MEMORY):
            opened = self._opened.popitem(last=False)[1]
            self._memory -= opened.nbytes
            opened.close()

    def _require_room(self, file: np.ndarray, row: np.ndarray, out: np.ndarray, table: np.ndarray) -> None:
        """Refuse arrays that do not fit each other: that is a mistake of the caller's."""
        count = len(row)
        fits = out.dtype == STAMP_DTYPE and out.shape == (count, *self.stamps.shape) and out.flags.c_contiguous
        if not fits or len(file) != count or len(table) != count:
            expected = f"{count} times {STAMP_DTYPE} {self.stamps.shape}, C-contiguous"
            raise ValueError(f"room is {out.dtype} {out.shape}, for {len(file)} files and {len(table)} rows, expected {expected}")
        if count and (min(file.min(), row.min()) < 0 or file.max() >= len(self.paths)):
            raise ValueError(f"places are file {file.min()} to {file.max()}, row {row.min()}, expected 0 to {len(self.paths) - 1}, from 0")


def room_for_files(wanted: int) -> int:
    """Return how many files may be held open, up to `wanted`; the soft limit is raised as far as that takes and the hard one allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    others = RESERVE + _open_now()
    wanted = min(wanted, MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted + others:
        soft = wanted + others if hard == resource.RLIM_INFINITY else min(wanted + others, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return max(1, wanted if soft == resource.RLIM_INFINITY else min(wanted, soft - others))


def _open_now() -> int:
    try:
        return len(list(Path("/proc/self/fd").iterdir()))
    except OSError:
        return RESERVE
