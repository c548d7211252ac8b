"""The shards of 2018, read as its own scripts read them."""

from __future__ import annotations

from collections.abc import Iterator
from glob import glob
from pathlib import Path

import h5py
import numpy as np
import pytest

from hpc_galaxy.errors import ConfigError
from hpc_galaxy.shards.layout_2018 import create_2018
from hpc_galaxy.shards.obiwan_shards import require_obiwan, write_brick_list, write_obiwan
from hpc_galaxy.shards.schema import DEFAULT, SOURCE_DTYPE, STAMP_SHAPE, StampFormat

BRICK = "1211p060"


def examples(count: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, *STAMP_SHAPE)).astype(np.float32), rng.integers(0, 2, count).astype(np.uint8)


def bricks_of_2018(path: Path) -> list[str]:
    """How its trainer reads a list of bricks; a list of one line is no array."""
    return [str(brick) for brick in np.atleast_1d(np.loadtxt(path, dtype=str))]


def batches_of_2018(root: Path, brick: str, batch: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """How its trainer reads a brick, but for the mistake that it loaded the first file again for every file."""
    files = glob(f"{root}/testtrain/{brick[:3]}/{brick}/xtrain_*.npy")  # noqa: PTH207
    assert files
    for file in sorted(files):
        x, y = np.load(file), np.load(file.replace("xtrain_", "ytrain_"))
        for rows in np.array_split(np.arange(len(x)), len(x) // batch + 1):
            yield x[rows], y[rows].astype(np.int32)


def stack_of_2018(path: Path) -> np.ndarray:
    """How its splitter makes examples of a brick's galaxies."""
    with h5py.File(path) as file:
        keys = sorted(file, key=int)
        return np.array([np.stack([file[f"{key}/img"], file[f"{key}/ivar"]], axis=-1).reshape(64, 64, 6) for key in keys])


def test_examples_are_those_that_2018_would_have_made_of_the_same_galaxies(tmp_path: Path) -> None:
    x, y = examples(7)
    with create_2018(tmp_path / "img_ivar_grz.hdf5") as writer:
        writer.append(x, np.zeros(len(x), SOURCE_DTYPE))
    write_obiwan(tmp_path, "train", BRICK, 1, x, y)
    found = np.load(tmp_path / "testtrain" / "121" / BRICK / "xtrain_1.npy")
    expected = stack_of_2018(tmp_path / "img_ivar_grz.hdf5")
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape) == (np.float32, (7, 64, 64, 6))
    np.testing.assert_array_equal(found, expected)
    row, column = 5, 40
    assert found[3, column, row].tolist() == x[3, row, column, [0, 3, 1, 4, 2, 5]].tolist()


def test_labels_are_of_the_type_that_2018_wrote(tmp_path: Path) -> None:
    x, y = examples(6)
    write_obiwan(tmp_path, "valid", BRICK, 3, x, y)
    labels = np.load(tmp_path / "testtrain" / "121" / BRICK / "yvalid_3.npy")
    assert labels.dtype == np.hstack([np.zeros(2), np.ones(2)]).dtype
    assert labels.tolist() == y.tolist()


@pytest.mark.parametrize("count", [1, 15, 16, 17, 512])
def test_the_trainer_of_2018_sees_every_example_once(tmp_path: Path, count: int) -> None:
    made = {}
    for number, brick in enumerate((BRICK, "0003m015")):
        parts = [examples(count, seed=number * 10 + part) for part in (0, 1)]
        for part, (x, y) in enumerate(parts, 1):
            write_obiwan(tmp_path, "train", brick, part, x, y)
        write_obiwan(tmp_path, "test", brick, 1, *examples(3))
        made[brick] = tuple(np.concatenate(kind) for kind in zip(*parts, strict=True))
    path = write_brick_list(tmp_path, "train", made)
    assert path == tmp_path / "bricks_train.txt"
    assert path.read_text() == f"{BRICK}\n0003m015\n"
    assert bricks_of_2018(path) == list(made)
    for brick in bricks_of_2018(path):
        seen = list(batches_of_2018(tmp_path, brick, 16))
        assert len(seen) == 2 * (count // 16 + 1)
        assert all(x.dtype == np.float32 and 0 < len(x) <= 16 for x, _ in seen)
        x, y = made[brick]
        np.testing.assert_array_equal(np.concatenate([labels for _, labels in seen]), y)
        images = np.concatenate([images for images, _ in seen])
        np.testing.assert_array_equal(images[..., 0::2].transpose(0, 2, 1, 3), x[..., :3])
        np.testing.assert_array_equal(images[..., 1::2].transpose(0, 2, 1, 3), x[..., 3:])


def test_a_list_of_one_brick_and_of_none(tmp_path: Path) -> None:
    assert bricks_of_2018(write_brick_list(tmp_path, "test", [BRICK])) == [BRICK]
    assert write_brick_list(tmp_path, "valid", []).read_text() == ""


@pytest.mark.parametrize(
    ("stamps", "storage", "problem"),
    [
        (StampFormat(("g", "r", "i")), "float32", r"extract\.bands: is \['g', 'r', 'i'\], expected \['g', 'r', 'z'\]"),
        (StampFormat(planes=("image",)), "float32", r"extract\.planes: is \['image'\], expected \['image', 'invvar'\]"),
        (StampFormat(size=32), "float32", r"extract\.size: is 32, expected 64"),
        (DEFAULT, "float16", r"split\.storage: is float16, expected float32"),
    ],
)
def test_what_2018_has_no_place_for_is_refused(stamps: StampFormat, storage: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem + r" in the layout 'obiwan'; .*or set split\.layout = 'shards'"):
        require_obiwan(stamps, storage)
    require_obiwan(DEFAULT)


def test_arrays_of_another_kind_are_refused(tmp_path: Path) -> None:
    x, y = examples(4)
    many = np.zeros((513, *STAMP_SHAPE), np.float32)
    for images, labels, number in (
        (x.astype(np.float16), y, 1),
        (x[:, :32], y, 1),
        (x[:0], y[:0], 1),
        (many, np.zeros(513), 1),
        (x, y[:3], 1),
        (x, y, 0),
    ):
        with pytest.raises(ValueError, match="expected"):
            write_obiwan(tmp_path, "train", BRICK, number, images, labels)
    assert not list(tmp_path.iterdir())
