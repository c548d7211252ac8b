"""Predictions: every kind of file, tables of any names, and in how much memory; no MPI."""

from __future__ import annotations

import csv
import resource
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import sample_shards
import torch

from hpc_galaxy.errors import FormatError, OutputError
from hpc_galaxy.shards.cutout_file import write_cutouts
from hpc_galaxy.shards.layout_2018 import create_2018, path_2018
from hpc_galaxy.shards.manifest import SHARD_SIZE
from hpc_galaxy.shards.numpy_shards import SplitReader, open_split, write_shard
from hpc_galaxy.shards.schema import DEFAULT, StampFormat
from hpc_galaxy.shards.storage import Storage, StorageError, encode
from hpc_galaxy.training.data.inputs import Inputs
from hpc_galaxy.training.model import make_model
from hpc_galaxy.training.predict import predict
from hpc_galaxy.training.score import ROW
from hpc_galaxy.training.weights import About, save_weights
from hpc_galaxy.world import World

HALF_SCALE = [0.25] * 3 + [64.0] * 3


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Untrained weights: their scores tell stamps apart all the same."""
    torch.manual_seed(1)
    six = (1.0,) * 6
    inputs = Inputs(DEFAULT.bands, DEFAULT.planes, DEFAULT.size, DEFAULT.planes, "arcsinh", six, (0.1,) * 6, six)
    rest = {"epoch": 1, "steps": 1, "seed": 1, "metrics": {}, "fingerprint": "", "shards": "", "config": {}, "code_version": ""}
    save_weights(tmp_path / "w.safetensors", make_model("cnn2018", 6, 64).state_dict(), About(model="cnn2018", inputs=inputs, **rest))
    return tmp_path / "w.safetensors"


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """Leave torch with as many threads as it had."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def scores(weights: Path, *paths: Path, split: str | None = None) -> np.ndarray:
    out = weights.with_name("scores.npy")
    predict(weights, paths, out, World(), split)
    return np.load(out, allow_pickle=False)


def test_all_splits_and_shards_in_order_without_their_whole_tables(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sample_shards.make_shards(tmp_path / "shards", train=SHARD_SIZE + 70, valid=1, test=65)
    tables = [open_split(tmp_path / "shards", split).table for split in ("train", "valid", "test")]
    monkeypatch.setattr(SplitReader, "table", property(lambda reader: pytest.fail("the table of 60 million examples is 15 GB")))
    found = scores(weights, tmp_path / "shards")
    for name in ("id", "brick", "label"):
        assert found[name].tolist() == np.concatenate([table[name] for table in tables]).tolist()
    assert len(np.unique(found["score"])) > 600
    only = scores(weights, tmp_path / "shards", split="test")
    assert only.tobytes() == found[-65:].tobytes()


def test_float16_shards_get_the_scores_of_the_pixels_they_hold(weights: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    labels = np.array([0, 1, 1], np.uint8)
    x, table = sample_shards.make_stamps(rng, labels, 2.0), sample_shards.make_table(rng, labels, "test", 2)
    error = StorageError(DEFAULT)
    stored, sums = encode(x, HALF_SCALE, DEFAULT)
    error.add(sums)
    storage = Storage(dtype="<f2", scale=HALF_SCALE, error=error.attributes())
    shard = write_shard(tmp_path / "half", "test", 0, stored, table)
    sample_shards.save_manifest(tmp_path / "half", {"test": [shard]}, storage=storage)
    found = scores(weights, tmp_path / "half")
    decoded = open_split(tmp_path / "half", "test").stamps(np.arange(3))
    assert not np.array_equal(decoded, x)
    write_cutouts(tmp_path / "decoded.h5", decoded, table[list(DEFAULT.source_dtype.names)].astype(DEFAULT.source_dtype), {})
    assert found.tobytes() == scores(weights, tmp_path / "decoded.h5").tobytes()


def test_both_layouts_of_files_get_the_same_scores_wherever_they_lie(weights: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    stamps = sample_shards.make_stamps(rng, np.array([0, 1, 0, 1, 1]), 2.0)
    sources = np.zeros(5, DEFAULT.source_dtype)
    sources["id"], sources["brick"], sources["label"] = [f"rs0-1211p060-{n}" for n in range(5)], b"1211p060", 255
    with create_2018(path_2018(tmp_path / "old", "fake", "1211p060")) as writer:
        writer.append(stamps, sources)
        writer.attributes.update(brick="1211p060", label="fake", cut_flow={})
    write_cutouts(tmp_path / "new" / "b.h5", stamps[2:], sources[2:], {})
    write_cutouts(tmp_path / "new" / "a.h5", stamps[:2], sources[:2], {})
    (tmp_path / "new" / ".partial-1-c.h5").write_bytes(b"what a killed process left")
    new = scores(weights, tmp_path / "new")
    assert new["label"].tolist() == [255] * 5
    old = scores(weights, tmp_path / "old")
    assert new["id"].tolist() == old["id"].tolist() == sources["id"].tolist()
    # Not to the bit: other stamps share the block.
    np.testing.assert_allclose(new["score"], old["score"], rtol=1e-5)
    assert scores(weights, tmp_path / "new" / "b.h5", tmp_path / "new" / "a.h5")["id"].tolist() == sources["id"][[2, 3, 4, 0, 1]].tolist()


def test_bands_in_another_order_are_refused(weights: Path, tmp_path: Path) -> None:
    other = StampFormat(("z", "r", "g"))
    write_cutouts(tmp_path / "zrg.h5", np.ones((1, *other.shape), np.float32), np.zeros(1, other.source_dtype), {}, other)
    with pytest.raises(FormatError, match=r"of image_z, image_r, image_g, .*; the network was trained on .* of image_g, image_r, image_z"):
        predict(weights, [tmp_path / "zrg.h5"], tmp_path / "scores.csv", World())


def test_any_id_can_be_read_back(weights: Path, tmp_path: Path) -> None:
    sources = np.zeros(4, DEFAULT.source_dtype)
    sources["id"] = [b'a,"b"', b"two\nlines", b"\xff", "\u00e9".encode()]
    write_cutouts(tmp_path / "a.h5", np.ones((4, *DEFAULT.shape), np.float32), sources, {})
    predict(weights, [tmp_path / "a.h5"], tmp_path / "scores.csv", World())
    with open(tmp_path / "scores.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == ['a,"b"', "two\nlines", "\ufffd", "\u00e9"]
    found = scores(weights, tmp_path / "a.h5")
    assert found.dtype == ROW and found["id"].tolist() == sources["id"].tolist()
    assert [np.float32(row["score"]) for row in rows] == found["score"].tolist()


@pytest.mark.parametrize("ending", ["csv", "npy"])
def test_a_table_that_does_not_fit_is_not_there(weights: Path, tmp_path: Path, ending: str) -> None:
    sample_shards.make_shards(tmp_path / "shards", train=300, valid=0, test=0)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))  # what is written beyond fails, as on a full disk
    try:
        with pytest.raises(OutputError, match="cannot be written"):
            predict(weights, [tmp_path / "shards"], tmp_path / f"scores.{ending}", World())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.glob("*scores*"))
