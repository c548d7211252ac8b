"""The compiled decoder of tile-compressed planes: the same bits as other readers, and no way to hurt it."""

from __future__ import annotations

import gzip
import itertools
import subprocess
import sys
from pathlib import Path

import fitsio
import numpy as np
import pytest
from astropy.io import fits
from patience import patience
from sample_tiles import encode, table_rows, tiled_file

from hpc_galaxy.bricks import hdus, images, tiles
from hpc_galaxy.bricks.images import plane_shape, read_plane
from hpc_galaxy.errors import InputError

METHODS = ("NO_DITHER", "SUBTRACTIVE_DITHER_1", "SUBTRACTIVE_DITHER_2")
REALSKY = Path(__file__).parents[3] / "shared" / "realsky"

needs_compiler = pytest.mark.skipif(not tiles.COMPILED, reason=f"installed without a C compiler ({tiles.REASON})")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "plane.fits.fz"


@pytest.fixture
def no_fitsio(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks fitsio for pixels fails."""

    def refuse(hdu: hdus.Hdu) -> np.ndarray:
        raise AssertionError(f"{hdu.path} was left to fitsio")

    monkeypatch.setattr(images, "_read_foreign", refuse)


def noise(shape: tuple[int, int], seed: int = 1, sigma: float = 0.01) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, sigma, shape).astype(np.float32)


def awkward(kind: str, shape: tuple[int, int]) -> np.ndarray:
    data = noise(shape, 3)
    if kind == "NaN and zeros":
        data[::7, ::5], data[3:9, :11] = np.nan, 0
    elif kind == "tiny":
        data *= np.float32(1e-30)
    elif kind == "huge":
        data *= np.float32(1e30)
    elif kind == "far from zero":
        data += np.float32(1e4)
    elif kind == "spikes":
        data[::9, ::4] = 3000
    elif kind == "constant tiles":
        data[: shape[0] // 2] = 0.25
    return data


def compress(path: Path, data: np.ndarray, method: str, tile: tuple[int, int] | None, level: float = 4, seed: int = 1) -> None:
    fitsio.write(str(path), data, compress="RICE", tile_dims=tile, qlevel=level, qmethod=method, dither_seed=seed, clobber=True)


def assert_same_bits(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert ours.dtype == np.float32
    theirs = np.asarray(theirs, np.float32)
    np.testing.assert_array_equal(np.isnan(ours), np.isnan(theirs))
    np.testing.assert_array_equal(ours[~np.isnan(ours)].view(np.uint32), theirs[~np.isnan(theirs)].view(np.uint32))


def assert_read_like_others(path: Path) -> np.ndarray:
    ours = read_plane(path).pixels
    assert_same_bits(ours, fitsio.read(str(path)))
    assert_same_bits(ours, fits.getdata(path))
    return ours


# --- the same bits -------------------------------------------------------------------------------------------------------------------


@needs_compiler
@pytest.mark.usefixtures("no_fitsio")
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("tile", [(100, 100), None, (33, 17), (500, 1), (1, 7), (1000, 1000)])
def test_fitsio_and_astropy_see_the_same_bits(path: Path, method: str, tile: tuple[int, int] | None) -> None:
    for seed, level in ((1, 4), (10_000, -1e-4), (8037, 16)):
        compress(path, noise((230, 310), seed), method, tile, level, seed)
        assert_read_like_others(path)


@needs_compiler
@pytest.mark.usefixtures("no_fitsio")
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["NaN and zeros", "tiny", "huge", "far from zero", "spikes", "constant tiles"])
def test_awkward_pixels_have_the_same_bits(path: Path, method: str, kind: str) -> None:
    for tile, level in itertools.product(((40, 30), None), (4, 100, -1e-3)):
        compress(path, awkward(kind, (120, 130)), method, tile, level)
        ours = assert_read_like_others(path)
        if kind == "NaN and zeros":
            assert np.isnan(ours).sum() == np.isnan(awkward(kind, (120, 130))).sum()
            assert (ours[4, 1:5] == 0).all() or method != "SUBTRACTIVE_DITHER_2"


@needs_compiler
@pytest.mark.usefixtures("no_fitsio")
@pytest.mark.parametrize("method", [-1, 1, 2])
def test_files_that_astropy_wrote_have_the_same_bits(path: Path, method: int) -> None:
    for shape in ((100, 100), (1, 333), (70, 50)):
        data = awkward("NaN and zeros", (333, 333))
        hdu = fits.CompImageHDU(data, compression_type="RICE_1", tile_shape=shape, quantize_method=method, dither_seed=77)
        hdu.writeto(path, overwrite=True, checksum=True)
        assert_read_like_others(path)


@needs_compiler
@pytest.mark.usefixtures("no_fitsio")
@pytest.mark.parametrize("block", [1, 16, 32, 100])
def test_streams_of_every_kind_of_block_have_the_same_bits(path: Path, block: int) -> None:
    rng = np.random.default_rng(block)
    values = [rng.integers(-(2**31), 2**31, 77), rng.integers(-9, 9, 77).cumsum(), np.full(77, -5), rng.integers(-(2**20), 2**20, 77)]
    splits: list[tuple[int | None, ...]] = [(25,), (0, 1, 2, 25), (-1, 0, None), (24, 25, 23, 18)]
    streams = [encode([int(v) for v in tile], block, split) for tile, split in zip(values, splits, strict=True)]
    path.write_bytes(tiled_file(streams, (14, 22), (7, 11), ZVAL1=block))
    ours = assert_read_like_others(path)
    for number, tile in enumerate(values):
        y, x = divmod(number, 2)
        assert_same_bits(ours[7 * y : 7 * y + 7, 11 * x : 11 * x + 11], (tile.reshape(7, 11) * 0.5 - 3.25))


@needs_compiler
@pytest.mark.usefixtures("no_fitsio")
def test_pixels_without_value_are_nan_only_where_the_header_names_a_blank(path: Path) -> None:
    stream = encode([3, -2147483647, 5, 7])
    for cards, blank in (({}, None), ({"ZBLANK": -2147483647}, 1), ({"ZBLANK": 5}, 2), ({"ZQUANTIZ": None}, None)):
        path.write_bytes(tiled_file([stream], (2, 2), (2, 2), **cards))
        ours = assert_read_like_others(path)
        assert np.flatnonzero(np.isnan(ours)).tolist() == ([] if blank is None else [blank])


@needs_compiler
@pytest.mark.usefixtures("no_fitsio")
def test_dither_starts_where_the_seed_says(path: Path) -> None:
    stream = encode([*range(99)])
    for method, seed in itertools.product((1, 2), (1, 2, 9_999, 10_000)):
        path.write_bytes(tiled_file([stream] * 3, (33, 9), (11, 9), ZQUANTIZ=f"'SUBTRACTIVE_DITHER_{method}'", ZDITHER0=seed))
        assert_read_like_others(path)


@needs_compiler
@pytest.mark.usefixtures("no_fitsio")
@pytest.mark.parametrize("method", METHODS)
def test_rounding_of_each_step_is_that_of_others(path: Path, method: str) -> None:
    # What is left after cancellation shows the last bit of every product and sum.
    for values, scale in ((range(0, 21_000, 7), 0.1), ([0, 1] * 1500, 1.0)):
        stream = encode([2**30 + value for value in values])
        rows = table_rows([stream])
        rows["scale"], rows["zero"] = scale, -scale * 2**30
        path.write_bytes(tiled_file([stream], (30, 100), (30, 100), rows, ZQUANTIZ=f"'{method}'", ZDITHER0=5))
        assert_read_like_others(path)


@needs_compiler
@pytest.mark.skipif(not REALSKY.exists(), reason="no ../shared/realsky beside this checkout")
@pytest.mark.usefixtures("no_fitsio")
def test_real_sky_has_the_same_bits() -> None:
    files = sorted(REALSKY.glob("coadd/*/*/*.fits.fz"))
    assert len(files) == 6
    for file in files:
        assert_read_like_others(file)


# --- what is left to fitsio ----------------------------------------------------------------------------------------------------------


def test_every_other_encoding_is_read_by_fitsio(path: Path, tmp_path: Path) -> None:
    data = noise((60, 70))
    whole = (data * 1e4).astype(np.int32)
    for pixels, keywords in (
        (data, {}),
        (data.astype(np.float64), {}),
        (whole, {}),
        (whole.astype(np.uint16), {}),
        (data, {"compress": "GZIP", "qlevel": None}),
        (data, {"compress": "GZIP_2", "qlevel": 4}),
        (data, {"compress": "HCOMPRESS", "qlevel": 4, "tile_dims": (35, 30)}),
        (whole, {"compress": "RICE"}),
        (data.astype(np.float64), {"compress": "RICE", "qlevel": 4}),
    ):
        fitsio.write(str(path), pixels, clobber=True, **keywords)
        assert_same_bits(read_plane(path).pixels, fitsio.read(str(path)).astype(np.float32))
    with pytest.raises(InputError, match=r"plane\.fits\.fz"):
        path.write_bytes(path.read_bytes()[:-5000])
        read_plane(path)


def test_without_a_compiler_the_pixels_are_the_same(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compress(path, noise((130, 120)), "SUBTRACTIVE_DITHER_2", (50, 50))
    with_compiler = read_plane(path)
    monkeypatch.setattr(tiles, "COMPILED", False)
    without = read_plane(path, np.array([[0, 0, 5, 5]]))
    assert_same_bits(with_compiler.pixels, without.pixels)
    assert with_compiler.datasum == without.datasum


def test_package_imports_without_the_compiled_module() -> None:
    hide = "import sys; sys.modules['hpc_galaxy.bricks._rice'] = None"
    use = "from hpc_galaxy.bricks import images, tiles; assert not tiles.COMPILED and tiles.REASON"
    subprocess.run([sys.executable, "-c", f"{hide}; {use}"], check=True, timeout=patience(60))


def test_gzipped_files_are_read_whatever_is_in_them(path: Path, tmp_path: Path) -> None:
    data = noise((60, 70))
    fitsio.write(str(path), data)
    plain = tmp_path / "plane.fits.gz"
    plain.write_bytes(gzip.compress(path.read_bytes()))
    compress(path, data, "SUBTRACTIVE_DITHER_1", (30, 30))
    tiled = tmp_path / "tiled.fits.gz"
    tiled.write_bytes(gzip.compress(path.read_bytes()))
    for checksum in (True, False):
        assert_same_bits(read_plane(plain, checksum=checksum).pixels, data)
        assert_same_bits(read_plane(tiled, checksum=checksum).pixels, fitsio.read(str(path)))
    assert plane_shape(plain) == plane_shape(tiled) == (60, 70)
    content = bytearray(plain.read_bytes())
    content[len(content) // 2] ^= 4
    for broken in (content, content[:-10], content[:3]):
        plain.write_bytes(broken)
        with pytest.raises(InputError, match=r"plane\.fits\.gz"):
            read_plane(plain)


def test_the_first_hdu_with_two_dimensions_counts(path: Path) -> None:
    table = np.zeros(3, [("x", "f4")])
    with fitsio.FITS(str(path), "rw", clobber=True) as file:
        file.write(np.zeros(9, np.float32))
        file.write(np.zeros((2, 3, 4), np.float32))
        file.write(table)
        file.write(noise((40, 50)), compress="RICE", qlevel=4)
        file.write(np.zeros((5, 6), np.float32))
    assert plane_shape(path) == (40, 50)
    assert_same_bits(read_plane(path).pixels, fitsio.read(str(path), ext=3))


# --- no more than is needed ----------------------------------------------------------------------------------------------------------


@needs_compiler
@pytest.mark.usefixtures("no_fitsio")
@pytest.mark.parametrize("tile", [(30, 40), None, (7, 1)])
@pytest.mark.parametrize("checksum", [True, False])
def test_boxes_touch_just_their_tiles(path: Path, tile: tuple[int, int] | None, checksum: bool) -> None:
    compress(path, noise((200, 310)), "SUBTRACTIVE_DITHER_2", tile)
    truth, (ty, tx) = fitsio.read(str(path)), tile or (1, 310)
    rng = np.random.default_rng(2)
    for count in (0, 1, 5, 40):
        corner = rng.integers(-40, 320, (count, 2))
        boxes = np.hstack([corner, corner + rng.integers(0, 50, (count, 2))])
        wanted = np.zeros(truth.shape, bool)
        for x0, y0, x1, y1 in boxes.clip(0):
            if x1 > x0 and y1 > y0 and x0 < 310 and y0 < 200:
                wanted[y0 // ty * ty : -(-min(y1, 200) // ty) * ty, x0 // tx * tx : -(-min(x1, 310) // tx) * tx] = True
        memory = np.full(truth.shape, 9e9, np.float32)
        plane = read_plane(path, boxes, buffer=memory, checksum=checksum)
        assert plane.pixels is memory
        np.testing.assert_array_equal(memory, np.where(wanted, truth, np.float32(9e9)))


@needs_compiler
def test_poisoned_tiles_that_no_box_touches_do_no_harm(path: Path) -> None:
    good, bad = encode([*range(100)]), bytes(200)
    path.write_bytes(tiled_file([good, bad, good, bad], (20, 20), (10, 10)))
    left = np.array([[0, 0, 10, 20]])
    for checksum in (True, False):
        pixels = read_plane(path, left, checksum=checksum).pixels
        np.testing.assert_array_equal(pixels[:, :10], np.tile(np.arange(100).reshape(10, 10) * 0.5 - 3.25, (2, 1)))
        with pytest.raises(InputError, match=r"plane\.fits\.fz: tile 2 \(pixels 10:20, 0:10\) is corrupt"):
            read_plane(path, left + 1, checksum=checksum)


@needs_compiler
def test_without_checksum_only_near_bytes_are_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compress(path, noise((1200, 1200)), "SUBTRACTIVE_DITHER_2", (100, 100))
    truth, read = fitsio.read(str(path)), []
    fill = hdus.Bytes._fill

    def counting(self: hdus.Bytes, buffer: np.ndarray, start: int) -> np.ndarray:
        read.append(len(buffer))
        return fill(self, buffer, start)

    monkeypatch.setattr(hdus.Bytes, "_fill", counting)
    monkeypatch.setattr(hdus, "NEAR", 1000)
    boxes = np.array([[10, 10, 90, 90], [110, 10, 120, 30], [1110, 1110, 1190, 1190]])
    plane = read_plane(path, boxes, checksum=False)
    for x0, y0, x1, y1 in boxes:
        np.testing.assert_array_equal(plane.pixels[y0:y1, x0:x1], truth[y0:y1, x0:x1])
    assert len(read) == 3  # headers and table, two neighbouring tiles at once, the last tile
    assert sum(read) < path.stat().st_size / 5
    assert plane.datasum is None
    assert plane.bytes == path.stat().st_size


def test_ranges_of_bytes_may_touch_overlap_and_hold_each_other(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hdus, "NEAR", 50)
    monkeypatch.setattr(hdus, "HEAD", 100)
    rng = np.random.default_rng(4)
    content = rng.integers(0, 256, 5000, np.uint8)
    path.write_bytes(content.tobytes())
    with hdus.open_bytes(path, whole=False) as source:
        for count in (0, 1, 2, 10, 30):
            starts = rng.integers(0, 4000, count)
            counts = rng.choice([0, 1, 20, 900], count)
            buffer, positions = source.gather(starts, counts)
            assert len(buffer) <= 5000
            for start, length, position in zip(starts, counts, positions, strict=True):
                np.testing.assert_array_equal(buffer[position : position + length], content[start : start + length])


def test_buffers_of_another_shape_or_kind_are_left_alone(path: Path) -> None:
    compress(path, noise((30, 40)), "NO_DITHER", (10, 10))
    fitting = np.empty((30, 40), np.float32)
    assert read_plane(path, buffer=fitting).pixels is fitting
    for other in (np.empty((40, 30), np.float32), np.empty((30, 40)), np.empty((30, 80), np.float32)[:, ::2]):
        plane = read_plane(path, buffer=other).pixels
        assert plane is not other
        assert plane.shape == (30, 40)


# --- checksums -----------------------------------------------------------------------------------------------------------------------


def checksummed(path: Path) -> int:
    with fitsio.FITS(str(path), "rw") as file:
        file[-1].write_checksum()
        return int(file[-1].read_header()["DATASUM"])


@pytest.mark.parametrize("compression", [None, "RICE", "GZIP"])
def test_checksum_is_the_one_that_fitsio_writes(path: Path, compression: str | None) -> None:
    fitsio.write(str(path), noise((90, 101)), compress=compression, qlevel=4)
    unknown = read_plane(path)
    assert unknown.datasum == checksummed(path) == read_plane(path).datasum
    assert read_plane(path, checksum=False).datasum is None


@pytest.mark.parametrize("compression", [None, "RICE", "GZIP"])
def test_every_flipped_bit_is_found_by_the_checksum(path: Path, compression: str | None) -> None:
    fitsio.write(str(path), noise((90, 101)), compress=compression, qlevel=4)
    checksummed(path)
    with hdus.open_bytes(path, whole=True) as source:
        start = hdus.plane_hdu(source).start
    whole, rng = path.read_bytes(), np.random.default_rng(5)
    for place in rng.integers(start, len(whole), 300):
        broken = bytearray(whole)
        broken[place] ^= 1 << rng.integers(8)
        path.write_bytes(broken)
        with pytest.raises(InputError, match=r"its data have the checksum \d+, its DATASUM is \d+"):
            read_plane(path)


def test_a_checksum_of_zero_or_blank_is_unknown(path: Path) -> None:
    for stated in ("'0'", "''", "'   '"):
        path.write_bytes(tiled_file([encode([1, 2, 3, 4])], (2, 2), (2, 2), DATASUM=stated))
        assert read_plane(path).datasum
    path.write_bytes(tiled_file([encode([1, 2, 3, 4])], (2, 2), (2, 2), DATASUM="'17'"))
    with pytest.raises(InputError, match="its DATASUM is 17"):
        read_plane(path)
