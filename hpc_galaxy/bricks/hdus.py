"""The parts of a FITS file (FITS standard 4.0): its bytes, its headers, and the first of its HDUs that holds a plane.

As much of the format as finding the pixels takes. A file is hostile until proven otherwise: nothing is believed before it
was compared with the bytes that are there.
"""

from __future__ import annotations

import gzip
import os
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import IO

import numpy as np

from hpc_galaxy.errors import InputError

BLOCK = 2880
CARD = 80
MAX_BLOCKS = 4096  # of one header
MAX_SIDE = 2**31 - 1
BITPIX = (8, 16, 32, 64, -32, -64)
HEAD = 1 << 16  # bytes that hold the headers of most files, and the table of tiles of many
NEAR = 1 << 17  # bytes: a gap that is cheaper to read than to skip
GZIP_MAGIC = b"\x1f\x8b"
PIECE = 1 << 24  # bytes that are decompressed at a time
SMALL = 1 << 30  # bytes that fit into the memory, whatever they were compressed from
LARGEST_RATIO = 100  # of more than that: real images and tables shrink to a tenth, zeros to a thousandth
INTEGER = re.compile(r"\s*([+-]?\d{1,18})\s*(?:/.*)?")
NUMBER = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[ED][+-]?\d{1,4})?)\s*(?:/.*)?")
TEXT = re.compile(r"\s*'((?:[^']|'')*)'\s*(?:/.*)?")


def damaged(path: Path, problem: str) -> InputError:
    """Return the error of a FITS file with something wrong in it."""
    return InputError(path, f"not a readable FITS file ({problem})", "copy the file again")


def decompressed(path: Path, file: IO[bytes] | gzip.GzipFile, disk_size: int) -> Iterator[bytes]:
    """Yield what is left in a gzipped file of `disk_size` bytes, piece by piece.

    Raises
    ------
    InputError
        It is far more than a file of that size can hold of a sky: a few megabytes can be made to fill any memory.
    """
    size = 0
    while piece := file.read(PIECE):
        size += len(piece)
        if size > _most(disk_size):
            raise damaged(path, f"{disk_size:,} bytes hold more than {size:,}, expected at most {LARGEST_RATIO} times as many")
        yield piece


def _most(disk_size: int) -> int:
    return max(SMALL, LARGEST_RATIO * disk_size)


def most_bytes(path: Path) -> int:
    """Return how many bytes there may be in a file, for readers that believe what a header says of that.

    One that is compressed with gzip is gone through once: they take all of it into the memory.

    Raises
    ------
    InputError
        It is damaged, or holds far more than its size lets expect.
    """
    with open_bytes(path, whole=False) as source:
        if source.size is not None:
            return source.size
        source.skim()
        return _most(source.disk_size)


@contextmanager
def open_bytes(path: Path, whole: bool) -> Iterator[Bytes]:
    """Open a file, compressed with gzip or not, to read its bytes; with `whole` it is read at once.

    Raises
    ------
    InputError
        The file is missing or cannot be read, or what is read of it while it is open does not fit into the memory.
    """
    try:
        with open(path, "rb", buffering=0) as raw:
            zipped = os.pread(raw.fileno(), 2, 0) == GZIP_MAGIC
            if not zipped:
                yield Bytes(path, raw, os.fstat(raw.fileno()).st_size, whole)
                return
            with gzip.GzipFile(fileobj=raw) as file:
                yield Bytes(path, file, None, whole)
    except FileNotFoundError:
        raise InputError(path, "no such file", "check the paths in the configuration") from None
    except MemoryError as error:
        raise InputError(path, "its content does not fit into the memory", "check the file, or give the job more memory") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise damaged(path, str(error)) from error
    except OSError as error:
        raise InputError(path, f"not readable ({error.strerror or error})", "check its permissions and the file system") from error


class Bytes:
    """The bytes of a file, or of what is compressed in it.

    Attributes
    ----------
    path : Path
        The file.
    disk_size : int
        Its size as it lies on the disk, bytes.
    size : int or None
        How many bytes there are to read; None where that is known only after decompressing them.
    content : ndarray of uint8, or None
        All of them, when they were read at once.
    """

    def __init__(self, path: Path, file: IO[bytes] | gzip.GzipFile, size: int | None, whole: bool) -> None:
        self.path, self.size = path, size
        self.content: np.ndarray | None = None
        self.disk_size = path.stat().st_size
        self._file, self._head = file, np.empty(0, np.uint8)
        if whole:
            self.load()
        else:
            self._head = self._fill(np.empty(HEAD, np.uint8), 0)

    def load(self) -> None:
        """Read all of them at once, unless that was done before."""
        if self.content is not None:
            return
        if self.size is None:
            self._file.seek(0)
            content = bytearray()
            for piece in decompressed(self.path, self._file, self.disk_size):
                content += piece
            self.content = np.frombuffer(content, np.uint8)
        else:
            self.content = self._fill(np.empty(self.size, np.uint8), 0)
        self.size = len(self.content)

    def skim(self) -> None:
        """Decompress all of it once, and keep nothing."""
        self._file.seek(0)
        for _ in decompressed(self.path, self._file, self.disk_size):
            pass

    def read(self, start: int, count: int) -> np.ndarray:
        """Return `count` bytes, or fewer where the file ends."""
        if self.content is not None:
            return self.content[start : start + count]
        if start + count <= len(self._head):
            return self._head[start : start + count]
        if self.size is not None:
            count = max(0, min(count, self.size - start))
        return self._fill(np.empty(count, np.uint8), start)

    def gather(self, starts: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Read many ranges of bytes, the near ones at once.

        Returns
        -------
        buffer, positions : ndarray
            Bytes, and where in them each range starts.
        """
        if self.content is not None:
            return self.content, starts
        if not len(starts):
            return np.empty(0, np.uint8), starts
        order = np.argsort(starts, kind="stable")
        begin, end = starts[order], np.maximum.accumulate((starts + counts)[order])
        first = np.concatenate([[True], begin[1:] > end[:-1] + NEAR])  # of a run of near ranges
        run = np.cumsum(first) - 1
        begins, ends = begin[first], end[np.append(np.flatnonzero(first)[1:] - 1, len(end) - 1)]
        places = np.concatenate([[0], np.cumsum(ends - begins)])
        buffer = np.empty(places[-1], np.uint8)
        for place, until, start in zip(places[:-1], places[1:], begins, strict=True):
            if len(self._fill(buffer[place:until], int(start))) < until - place:
                raise damaged(self.path, "it became shorter while it was read")
        positions = np.empty_like(starts)
        positions[order] = begin - begins[run] + places[run]
        return buffer, positions

    def _fill(self, buffer: np.ndarray, start: int) -> np.ndarray:
        """Fill `buffer` with what lies at `start`; return as much of it as there is."""
        self._file.seek(start)
        view, done = buffer.data, 0
        while done < len(buffer):
            count = self._file.readinto(view[done:])  # type: ignore[union-attr]
            if not count:
                break
            done += count
        return buffer[:done]


@dataclass(frozen=True)
class Hdu:
    """One HDU of a FITS file.

    Attributes
    ----------
    path : Path
        The file.
    index : int
        Its place in the file; the primary HDU is 0.
    cards : dict of str to str
        What follows the ``=`` in each card; of repeated keywords the first.
    start : int
        Where its data unit starts, bytes.
    """

    path: Path
    index: int
    cards: dict[str, str]
    start: int

    def __contains__(self, keyword: str) -> bool:
        return keyword in self.cards

    def _value(self, keyword: str, pattern: re.Pattern[str], kind: str) -> str:
        card = self.cards.get(keyword)
        match = None if card is None else pattern.fullmatch(card)
        if match is None:
            found = "none" if card is None else repr(card.strip())
            raise damaged(self.path, f"{keyword} of HDU {self.index} is {found}, expected {kind}")
        return match[1]

    def integer(self, keyword: str, low: int, high: int, default: int | None = None) -> int:
        """Return a keyword's integer, which has to lie within `low` and `high`, both included."""
        if default is not None and keyword not in self:
            return default
        value = int(self._value(keyword, INTEGER, "an integer"))
        if not low <= value <= high:
            raise damaged(self.path, f"{keyword} of HDU {self.index} is {value}, expected {low} to {high}")
        return value

    def number(self, keyword: str) -> float:
        """Return a keyword's floating-point number."""
        return float(self._value(keyword, NUMBER, "a number").replace("D", "E"))

    def text(self, keyword: str, default: str | None = None) -> str:
        """Return a keyword's string without trailing blanks."""
        if default is not None and keyword not in self:
            return default
        return self._value(keyword, TEXT, "a string").replace("''", "'").rstrip()

    def bitpix(self, keyword: str) -> int:
        """Return the type of pixels that ``BITPIX`` or ``ZBITPIX`` states."""
        value = self.integer(keyword, -64, 64)
        if value not in BITPIX:
            raise damaged(self.path, f"{keyword} of HDU {self.index} is {value}, expected one of {BITPIX}")
        return value

    @cached_property
    def axes(self) -> tuple[int, ...]:
        """The lengths of the axes of the data unit, the fastest first."""
        return tuple(self.integer(f"NAXIS{axis}", 0, 2**48) for axis in range(1, self.integer("NAXIS", 0, 999) + 1))

    @cached_property
    def size(self) -> int:
        """The size of the data unit without its padding, bytes."""
        groups, more = self.integer("GCOUNT", 1, 2**31, default=1), self.integer("PCOUNT", 0, 2**48, default=0)
        return abs(self.bitpix("BITPIX")) // 8 * groups * (more + prod(self.axes)) if self.axes else 0

    @property
    def end(self) -> int:
        """Where the next HDU starts, bytes."""
        return self.start + -(-self.size // BLOCK) * BLOCK

    @property
    def is_compressed(self) -> bool:
        """Whether this is a table whose rows are the tiles of an image."""
        return self.cards.get("ZIMAGE", "").split("/")[0].strip() == "T" and self.text("XTENSION", "") == "BINTABLE"

    @cached_property
    def image_axes(self) -> tuple[int, ...]:
        """The lengths of the axes of the image that it holds, the fastest first; empty where it holds none."""
        if self.is_compressed:
            return tuple(self.integer(f"ZNAXIS{axis}", 0, MAX_SIDE) for axis in range(1, self.integer("ZNAXIS", 0, 999) + 1))
        return self.axes if self.text("XTENSION", "IMAGE") == "IMAGE" else ()

    @property
    def shape(self) -> tuple[int, int]:
        """The shape (ny, nx) of its two-dimensional image."""
        nx, ny = self.image_axes
        return ny, nx


def plane_hdu(source: Bytes) -> Hdu:
    """Return the first HDU with two-dimensional data, compressed or not.

    Raises
    ------
    InputError
        There is none, or the file is damaged before its end.
    """
    start = index = 0
    while source.size is None or start < source.size or index == 0:
        hdu = _read_header(source, index, start)
        if hdu is None:
            break
        if len(hdu.image_axes) == 2 and min(hdu.image_axes) > 0:
            if source.size is not None and hdu.start + hdu.size > source.size:
                raise damaged(source.path, f"it ends after {source.size} bytes, HDU {index} after {hdu.start + hdu.size}")
            return hdu
        start, index = hdu.end, index + 1
    raise InputError(source.path, "has no two-dimensional image, expected one", "copy the file again")


def _read_header(source: Bytes, index: int, start: int) -> Hdu | None:
    """Read the header at `start`; None where there is none (what follows the last HDU is not looked at)."""
    cards: dict[str, str] = {}
    for block in range(MAX_BLOCKS):
        content = source.read(start + block * BLOCK, BLOCK).tobytes().decode("latin-1")
        if block == 0 and not content.startswith("XTENSION=" if index else "SIMPLE  ="):
            if index:
                return None
            raise damaged(source.path, "it does not start with SIMPLE")
        for place in range(0, len(content) - CARD + 1, CARD):
            keyword = content[place : place + 8].rstrip()
            if keyword == "END":
                return Hdu(source.path, index, cards, start + (block + 1) * BLOCK)
            if content[place + 8 : place + 10] == "= ":
                cards.setdefault(keyword, content[place + 10 : place + CARD])
        if len(content) < BLOCK:
            break
    raise damaged(source.path, f"the header of HDU {index} has no end")


def data_sum(source: Bytes, hdu: Hdu) -> int:
    """Return the checksum of a data unit with its padding: the ones' complement sum of 32-bit words (FITS standard, appendix J)."""
    unit = source.read(hdu.start, hdu.end - hdu.start)
    words = len(unit) // 4
    total = int(unit[: words * 4].view(">u4").sum(dtype=np.uint64)) + int.from_bytes(unit[words * 4 :].tobytes().ljust(4, b"\0"), "big")
    while total >> 32:
        total = (total & 0xFFFFFFFF) + (total >> 32)
    return total


def check_data_sum(source: Bytes, hdu: Hdu) -> int:
    """Return the checksum of a data unit, which has to be the one its header states; ``0`` or a blank there state none.

    Raises
    ------
    InputError
        Some bit of the data differs from what was written.
    """
    found, stated = data_sum(source, hdu), hdu.text("DATASUM", "").strip()
    if stated not in ("", "0") and stated != str(found):
        raise InputError(source.path, f"its data have the checksum {found}, its DATASUM is {stated}", "copy the file again")
    return found
