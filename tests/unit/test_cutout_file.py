"""The cutout file: whole or absent, checked on every read."""

from __future__ import annotations

import json
import math
import resource
import signal
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from sample_cutouts import sample, write_sample

from hpc_galaxy.errors import FormatError, InputError, OutputError
from hpc_galaxy.shards import cutout_file
from hpc_galaxy.shards.cutout_file import create_cutouts, open_cutouts, write_cutouts
from hpc_galaxy.shards.recognise import recognise
from hpc_galaxy.shards.rounding import round_mantissas
from hpc_galaxy.shards.schema import BANDS, CHANNELS, SOURCE_DTYPE, STAMP_SHAPE, StampFormat

GOLDEN = Path(__file__).parents[1] / "golden"
OTHER = StampFormat(("g", "r", "i", "z"), ("image",), 32)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_sample(tmp_path)


def test_round_trip(path: Path) -> None:
    images, sources = sample()
    assert path.parts[-3:] == ("real", "121", "1211p060.h5")
    with open_cutouts(path) as cutouts:
        assert len(cutouts) == 3
        assert cutouts.stamps == StampFormat()
        np.testing.assert_array_equal(cutouts.images(), images)
        np.testing.assert_array_equal(cutouts.images(np.array([0, 2])), images[[0, 2]])
        np.testing.assert_array_equal(cutouts.sources(), sources)
        assert cutouts.attributes == {
            "format": "hpc_galaxy cutouts",
            "version": 3,
            "channels": list(CHANNELS),
            "compression": "none",
            "mantissa_bits": 23,
            "brick": "1211p060",
            "cut_flow": '{"primary": 2}',
        }


def test_other_bands_planes_and_sizes(tmp_path: Path) -> None:
    images, sources = sample(5, OTHER)
    write_cutouts(tmp_path / "x.h5", images, sources, {}, OTHER)
    with open_cutouts(tmp_path / "x.h5") as cutouts:
        assert cutouts.stamps == OTHER
        assert "flux_i" in (cutouts.sources().dtype.names or ())
        np.testing.assert_array_equal(cutouts.images(), images)


def test_formats_are_recognised_by_their_channels_and_shape() -> None:
    for stamps in (StampFormat(), OTHER, StampFormat(("z",), ("invvar", "image"), 8)):
        assert recognise(list(stamps.channels), list(stamps.shape)) == stamps
    for channels, shape in (
        ([], (64, 64, 0)),
        (["image_g"], ()),
        (["image_g"], (64, 64, 2)),
        (["image_g"], (64, 32, 1)),
        (["image_g"], (63, 63, 1)),
        (["image_g"], (1024, 1024, 1)),
        (["image_g", "image_g"], (64, 64, 2)),
        (["image_g", "invvar_r"], (64, 64, 2)),
        (["image_g", "invvar_g", "image_r", "invvar_r"], (64, 64, 4)),
        (["image_W1"], (64, 64, 1)),
        (["nexp_g"], (64, 64, 1)),
        (["image"], (64, 64, 1)),
        ([3], (64, 64, 1)),
    ):
        assert recognise(channels, shape) is None


def test_a_brick_without_sources_has_a_file_too(tmp_path: Path) -> None:
    for compression in ("none", "bitshuffle"):
        write_cutouts(tmp_path / "empty.h5", *sample(0), {}, compression=compression)
        with open_cutouts(tmp_path / "empty.h5") as cutouts:
            assert len(cutouts) == 0
            assert cutouts.images().shape == (0, *STAMP_SHAPE)
            assert cutouts.sources().shape == (0,)


@pytest.mark.parametrize(("compression", "bits"), [("none", 23), ("bitshuffle", 9)])
def test_the_same_content_makes_the_same_bytes_however_it_came(tmp_path: Path, compression: str, bits: int) -> None:
    images, sources = sample(70)
    contents = set()
    for number, borders in enumerate(([], [], [1, 2, 3, 3, 64], list(range(70)))):
        path = tmp_path / f"{number}.h5"
        with create_cutouts(path, StampFormat(), compression, bits) as writer:
            for part, rows in zip(np.split(images, borders), np.split(sources, borders), strict=True):
                writer.append(part, rows)
            assert len(writer) == 70
            writer.attributes["brick"] = "x"
        contents.add(path.read_bytes())
    assert len(contents) == 1


@pytest.mark.skipif(not cutout_file.COMPILED, reason="the package was installed without a C compiler")
@pytest.mark.parametrize("stamps", [StampFormat(), OTHER, StampFormat(("r",), ("image",), 8)])
def test_without_a_compiler_the_stamps_and_their_checksums_are_the_same(
    stamps: StampFormat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, sources = sample(40, stamps)
    images[0], images[1] = 0, np.nan
    images[2:4].view(np.int32)[:] = np.array([-1, 1])[:, None, None, None]  # sums that are multiples of 65535, and small ones
    chunks = []
    for compiled in (True, False):
        monkeypatch.setattr(cutout_file, "COMPILED", compiled)
        path = tmp_path / f"{compiled}.h5"
        write_cutouts(path, images[:, ::-1], sources, {}, stamps)  # stamps that do not lie in one piece
        with open_cutouts(path) as cutouts:
            np.testing.assert_array_equal(cutouts.images(), images[:, ::-1])
            chunks.append([cutouts.file["images"].id.read_direct_chunk((row, 0, 0, 0)) for row in range(40)])
    assert chunks[0] == chunks[1]


def fletcher32(data: bytes) -> bytes:
    """Return the checksum as it is defined, word by word."""
    words = weighted = 0
    for high, low in zip(data[::2], data[1::2], strict=True):
        words += 256 * high + low
        weighted += words
    return b"".join(((total - 1) % 65535 + 1 if total else 0).to_bytes(2, "little") for total in (words, weighted))


@pytest.mark.skipif(not cutout_file.COMPILED, reason="the package was installed without a C compiler")
def test_checksums_of_any_length() -> None:
    rng = np.random.default_rng(2)
    for length in (0, 2, 4, 30, 32, 34, 8190, 8192, 8194, 20_000):
        for data in (rng.bytes(length), b"\xff" * length, b"\0" * length):
            chunk = np.empty(length + 4, np.uint8)
            cutout_file._fletcher.seal(data, chunk)
            assert chunk.tobytes() == data + fletcher32(data)


@pytest.mark.skipif(not cutout_file.COMPILED, reason="the package was installed without a C compiler")
def test_checksums_go_only_where_there_is_room() -> None:
    for data, room in ((b"12", 5), (b"12", 7), (b"123", 7), (b"", 0)):
        with pytest.raises(ValueError, match="seal was given"):
            cutout_file._fletcher.seal(data, np.empty(room, np.uint8))


def test_provenance_may_be_long(tmp_path: Path) -> None:
    inputs = [{"path": f"coadd/{number}", "bytes": number, "datasum": None} for number in range(5000)]
    write_cutouts(tmp_path / "x.h5", *sample(), {"inputs": inputs})
    with open_cutouts(tmp_path / "x.h5") as cutouts:
        assert json.loads(cutouts.attributes["inputs"]) == inputs


def test_a_flipped_bit_is_an_error_not_a_galaxy(path: Path) -> None:
    content = bytearray(path.read_bytes())
    pixels = sample()[0][1].tobytes()
    content[content.index(pixels) + 1000] ^= 1
    path.write_bytes(content)
    with open_cutouts(path) as cutouts, pytest.raises(FormatError, match="'images' cannot be read"):
        cutouts.images()


def test_a_flipped_bit_of_a_compressed_stamp_is_found_too(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    write_cutouts(path, *sample(), {}, compression="bitshuffle")
    with h5py.File(path) as file:
        place = file["images"].id.get_chunk_info(1).byte_offset
    content = bytearray(path.read_bytes())
    content[place + 1000] ^= 1
    path.write_bytes(content)
    with open_cutouts(path) as cutouts, pytest.raises(FormatError, match="'images' cannot be read"):
        cutouts.images()


@pytest.mark.parametrize("length", [0, 500, 100_000])
def test_a_truncated_file_is_refused(path: Path, length: int) -> None:
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(FormatError, match="not a readable HDF5 file"), open_cutouts(path):
        pass


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="no such cutout file; run 'hpc-galaxy extract'"), open_cutouts(tmp_path / "x.h5"):
        pass


# Compression and rounding


def noisy(count: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """Return stamps of pure noise, each band of its own depth."""
    images, sources = sample(count)
    images[..., 3:] = np.random.default_rng(2).uniform(1e3, 1e5, (count, 1, 1, 3))
    images[..., :3] /= np.sqrt(images[..., 3:])
    return images, sources


def test_compression_without_rounding_loses_nothing_and_takes_less(tmp_path: Path) -> None:
    images, sources = noisy()
    for compression in ("none", "bitshuffle"):
        write_cutouts(tmp_path / f"{compression}.h5", images, sources, {}, compression=compression)
        with open_cutouts(tmp_path / f"{compression}.h5") as cutouts:
            np.testing.assert_array_equal(cutouts.images(), images)
            np.testing.assert_array_equal(cutouts.images(np.array([3, 7])), images[[3, 7]])
            assert "rounding_rms_sigma" not in cutouts.attributes
    assert (tmp_path / "bitshuffle.h5").stat().st_size < 0.55 * (tmp_path / "none.h5").stat().st_size


def test_rounding_states_its_error_in_units_of_the_noise(tmp_path: Path) -> None:
    images, sources = noisy()
    images[3, :10, :, 3:] = 0  # no data there: no noise to compare with
    write_cutouts(tmp_path / "x.h5", images, sources, {}, compression="bitshuffle", mantissa_bits=9)
    assert (tmp_path / "x.h5").stat().st_size < 0.3 * images.nbytes
    with open_cutouts(tmp_path / "x.h5") as cutouts:
        rounded, attributes = cutouts.images().astype(np.float64), cutouts.attributes
    assert not (rounded.astype(np.float32).view(np.uint32) & 0x3FFF).any()
    good = images[..., 3:] > 0
    sigmas = (np.abs(rounded - images)[..., :3] * np.sqrt(images[..., 3:]))[good]
    assert attributes["mantissa_bits"] == 9
    assert attributes["rounding_rms_sigma"] == pytest.approx(np.sqrt(np.mean(sigmas**2)), rel=1e-5)
    assert attributes["rounding_max_sigma"] == pytest.approx(sigmas.max(), rel=1e-5)
    assert attributes["rounding_rms_sigma"] == pytest.approx(0.00044, abs=0.00005)  # of noise alone
    relative = np.abs(rounded[..., 3:][good] / images[..., 3:][good] - 1).max()
    assert attributes["rounding_max_relative_invvar"] == pytest.approx(relative, rel=1e-5)
    assert 0 < relative <= 2**-10


def test_rounding_of_images_without_inverse_variance_states_no_sigma(tmp_path: Path) -> None:
    write_cutouts(tmp_path / "x.h5", *sample(3, OTHER), {}, OTHER, mantissa_bits=9)
    with open_cutouts(tmp_path / "x.h5") as cutouts:
        assert [name for name in cutouts.attributes if name.startswith("rounding")] == []
    only = StampFormat(BANDS, ("invvar",), 16)
    images, sources = sample(3, only)
    write_cutouts(tmp_path / "x.h5", np.abs(images), sources, {}, only, mantissa_bits=9)
    with open_cutouts(tmp_path / "x.h5") as cutouts:
        assert [name for name in cutouts.attributes if name.startswith("rounding")] == ["rounding_max_relative_invvar"]


@pytest.mark.parametrize("bits", [1, 9, 22, 23])
def test_rounding_is_to_the_nearest_and_ties_to_even(bits: int) -> None:
    numbers = (np.random.default_rng(3).normal(size=1000) * 10.0 ** np.arange(-20, 20).repeat(25)).astype(np.float32)
    mantissa, exponent = np.frexp(numbers.astype(np.float64))
    expected = np.ldexp(np.round(mantissa * 2 ** (bits + 1)) / 2 ** (bits + 1), exponent)  # numpy rounds ties to even
    np.testing.assert_array_equal(round_mantissas(numbers, bits), expected.astype(np.float32))
    ties = np.array([1 + 2.0 ** -(bits + 1), 1 + 3 * 2.0 ** -(bits + 1)], np.float32)
    if bits < 23:
        np.testing.assert_array_equal(round_mantissas(ties, bits), np.array([1, 1 + 4 * 2.0 ** -(bits + 1)], np.float32))


def test_rounding_keeps_zeros_and_makes_no_infinities() -> None:
    largest, tiny = np.finfo(np.float32).max, np.finfo(np.float32).smallest_subnormal
    numbers = np.array([0.0, -0.0, largest, -largest, np.inf, -np.inf, tiny, np.nan], np.float32)
    rounded = round_mantissas(numbers, 9)
    assert rounded[0] == 0
    assert math.copysign(1, rounded[1]) == -1
    assert np.isfinite(rounded[2:4]).all()
    assert rounded[2] == -rounded[3] == pytest.approx(largest, rel=2**-9)
    assert rounded[4:6].tolist() == [np.inf, -np.inf]
    assert rounded[6] == 0
    assert np.isnan(rounded[7])


def test_without_the_plugin_compressed_files_say_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cutouts(tmp_path / "x.h5", *sample(), {}, compression="bitshuffle")
    write_cutouts(tmp_path / "y.h5", *sample(), {})
    monkeypatch.setitem(sys.modules, "hdf5plugin", None)
    with (
        pytest.raises(InputError, match=r"x\.h5: is compressed with bitshuffle.*; pip install hdf5plugin"),
        open_cutouts(tmp_path / "x.h5"),
    ):
        pass
    with pytest.raises(InputError, match="pip install hdf5plugin"):
        write_cutouts(tmp_path / "z.h5", *sample(), {}, compression="bitshuffle")
    with open_cutouts(tmp_path / "y.h5") as cutouts:
        assert len(cutouts) == 3


# Writing


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    images, sources = sample()
    with pytest.raises(TypeError):
        write_cutouts(tmp_path / "x.h5", images, sources, {"brick": object()})
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(KeyError), create_cutouts(tmp_path / "x.h5", StampFormat()) as writer:
        writer.append(images, sources)
        raise KeyError("something")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_an_error_of_the_output_and_leaves_nothing(tmp_path: Path) -> None:
    images, sources = sample(30)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        with pytest.raises(OutputError, match=r"x\.h5: cannot be written"):
            write_cutouts(tmp_path / "x.h5", images, sources, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert list(tmp_path.iterdir()) == []


def test_stamps_of_another_format_are_not_written(tmp_path: Path) -> None:
    images, sources = sample()
    for wrong in ((images[:2], sources), (images[..., :3], sources), (images.astype("f8"), sources), (images, np.zeros(3, "i4"))):
        with pytest.raises(ValueError, match="expected"):
            write_cutouts(tmp_path / "x.h5", *wrong, {})
    assert list(tmp_path.iterdir()) == []


def test_golden_file_of_version_3_is_still_read() -> None:
    with open_cutouts(GOLDEN / "cutouts_v3.h5") as cutouts:
        images, sources = cutouts.images(), cutouts.sources()
        assert cutouts.attributes["brick"] == "1211p060"
    y, x, channel = np.mgrid[:64, :64, :6]
    np.testing.assert_array_equal(images[0], (x + 100 * y + 10000 * channel).astype(np.float32))
    assert sources.dtype == SOURCE_DTYPE
    assert sources[0]["id"] == b"rs0-1211p060-3"
    assert sources[0]["mag_r"] == np.float32(22.25)
    assert sources[0]["psfdepth_r"] == 400
    assert sources[0]["injected"] == 2**64 - 1


def test_golden_compressed_file_of_version_3_is_still_read() -> None:
    with open_cutouts(GOLDEN / "cutouts_v3_bitshuffle.h5") as cutouts:
        assert cutouts.stamps == StampFormat(("r",), ("image", "invvar"), 16)
        assert cutouts.attributes["mantissa_bits"] == 9
        images = cutouts.images()
    y, x = np.mgrid[:16, :16]
    np.testing.assert_array_equal(images[0, ..., 0], (x + 16 * y).astype(np.float32))
