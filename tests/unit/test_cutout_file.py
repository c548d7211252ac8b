"""The cutout file: whole or absent, checked on every read."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from hpc_galaxy.errors import FormatError
from hpc_galaxy.shards.cutout_file import CHANNELS, cutout_path, open_cutouts, write_cutouts
from hpc_galaxy.shards.schema import SOURCE_DTYPE, STAMP_SHAPE

GOLDEN = Path(__file__).parents[1] / "golden" / "cutouts_v1.h5"


def sample(count: int = 3) -> tuple[np.ndarray, np.ndarray]:
    images = np.random.default_rng(1).normal(size=(count, *STAMP_SHAPE)).astype(np.float32)
    sources = np.zeros(count, SOURCE_DTYPE)
    sources["id"] = [f"9999-1-{number}".encode() for number in range(count)]
    return images, sources


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = cutout_path(tmp_path, "real", "1211p060")
    write_cutouts(path, *sample(), {"brick": "1211p060", "cut_flow": {"primary": 2}})
    return path


def test_round_trip(path: Path) -> None:
    images, sources = sample()
    assert path.parts[-3:] == ("real", "121", "1211p060.h5")
    with open_cutouts(path) as cutouts:
        np.testing.assert_array_equal(cutouts.images(), images)
        np.testing.assert_array_equal(cutouts.images(np.array([0, 2])), images[[0, 2]])
        np.testing.assert_array_equal(cutouts.sources(), sources)
        assert list(cutouts.attributes["channels"]) == list(CHANNELS)
        assert cutouts.attributes["cut_flow"] == '{"primary": 2}'


def test_a_brick_without_sources_has_a_file_too(tmp_path: Path) -> None:
    write_cutouts(tmp_path / "empty.h5", *sample(0), {})
    with open_cutouts(tmp_path / "empty.h5") as cutouts:
        assert len(cutouts) == 0
        assert cutouts.images().shape == (0, *STAMP_SHAPE)


def test_the_same_content_makes_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.h5", "b.h5"):
        write_cutouts(tmp_path / name, *sample(), {"brick": "x"})
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_a_flipped_bit_is_an_error_not_a_galaxy(path: Path) -> None:
    content = bytearray(path.read_bytes())
    pixels = sample()[0][1].tobytes()
    content[content.index(pixels) + 1000] ^= 1
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


def test_other_shapes_and_channels_are_refused(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["images"]
        file["images"] = np.zeros((3, 65, 65, 6), np.float32)
    with pytest.raises(FormatError, match=r"'images' shape is \(3, 65, 65, 6\), expected \(3, 64, 64, 6\)"), open_cutouts(path):
        pass
    with h5py.File(path, "r+") as file:
        file.attrs["channels"] = ["image_g", "invvar_g"]
    with pytest.raises(FormatError, match="channels is"), open_cutouts(path):
        pass


def test_external_storage_and_links_are_refused(path: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"x" * 400_000)
    with h5py.File(path, "r+") as file:
        del file["images"]
        file.create_dataset("images", (3, *STAMP_SHAPE), "<f4", external=[(str(secret), 0, h5py.h5f.UNLIMITED)])
    with pytest.raises(FormatError, match="external storage of 'images'"), open_cutouts(path):
        pass
    with h5py.File(path, "r+") as file:
        del file["images"]
        file["images"] = h5py.ExternalLink("other.h5", "images")
    with pytest.raises(FormatError, match="link of 'images'"), open_cutouts(path):
        pass


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    images, sources = sample()
    with pytest.raises(TypeError):
        write_cutouts(tmp_path / "x.h5", images, sources, {"brick": object()})
    assert list(tmp_path.iterdir()) == []


def test_golden_file_of_version_1_is_still_read() -> None:
    with open_cutouts(GOLDEN) as cutouts:
        images, sources = cutouts.images(), cutouts.sources()
    y, x, channel = np.mgrid[:64, :64, :6]
    np.testing.assert_array_equal(images[0], (x + 100 * y + 10000 * channel).astype(np.float32))
    assert sources[0]["id"] == b"9010-329231-7"
    assert sources[0]["mag_r"] == np.float32(22.25)
