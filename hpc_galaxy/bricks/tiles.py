"""Tile-compressed planes of floats, decoded straight from their Rice streams by compiled code.

What the Legacy Surveys' images and inverse variances are: FITS standard 4.0, section 10, with ``ZCMPTYPE = RICE_1`` and
quantised floats, dithered or not. `tiled_plane` says of everything else that it is not one, for fitsio to read.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass

import numpy as np

from hpc_galaxy.bricks.hdus import Bytes, Hdu, damaged
from hpc_galaxy.errors import InputError

try:
    from hpc_galaxy.bricks import _rice

    COMPILED, REASON = True, ""
except ImportError as error:
    COMPILED, REASON = False, f"it was not compiled when the package was installed ({error})"

METHODS = {"NO_DITHER": 0, "SUBTRACTIVE_DITHER_1": 1, "SUBTRACTIVE_DITHER_2": 2}
RICE, GZIP, RAW, NOTHING = range(4)  # how a tile is stored
STREAMS = {"COMPRESSED_DATA": (RICE, "B"), "GZIP_COMPRESSED_DATA": (GZIP, "B"), "UNCOMPRESSED_DATA": (RAW, "E")}
# These change what a pixel means, and no coadd has them.
FOREIGN = ("BSCALE", "BZERO", "BLANK", "ZMASKCMP", "ZBZERO", "ZBSCALE")
WIDTHS = {"L": 1, "X": 1, "B": 1, "I": 2, "J": 4, "K": 8, "A": 1, "E": 4, "D": 8, "C": 8, "M": 16, "P": 8, "Q": 16}
NUMBERS = {"J": ">i4", "K": ">i8", "E": ">f4", "D": ">f8"}
TFORM = re.compile(r"(\d{0,9})([LXBIJKAEDCMPQ])([A-Z]?)(?:\(\d*\))?")
NO_BLANK = 2**32  # beyond what a pixel can be
MAX_BLOCKSIZE = 256
MAX_ROW = 2**20  # bytes a tile in the table
GZIP_RATIO = 1100  # zlib never compresses better: a tile of fewer bytes cannot hold its pixels


@dataclass(frozen=True)
class Column:
    """A column of a table: where in a row it starts, how many of which type it holds, and what its descriptors point to."""

    offset: int
    count: int
    letter: str
    elements: str

    @property
    def format(self) -> tuple[str, tuple[int, ...]]:
        """The numpy type of one row's value."""
        return {"P": (">i4", (2,)), "Q": (">i8", (2,))}.get(self.letter) or (NUMBERS[self.letter], ())


@dataclass(frozen=True)
class TiledPlane:
    """A tile-compressed plane of floats: everything but its pixels.

    Attributes
    ----------
    hdu : Hdu
        Where it was found.
    tile : (int, int)
        Shape of a tile, axes (y, x); those at the far edges are smaller.
    block, method, seed : int
        Pixels in a block of the Rice streams; 0, or 1 or 2 for SUBTRACTIVE_DITHER_1 or _2; ZDITHER0.
    kind : ndarray, shape (tiles,)
        How each tile is stored: RICE, GZIP, RAW or NOTHING.
    start, length : ndarray of int64, shape (tiles,)
        Where in the file each tile is stored, bytes.
    scale, zero : ndarray of float64, shape (tiles,)
        Pixel = quantised * scale + zero.
    blank : ndarray of int64, shape (tiles,)
        The quantised value that stands for NaN, or NO_BLANK.
    """

    hdu: Hdu
    tile: tuple[int, int]
    block: int
    method: int
    seed: int
    kind: np.ndarray
    start: np.ndarray
    length: np.ndarray
    scale: np.ndarray
    zero: np.ndarray
    blank: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the plane, axes (y, x)."""
        return self.hdu.shape

    @property
    def grid(self) -> tuple[int, int]:
        """How many tiles there are, axes (y, x)."""
        return tile_grid(self.shape, self.tile)

    def slices(self, number: int) -> tuple[slice, slice]:
        """Return the pixels of a tile, axes (y, x)."""
        row, column = divmod(number, self.grid[1])
        y, x = row * self.tile[0], column * self.tile[1]
        return slice(y, min(y + self.tile[0], self.shape[0])), slice(x, min(x + self.tile[1], self.shape[1]))

    def error(self, number: int, problem: str) -> InputError:
        """Return the error of a tile with something wrong in it."""
        y, x = self.slices(number)
        where = f"tile {number + 1} (pixels {x.start}:{x.stop}, {y.start}:{y.stop})"
        return InputError(self.hdu.path, f"{where} is corrupt: {problem}", "copy the file again")


def tile_grid(shape: tuple[int, int], tile: tuple[int, int]) -> tuple[int, int]:
    """Return how many tiles cover a plane, axes (y, x)."""
    return -(-shape[0] // tile[0]), -(-shape[1] // tile[1])


def tiled_plane(source: Bytes, hdu: Hdu) -> TiledPlane | None:
    """Describe a tile-compressed plane; None where it is not one, or not one that the compiled code decodes.

    Raises
    ------
    InputError
        Header or table contradict themselves, each other or the size of the file.
    """
    if not hdu.is_compressed or _is_foreign(hdu):
        return None
    columns = _columns(hdu)
    lacking = {"COMPRESSED_DATA", "ZSCALE", "ZZERO"} - set(columns)
    if lacking:  # the standard allows keywords instead: nobody writes such files, and other readers misread them
        raise damaged(hdu.path, f"HDU {hdu.index} lacks the columns {', '.join(sorted(lacking))}")
    if not _are_known(columns):
        return None
    tile = _tile_shape(hdu)
    table = _read_table(source, hdu, tile, columns)
    method = METHODS[hdu.text("ZQUANTIZ", "NO_DITHER")]
    seed = hdu.integer("ZDITHER0", 1, 10_000) if method else 1
    scale, zero = (table[name].astype(np.float64) for name in ("ZSCALE", "ZZERO"))
    block, streams, blank = _setting(hdu, "BLOCKSIZE", 32), _streams(hdu, table), _blanks(hdu, table)
    plane = TiledPlane(hdu, tile, block, method, seed, *streams, scale, zero, blank)
    _check_tiles(plane)
    return plane if COMPILED else None


def _is_foreign(hdu: Hdu) -> bool:
    return (
        hdu.text("ZCMPTYPE") not in ("RICE_1", "RICE_ONE")
        or hdu.bitpix("ZBITPIX") != -32
        or _setting(hdu, "BYTEPIX", 4) != 4
        or hdu.text("ZQUANTIZ", "NO_DITHER") not in METHODS
        or any(name in hdu for name in FOREIGN)
    )


def _setting(hdu: Hdu, name: str, default: int) -> int:
    """Return a setting of the compression, which are numbered pairs of name and value."""
    for number in range(1, 1000):
        if f"ZNAME{number}" not in hdu:
            break
        if hdu.text(f"ZNAME{number}").upper() == name:
            return hdu.integer(f"ZVAL{number}", 1, MAX_BLOCKSIZE)
    return default


def _tile_shape(hdu: Hdu) -> tuple[int, int]:
    ny, nx = hdu.shape
    return min(ny, hdu.integer("ZTILE2", 1, 2**48, default=1)), min(nx, hdu.integer("ZTILE1", 1, 2**48, default=nx))


def _columns(hdu: Hdu) -> dict[str, Column]:
    columns, offset = {}, 0
    if len(hdu.axes) != 2:
        raise damaged(hdu.path, f"HDU {hdu.index} is a table with {len(hdu.axes)} axes, expected 2")
    for number in range(1, hdu.integer("TFIELDS", 0, 999) + 1):
        text = hdu.text(f"TFORM{number}")
        form = TFORM.fullmatch(text)
        if form is None:
            raise damaged(hdu.path, f"TFORM{number} of HDU {hdu.index} is {text!r}, expected a column's format")
        count, letter = int(form[1] or 1), form[2]
        columns[hdu.text(f"TTYPE{number}", f"column {number}")] = Column(offset, count, letter, form[3])
        offset += -(-count // 8) if letter == "X" else count * WIDTHS[letter]
    if offset != hdu.axes[0] or offset > MAX_ROW:
        raise damaged(hdu.path, f"the columns of HDU {hdu.index} take {offset} bytes, its NAXIS1 is {hdu.axes[0]}")
    return columns


def _are_known(columns: dict[str, Column]) -> bool:
    """Whether the columns that matter have the formats that other writers give them."""
    return all(
        column.count == 1 and (column.letter in "PQ" and column.elements == STREAMS[name][1] if name in STREAMS else column.letter in kinds)
        for name, kinds in {**dict.fromkeys(STREAMS, ""), "ZSCALE": "DE", "ZZERO": "DE", "ZBLANK": "J"}.items()
        if (column := columns.get(name)) is not None
    )


def _read_table(source: Bytes, hdu: Hdu, tile: tuple[int, int], columns: dict[str, Column]) -> np.ndarray:
    """Read the columns that matter, a row a tile; descriptors are pairs (count, offset in the heap)."""
    down, across = tile_grid(hdu.shape, tile)
    if hdu.axes[1] != down * across:
        raise damaged(hdu.path, f"HDU {hdu.index} is a table of {hdu.axes[1]} tiles, expected {down} x {across}")
    if hdu.bitpix("BITPIX") != 8 or hdu.integer("GCOUNT", 1, 2**31, default=1) != 1:
        raise damaged(hdu.path, f"HDU {hdu.index} is not a table of bytes")
    names = [name for name in columns if name in STREAMS or name in ("ZSCALE", "ZZERO", "ZBLANK")]
    formats = [columns[name].format for name in names]
    offsets = [columns[name].offset for name in names]
    dtype = np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": hdu.axes[0]})
    return source.read(hdu.start, hdu.axes[0] * hdu.axes[1]).view(dtype)


def _blanks(hdu: Hdu, table: np.ndarray) -> np.ndarray:
    """Return what stands for NaN in each tile, out of a column or a keyword."""
    if "ZBLANK" in (table.dtype.names or ()):
        return table["ZBLANK"].astype(np.int64)
    return np.full(len(table), hdu.integer("ZBLANK", -(2**31), 2**31 - 1, default=NO_BLANK), np.int64)


def _streams(hdu: Hdu, table: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return how and where in the file each tile is stored: kind, start, length."""
    kind, start, length = np.full(len(table), NOTHING), *np.zeros((2, len(table)), np.int64)
    heap, size = _heap(hdu)
    for name in STREAMS.keys() & set(table.dtype.names or ()):
        # Clipped just outside of what is right, so that nothing overflows.
        count, offset = np.clip(table[name].astype(np.int64), -1, size + 1).T
        here = (kind == NOTHING) & (count != 0)
        kind[here], start[here] = STREAMS[name][0], offset[here] + heap
        length[here] = count[here] * (4 if name == "UNCOMPRESSED_DATA" else 1)
    return kind, start, length


def _heap(hdu: Hdu) -> tuple[int, int]:
    """Return where in the file the heap starts, and its size, bytes."""
    table = hdu.axes[0] * hdu.axes[1]
    gap = hdu.integer("THEAP", table, hdu.size, default=table)
    return hdu.start + gap, hdu.size - gap


def _check_tiles(plane: TiledPlane) -> None:
    """Refuse tiles that cannot be what their descriptors say; this bounds the memory that they take, too."""
    heap, size = _heap(plane.hdu)
    sides = [np.diff(np.minimum(np.arange(n + 1) * t, s)) for n, t, s in zip(plane.grid, plane.tile, plane.shape, strict=True)]
    pixels = np.outer(*sides).ravel().astype(np.float64)  # does not overflow
    rice, raw = plane.kind == RICE, plane.kind == RAW
    least = np.select([rice, raw], [4 + np.ceil(np.ceil(pixels / plane.block) * 5 / 8), pixels * 4], pixels * 4 / GZIP_RATIO)
    outside = (plane.start < heap) | (plane.length < 0) | (plane.start + plane.length > heap + size)
    for wrong, problem in (
        (plane.kind == NOTHING, "it holds no data"),
        (outside, "its stream lies outside of the heap"),
        (plane.length < least, "its stream ends too early"),
        (raw & (plane.length > least), "its stream goes on after its last pixel"),
        (rice & ~(np.isfinite(plane.scale) & np.isfinite(plane.zero)), "its ZSCALE or ZZERO is not a finite number"),
    ):
        if wrong.any():
            raise plane.error(int(np.flatnonzero(wrong)[0]), problem)


def touched_tiles(plane: TiledPlane, boxes: np.ndarray) -> np.ndarray:
    """Return the numbers of the tiles that boxes touch.

    Parameters
    ----------
    boxes : ndarray of int, shape (n, 4)
        x0, y0, x1, y1 of each, half-open; they may hang over the edge of the plane, or be empty.
    """
    x0, y0, x1, y1 = np.clip(np.asarray(boxes, np.int64).reshape(-1, 4), 0, [*plane.shape[::-1]] * 2).T
    some = (x1 > x0) & (y1 > y0)
    left, right = (x0 // plane.tile[1])[some], (-(-x1 // plane.tile[1]))[some]
    low, high = (y0 // plane.tile[0])[some], (-(-y1 // plane.tile[0]))[some]
    # How many boxes cover a tile is the double sum of what their corners add and take away.
    corners = np.zeros((plane.grid[0] + 1, plane.grid[1] + 1), np.int64)
    for y, x, sign in ((low, left, 1), (low, right, -1), (high, left, -1), (high, right, 1)):
        np.add.at(corners, (y, x), sign)
    return np.flatnonzero(corners.cumsum(0).cumsum(1)[:-1, :-1])


def decode_tiles(source: Bytes, plane: TiledPlane, numbers: np.ndarray, pixels: np.ndarray) -> None:
    """Decode tiles into the plane that they belong to.

    Parameters
    ----------
    numbers : ndarray of int64
        Which.
    pixels : ndarray of float32, shape (ny, nx), C-contiguous
        Written to. What lies outside of those tiles stays as it is.

    Raises
    ------
    InputError
        A tile is corrupt; it is named.
    """
    rice = numbers[plane.kind[numbers] == RICE]
    lengths = plane.length[rice]
    streams, starts = source.gather(plane.start[rice], lengths)
    columns = (rice, starts, lengths, plane.scale[rice], plane.zero[rice], plane.blank[rice])
    bad = _rice.decode(streams, pixels, columns, plane.shape, plane.tile, plane.block, plane.method, plane.seed)
    if bad is not None:
        raise plane.error(int(rice[bad[0]]), bad[1])
    for number in numbers[plane.kind[numbers] != RICE]:
        pixels[plane.slices(int(number))] = _lossless_tile(source, plane, int(number))


def _lossless_tile(source: Bytes, plane: TiledPlane, number: int) -> np.ndarray:
    """Return the pixels of a tile that could not be quantised, shape (ny, nx)."""
    y, x = plane.slices(number)
    shape = y.stop - y.start, x.stop - x.start
    content = source.read(int(plane.start[number]), int(plane.length[number])).tobytes()
    if plane.kind[number] == GZIP:
        content = _gunzip(plane, number, content, shape[0] * shape[1] * 4)
    return np.frombuffer(content, ">f4").reshape(shape)


def _gunzip(plane: TiledPlane, number: int, content: bytes, size: int) -> bytes:
    stream = zlib.decompressobj(wbits=31)
    try:
        pixels = stream.decompress(content, size + 1)
    except zlib.error as error:
        raise plane.error(number, str(error)) from error
    if len(pixels) != size or not stream.eof or stream.unused_data:
        raise plane.error(number, f"its stream does not hold {size} bytes")
    return pixels
