"""Damaged and malicious planes: an error that names the file and the tile, never a crash, never a wrong pixel that could be noticed."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import fitsio
import numpy as np
import pytest
from sample_tiles import BadStreamError, decode, encode, header, table_rows, tiled_file

from hpc_galaxy.bricks import images, tiles
from hpc_galaxy.bricks.images import plane_shape, read_plane
from hpc_galaxy.errors import InputError

pytestmark = pytest.mark.skipif(not tiles.COMPILED, reason=f"installed without a C compiler ({tiles.REASON})")

VALUES = [*range(100)]
STREAM = encode(VALUES)
GUARD = np.float32(12345)


def decode_fast(stream: bytes, count: int, block: int = 32) -> np.ndarray | str:
    """Return the integers of a stream, or why it was refused; nothing outside of the plane may have been written."""
    memory = np.full(count + 64, GUARD)
    columns = [np.array([value]) for value in (0, 0, len(stream), 1.0, 0.0, tiles.NO_BLANK)]
    heap = np.frombuffer(stream, np.uint8)
    bad = tiles._rice.decode(heap, memory[32 : 32 + count], tuple(columns), (1, count), (1, count), block, 0, 1)
    assert (memory[:32] == GUARD).all()
    assert (memory[32 + count :] == GUARD).all()
    return memory[32 : 32 + count] if bad is None else bad[1]


def agree(stream: bytes, count: int, block: int = 32) -> bool:
    """Compare with the slow decoder; whether the stream is good."""
    ours = decode_fast(stream, count, block)
    try:
        theirs = decode(stream, count, block)
    except BadStreamError:
        assert isinstance(ours, str), f"{stream.hex()} was accepted"
        return False
    assert not isinstance(ours, str), f"{stream.hex()} was refused: {ours}"
    np.testing.assert_array_equal(ours, theirs.astype(np.float32))
    return True


def test_every_truncation_and_every_flipped_bit_is_judged_like_the_slow_decoder() -> None:
    rng = np.random.default_rng(1)
    good = 0
    for splits in ((0,), (3,), (7, None), (24,), (25,), (-1, 25, 0)):
        values = [int(v) for v in (rng.normal(0, 40, 50)).astype(int)] if splits[0] != -1 else [7] * 50
        stream = encode(values, 16, splits)
        assert agree(stream, 50, 16)
        assert not any(agree(stream[:length], 50, 16) for length in range(len(stream)))
        assert not agree(stream + b"\0", 50, 16)
        for bit in range(8 * len(stream)):
            flipped = bytearray(stream)
            flipped[bit // 8] ^= 128 >> bit % 8
            good += agree(bytes(flipped), 50, 16)
    assert good  # a flipped low bit cannot be noticed in the stream alone: that is what checksums are for


def test_random_streams_are_judged_like_the_slow_decoder() -> None:
    rng = np.random.default_rng(2)
    good = 0
    for number in range(6000):
        length, count, block = int(rng.integers(0, 40)), int(rng.integers(1, 70)), int(rng.choice([1, 5, 16, 32, 256]))
        stream = rng.integers(0, 256, (3, length), np.uint8)
        # Every third with many zeros: long codes.
        stream = np.bitwise_and.reduce(stream) if number % 3 == 0 else stream[0]
        good += agree(stream.tobytes(), count, block)
    assert good > 10


@pytest.mark.parametrize(
    ("stream", "problem"),
    [
        (b"", "ends too early"),
        (STREAM[:-1], "ends too early"),
        (encode(VALUES, splits=(25,))[:-1], "ends too early"),
        (bytes(len(STREAM)), "goes on after its last pixel"),
        (STREAM + b"\0", "goes on after its last pixel"),
        (STREAM[:-1] + bytes([STREAM[-1] | 1]), "pad its last byte"),
        (encode(VALUES, splits=(26,)) + bytes(99), "impossible number of low bits"),
        (bytes(4) + b"\x08" + bytes(4000), "ends too early"),
        (bytes(4) + b"\xc8" + bytes(40) + b"\x01" + bytes(4000), "more than 32 bits"),
    ],
)
def test_corrupt_streams_are_named(tmp_path: Path, stream: bytes, problem: str) -> None:
    path = tmp_path / "plane.fits.fz"
    path.write_bytes(tiled_file([STREAM, STREAM, stream], (30, 10), (10, 10)))
    for checksum in (True, False):
        with pytest.raises(InputError, match=rf"plane\.fits\.fz: tile 3 \(pixels 0:10, 20:30\) is corrupt: .*({problem}|no data)"):
            read_plane(path, checksum=checksum)


def test_one_difference_of_millions_of_zeros_ends_soon() -> None:
    assert decode_fast(bytes(4) + b"\x08" + bytes(50_000_000), 5) == "its stream ends too early"


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("offset", -1, "outside of the heap"),
        ("offset", 10**9, "outside of the heap"),
        ("offset", len(STREAM) + 1, "outside of the heap"),
        ("count", -1, "outside of the heap"),
        ("count", 2**31 - 1, "outside of the heap"),
        ("count", 0, "holds no data"),
        ("count", 4, "ends too early"),
        ("scale", np.nan, "not a finite number"),
        ("zero", np.inf, "not a finite number"),
    ],
)
def test_descriptors_that_cannot_be_are_named(tmp_path: Path, name: str, value: float, problem: str) -> None:
    path, rows = tmp_path / "plane.fits.fz", table_rows([STREAM, STREAM])
    rows[name][1] = value
    path.write_bytes(tiled_file([STREAM, STREAM], (20, 10), (10, 10), rows))
    for boxes in (None, np.array([[0, 0, 5, 5]])):
        with pytest.raises(InputError, match=rf"tile 2 \(pixels 0:10, 10:20\) is corrupt: .*{problem}"):
            read_plane(path, boxes)


@pytest.mark.parametrize(
    "cards",
    [
        {"ZNAXIS1": 2**31 - 1, "ZNAXIS2": 2**31 - 1},
        {"ZNAXIS1": 2**31 - 1, "ZNAXIS2": 2**31 - 1, "ZTILE1": 2**40, "ZTILE2": 2**40, "NAXIS2": 1},
        {"ZNAXIS1": 100_000, "ZNAXIS2": 100_000, "ZTILE1": 100_000, "ZTILE2": 100_000, "NAXIS2": 1},
        {"ZNAXIS1": -5},
        {"ZNAXIS1": 10**30},
        {"ZNAXIS1": 0},
        {"ZNAXIS": 3},
        {"ZNAXIS": -1},
        {"ZTILE1": 0},
        {"ZTILE1": -10},
        {"ZTILE1": "'ten'"},
        {"ZTILE2": 5},
        {"NAXIS1": 25},
        {"NAXIS1": -24},
        {"NAXIS1": 2**40},
        {"NAXIS2": 3},
        {"NAXIS": 1},
        {"NAXIS": 1000},
        {"PCOUNT": -1},
        {"PCOUNT": 2**47},
        {"PCOUNT": 3},
        {"GCOUNT": 0},
        {"GCOUNT": 2},
        {"BITPIX": 16},
        {"BITPIX": 99},
        {"TFIELDS": 999},
        {"TFIELDS": -1},
        {"TFIELDS": 2},
        {"TFORM1": "'1PB(1000'"},
        {"TFORM1": "'999999999PB'"},
        {"TFORM2": "'0D'"},
        {"TFORM2": None},
        {"TTYPE2": "'ZZERO'"},
        {"TTYPE1": "'SOMETHING'"},
        {"THEAP": 3},
        {"THEAP": 10**9},
        {"ZVAL1": 0},
        {"ZVAL1": 10**6},
        {"ZBLANK": 2**40},
        {"ZBLANK": 1.5},
        {"ZCMPTYPE": None},
        {"ZCMPTYPE": "'NONE_SUCH'"},
        {"ZBITPIX": None},
        {"ZBITPIX": 32.5},
        {"ZBITPIX": -3},
        {"ZQUANTIZ": "'SUBTRACTIVE_DITHER_1'"},
        {"ZQUANTIZ": "'SUBTRACTIVE_DITHER_1'", "ZDITHER0": 0},
        {"ZQUANTIZ": "'SUBTRACTIVE_DITHER_2'", "ZDITHER0": -(2**40)},
    ],
    ids=str,
)
def test_absurd_headers_are_refused(tmp_path: Path, cards: dict[str, object]) -> None:
    path = tmp_path / "plane.fits.fz"
    path.write_bytes(tiled_file([STREAM, STREAM], (20, 10), (10, 10)))
    assert plane_shape(path) == (20, 10)
    path.write_bytes(tiled_file([STREAM, STREAM], (20, 10), (10, 10), **cards))
    for content in (path.read_bytes(), gzip.compress(path.read_bytes())):
        path.write_bytes(content)
        for checksum in (True, False):
            with pytest.raises(InputError, match=r"plane\.fits\.fz: "):
                read_plane(path, checksum=checksum)


@pytest.mark.parametrize(
    ("cards", "problem"),
    [
        ({"NAXIS1": 25}, "the columns of HDU 1 take 24 bytes, its NAXIS1 is 25"),
        ({"TFORM3": "'2000000D'", "NAXIS1": 16_000_016, "NAXIS2": 0}, "the columns of HDU 1 take 16000016 bytes"),
        ({"NAXIS2": 1}, "HDU 1 is a table of 1 tiles, expected 2 x 1"),
        ({"THEAP": 3}, "THEAP of HDU 1 is 3, expected 48 to"),
        ({"TTYPE2": "'ZZERO'"}, "HDU 1 lacks the columns ZSCALE"),
        ({"ZVAL1": 1000}, "ZVAL1 of HDU 1 is 1000, expected 1 to 256"),
        ({"ZTILE1": 0}, "ZTILE1 of HDU 1 is 0, expected 1 to"),
        ({"ZQUANTIZ": "'SUBTRACTIVE_DITHER_1'"}, "ZDITHER0 of HDU 1 is none, expected an integer"),
        ({"PCOUNT": 100_000}, "it ends after 8640 bytes, HDU 1 after"),
    ],
)
def test_contradictions_are_told(tmp_path: Path, cards: dict[str, object], problem: str) -> None:
    path = tmp_path / "plane.fits.fz"
    path.write_bytes(tiled_file([STREAM, STREAM], (20, 10), (10, 10), **cards))
    with pytest.raises(InputError, match=rf"plane\.fits\.fz: not a readable FITS file \({problem}"):
        read_plane(path)


def test_planes_larger_than_the_memory_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "plane.fits.fz"
    path.write_bytes(tiled_file([STREAM, STREAM], (20, 10), (10, 10)))

    def full(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(images, "_room", full)
    with pytest.raises(InputError, match=r"plane\.fits\.fz: its content does not fit into the memory"):
        read_plane(path)


def test_files_that_are_not_fits_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "plane.fits.fz"
    endless = header({"SIMPLE": True, "BITPIX": 8, "NAXIS": 0})[:240].ljust(2880) + b" " * 2880 * 5000
    for content in (b"", b"SIMPLE", b"\x89HDF\r\n\x1a\n" + bytes(9000), bytes(9000), gzip.compress(b"no"), b"\x1f\x8b", endless):
        path.write_bytes(content)
        for checksum in (True, False):
            with pytest.raises(InputError, match=r"plane\.fits\.fz: not (a readable FITS file|readable)"):
                read_plane(path, checksum=checksum)
    with pytest.raises(InputError, match="not readable"):
        read_plane(tmp_path)


def test_lossless_tiles_are_checked(tmp_path: Path) -> None:
    path, data = tmp_path / "plane.fits.fz", np.full((20, 10), 0.25, np.float32)
    data[:10] = np.random.default_rng(1).normal(0, 1, (10, 10))
    fitsio.write(str(path), data, compress="RICE", qlevel=4, tile_dims=(10, 10))
    whole = path.read_bytes()
    place = whole.index(b"\x1f\x8b\x08", 2880)
    np.testing.assert_array_equal(read_plane(path).pixels[10:], data[10:])
    decoder = zlib.decompressobj(wbits=31)
    decoder.decompress(whole[place:])
    size = len(whole) - place - len(decoder.unused_data)
    for distance in (10, 12, *range(size - 8, size)):  # the first blocks, checksum and length
        broken = bytearray(whole)
        broken[place + distance] ^= 16
        path.write_bytes(broken)
        with pytest.raises(InputError, match=r"tile 2 \(pixels 0:10, 10:20\) is corrupt"):
            read_plane(path)


@pytest.mark.parametrize("name", ["UNCOMPRESSED_DATA", "GZIP_COMPRESSED_DATA"])
def test_lossless_tiles_have_to_end_where_their_descriptors_say(tmp_path: Path, name: str) -> None:
    path, raw = tmp_path / "plane.fits.fz", np.linspace(0, 1, 100).astype(">f4")
    content, letter = (raw.tobytes(), "E") if name == "UNCOMPRESSED_DATA" else (gzip.compress(raw.tobytes(), mtime=0), "B")
    right = len(raw) if letter == "E" else len(content)
    cards = {"TTYPE4": f"'{name}'", "TFORM4": f"'1P{letter}(999)'", "TFIELDS": 4, "NAXIS1": 32}
    for count in (right, right - 1, right + 1, 2**30):
        rows = np.zeros(2, [*table_rows([]).dtype.descr, ("other count", ">i4"), ("other offset", ">i4")])
        for column in ("count", "scale", "zero"):
            rows[column][0] = table_rows([STREAM])[column][0]
        rows["other count"][1], rows["other offset"][1] = count, len(STREAM)
        path.write_bytes(tiled_file([STREAM, content + bytes(4)], (20, 10), (10, 10), rows, **cards))
        if count == right:
            np.testing.assert_array_equal(read_plane(path).pixels[10:].ravel(), raw)
            np.testing.assert_array_equal(fitsio.read(str(path))[10:].ravel(), raw)
        else:
            with pytest.raises(InputError, match=r"tile 2 \(pixels 0:10, 10:20\) is corrupt"):
                read_plane(path)


def test_any_damage_to_a_file_is_an_error_or_goes_unnoticed_but_never_a_crash(tmp_path: Path) -> None:
    path, rng = tmp_path / "plane.fits.fz", np.random.default_rng(3)
    data = rng.normal(0, 1, (40, 50)).astype(np.float32)
    data[:20, :30] = 7  # a tile that is stored losslessly
    fitsio.write(str(path), data, compress="RICE", qlevel=4, tile_dims=(20, 30), qmethod="SUBTRACTIVE_DITHER_2", dither_seed=3)
    whole, refused = path.read_bytes(), 0
    used = np.flatnonzero(np.frombuffer(whole, np.uint8) != ord(" "))  # damage to blanks seldom matters
    for number in range(3000):
        broken = bytearray(whole)
        for place in rng.choice(used, 1 + number % 3):
            broken[place] = rng.integers(256)
        path.write_bytes(broken[: rng.integers(len(whole))] if number % 10 == 0 else broken)
        try:
            plane = read_plane(path, np.array([[5, 5, 45, 30]]), checksum=bool(number % 2))
        except InputError as error:
            refused += 1
            assert error.where == str(path)
        else:
            assert plane.pixels.dtype == np.float32
    assert refused > 1000
