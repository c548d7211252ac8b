"""Numpy shards, their manifest, and the checker of both formats."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from sample_shards import save_manifest

from hpc_galaxy.errors import FormatError, InputError, StageError
from hpc_galaxy.shards.check import check
from hpc_galaxy.shards.manifest import load_manifest
from hpc_galaxy.shards.numpy_shards import load_shard, open_split, write_shard
from hpc_galaxy.shards.schema import SOURCE_DTYPE, STAMP_SHAPE

GOLDEN = Path(__file__).parents[1] / "golden"


def make(directory: Path, train: int = 520, test: int = 3) -> np.ndarray:
    """Write a directory of shards; return the training stamps."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(train + test, *STAMP_SHAPE)).astype(np.float32)
    table = np.zeros(train + test, SOURCE_DTYPE)
    table["id"] = [f"{number}".encode() for number in range(train + test)]
    table["label"] = rng.integers(0, 2, train + test)
    shards = [write_shard(directory, "train", n, x[rows], table[rows]) for n, rows in enumerate((slice(0, 512), slice(512, train)))]
    save_manifest(directory, {"train": shards, "test": [write_shard(directory, "test", 0, x[train:], table[train:])]})
    return x[:train]


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    make(tmp_path)
    return tmp_path


def test_names_and_types_are_as_specified(shards: Path) -> None:
    x, y = (np.load(shards / f"{kind}train_000001.npy", allow_pickle=False) for kind in "xy")
    assert (x.shape, x.dtype.str) == ((8, 64, 64, 6), "<f4")
    assert (y.shape, y.dtype.str) == ((8,), "|u1")
    assert np.load(shards / "table_test_000000.npy", allow_pickle=False).dtype == SOURCE_DTYPE


def test_a_split_reads_like_one_array(tmp_path: Path) -> None:
    x = make(tmp_path)
    reader = open_split(tmp_path, "train")
    assert len(reader) == 520
    indices = np.array([519, 0, 511, 512, 3, 3])
    np.testing.assert_array_equal(reader.stamps(indices), x[indices])
    np.testing.assert_array_equal(reader.labels, reader.table["label"])
    assert len(open_split(tmp_path, "valid")) == len(open_split(tmp_path, "valid").labels) == 0


def test_pickles_are_never_loaded(shards: Path) -> None:
    with open(shards / "ytrain_000000.npy", "wb") as file:
        np.save(file, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(FormatError, match=r"ytrain_000000\.npy: not a readable shard"):
        _ = open_split(shards, "train").labels
    (shards / "ytrain_000000.npy").write_bytes(pickle.dumps([1]))
    with pytest.raises(FormatError, match="not a readable shard"):
        _ = open_split(shards, "train").labels


def test_wrong_shape_is_named(shards: Path) -> None:
    with open(shards / "xtest_000000.npy", "wb") as file:
        np.save(file, np.zeros((2, 64, 64, 6), np.float32))
    with pytest.raises(FormatError, match=r"has <f4 \(2, 64, 64, 6\), expected <f4 \(3, 64, 64, 6\)"):
        open_split(shards, "test").stamps(np.array([0]))


def test_manifest_problems_are_named(shards: Path, tmp_path: Path) -> None:
    path = shards / "manifest.json"
    good = json.loads(path.read_text())
    for change, problem in (
        ({"version": 2}, "'version': Input should be 1"),
        ({"channels": ["image_g"]}, "'channels' is"),
        ({"surprise": 1}, "'surprise': Extra inputs are not permitted"),
    ):
        path.write_text(json.dumps(good | change))
        with pytest.raises(FormatError, match=problem):
            load_manifest(shards)
    path.write_text("{")
    with pytest.raises(InputError, match="not JSON"):
        load_manifest(shards)
    path.unlink()
    with pytest.raises(InputError, match="no such file; run 'hpc-galaxy split' first"):
        load_manifest(shards)


def test_load_shard_finds_only_whole_ones(shards: Path) -> None:
    found = load_shard(shards, "train", 1)
    assert found is not None
    assert found[1] == load_manifest(shards).splits["train"][1]
    (shards / "xtrain_000001.npy").unlink()
    assert load_shard(shards, "train", 1) is None


def test_check_passes_good_files_and_names_every_problem(shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(GOLDEN / "cutouts_v1.h5", shards / "good.h5")
    (shards / ".partial-7-x.h5").write_text("a killed job was here")
    check([shards])
    assert "520 train, 0 valid, 3 test" in capsys.readouterr().out
    (shards / "bad.h5").write_bytes((shards / "good.h5").read_bytes()[:5000])
    content = bytearray((shards / "xtest_000000.npy").read_bytes())
    content[-1] ^= 1
    (shards / "xtest_000000.npy").write_bytes(content)
    with pytest.raises(StageError, match="2 of 3 failed"):
        check([shards])
    out = capsys.readouterr().out
    assert "ok: " in out
    assert "bad.h5: not a readable HDF5 file" in out
    assert "xtest_000000.npy: SHA-256 is" in out
    with pytest.raises(InputError, match=r"no \.h5 file and no manifest\.json here"):
        check([shards / "nowhere"])


def test_check_names_pixels_that_are_no_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from hpc_galaxy.shards.cutout_file import write_cutouts

    images = np.zeros((1, *STAMP_SHAPE), np.float32)
    images[0, 3, 3, 3] = np.nan
    write_cutouts(tmp_path / "x.h5", images, np.zeros(1, SOURCE_DTYPE), {})
    with pytest.raises(StageError):
        check([tmp_path])
    assert "1 pixels that are no numbers" in capsys.readouterr().out


def test_golden_shards_of_version_1_are_still_read(capsys: pytest.CaptureFixture[str]) -> None:
    check([GOLDEN / "shards_v1"])
    reader = open_split(GOLDEN / "shards_v1", "train")
    assert reader.labels.tolist() == [0, 1]
    assert reader.table["id"].tolist() == [b"9010-329231-7", b"rs0-1211p060-3"]
    assert reader.stamps(np.array([1]))[0, 2, 5, 1] == 1 * 10000 + 2 * 100 + 5
