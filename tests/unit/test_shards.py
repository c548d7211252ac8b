"""Numpy shards and their manifest."""

from __future__ import annotations

import gc
import io
import json
import pickle
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
from sample_shards import FLOAT, SMALL, golden_examples, make_shards, save_manifest, write_golden

from hpc_galaxy.errors import FormatError, InputError, OutputError
from hpc_galaxy.shards import numpy_shards
from hpc_galaxy.shards.check import check
from hpc_galaxy.shards.manifest import SHARD_SIZE, load_manifest
from hpc_galaxy.shards.numpy_shards import SplitReader, open_split, shard_names, write_shard
from hpc_galaxy.shards.schema import DEFAULT, STAMP_SHAPE, StampFormat
from hpc_galaxy.shards.storage import Storage, encode

GOLDEN = Path(__file__).parents[1] / "golden"


def examples(count: int, stamps: StampFormat = SMALL) -> tuple[np.ndarray, np.ndarray]:
    """Return stamps of noise and their table, an id and a group for each."""
    rng = np.random.default_rng(1)
    x, table = rng.normal(size=(count, *stamps.shape)).astype(np.float32), np.zeros(count, stamps.example_dtype)
    table["id"] = table["group"] = np.arange(count)
    table["label"] = rng.integers(0, 2, count)
    return x, table


def write(directory: Path, x: np.ndarray, table: np.ndarray, storage: Storage = FLOAT) -> SplitReader:
    """Write a training split, and open it."""
    starts = range(0, len(x), SHARD_SIZE)
    stored = encode(x, storage.scale, SMALL)[0] if storage.scale else x
    parts = [slice(start, start + SHARD_SIZE) for start in starts]
    shards = [write_shard(directory, "train", number, stored[rows], table[rows]) for number, rows in enumerate(parts)]
    save_manifest(directory, {"train": shards}, SMALL, storage)
    return open_split(directory, "train")


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    make_shards(tmp_path, train=520, valid=0, test=3)
    return tmp_path


def test_names_and_types_are_as_specified(shards: Path) -> None:
    x, y = (np.load(shards / f"{kind}train_000001.npy", allow_pickle=False) for kind in "xy")
    assert (x.shape, x.dtype.str) == ((8, *STAMP_SHAPE), "<f4")
    assert (y.shape, y.dtype.str) == ((8,), "|u1")
    table = np.load(shards / "table_test_000000.npy", allow_pickle=False)
    assert table.dtype == DEFAULT.example_dtype
    assert table.dtype.descr[:-1] == DEFAULT.source_dtype.descr and table.dtype.descr[-1] == ("group", "|S16")
    assert shard_names("train", 1) == {"x": "xtrain_000001.npy", "y": "ytrain_000001.npy", "table": "table_train_000001.npy"}


@pytest.mark.parametrize("storage", [FLOAT, Storage(dtype="<f2", scale=[0.5, 4.0])])
@pytest.mark.parametrize("count", [1, 511, 512, 513, 1024, 1030])
def test_a_split_reads_like_one_array(tmp_path: Path, count: int, storage: Storage) -> None:
    x, table = examples(count)
    reader = write(tmp_path, x, table, storage)
    assert len(reader) == count
    assert [shard.examples for shard in reader.shards] == [512] * (count // 512) + [count % 512] * (count % 512 > 0)
    expected = x if storage.scale is None else (x / storage.scale).astype(np.float16) * np.array(storage.scale, np.float32)
    indices = np.random.default_rng(2).integers(0, count, 100)
    indices[:3] = count - 1, 0, count - 1
    found = reader.stamps(indices)
    assert (found.dtype.str, found.flags.c_contiguous) == ("<f4", True)
    np.testing.assert_array_equal(found, expected[indices])
    np.testing.assert_array_equal(reader.labels, table["label"])
    np.testing.assert_array_equal(reader.table, table)
    np.testing.assert_array_equal(reader.shard_table(len(reader.shards) - 1), table[-len(reader.shard_labels(len(reader.shards) - 1)) :])
    assert reader.stamps(np.arange(0)).shape == (0, *SMALL.shape)


def test_an_empty_split_is_an_empty_array(shards: Path) -> None:
    reader = open_split(shards, "valid")
    assert len(reader) == len(reader.labels) == len(reader.table) == 0
    assert reader.table.dtype == DEFAULT.example_dtype
    with pytest.raises(IndexError, match="of the split 'valid', which has 0"):
        reader.stamps(np.array([0]))


@pytest.mark.parametrize("storage", [FLOAT, Storage(dtype="<f2", scale=[1.0, 1.0])])
def test_a_buffer_is_written_and_returned(tmp_path: Path, storage: Storage) -> None:
    reader = write(tmp_path, *examples(20), storage)
    out = np.full((3, *SMALL.shape), 77, np.float32)
    for indices in (np.array([3, 19, 0]), np.array([5, 5, 5])):
        assert reader.stamps(indices, out) is out
        np.testing.assert_array_equal(out, reader.stamps(indices))
    wrong: list[np.ndarray] = [out[:2], out.astype(np.float64), np.empty((6, *SMALL.shape), np.float32)[::2], out[..., :1]]
    for other in wrong:
        with pytest.raises(ValueError, match=r"expected <f4 \(3, 8, 8, 2\), C-contiguous"):
            reader.stamps(np.array([1, 2, 3]), other)


@pytest.mark.parametrize("index", [-1, 20, 511])
def test_there_is_no_example_beyond_the_ends(tmp_path: Path, index: int) -> None:
    reader = write(tmp_path, *examples(20))
    with pytest.raises(IndexError, match="of the split 'train', which has 20"):
        reader.stamps(np.array([0, index, 1]))


def test_sizes_and_checksums_are_of_the_files_and_the_bytes_are_numpys(tmp_path: Path) -> None:
    x, table = examples(20)
    for array in (x, x.astype(np.float16)):
        shard = write_shard(tmp_path, "test", 7, array, table)
        for name, expected in ((shard.x, array), (shard.y, table["label"].copy()), (shard.table, table)):
            content, saved = (tmp_path / name).read_bytes(), io.BytesIO()
            np.save(saved, expected)
            assert content == saved.getvalue()
            assert (shard.bytes[name], shard.xxh128[name]) == (len(content), xxhash.xxh128_hexdigest(content))
            assert numpy_shards.xxh128(tmp_path / name) == shard.xxh128[name]
    assert (shard.x, shard.examples, len(shard.bytes), len(shard.xxh128)) == ("xtest_000007.npy", 20, 3, 3)
    manifest = save_manifest(tmp_path, {"test": [shard]}, SMALL, Storage(dtype="<f2", scale=[1.0, 1.0]))
    assert manifest.total_bytes == sum(path.stat().st_size for path in tmp_path.glob("*.npy"))
    assert (manifest.total_examples, manifest.examples("test")) == (20, 20)


def test_large_arrays_are_hashed_in_pieces_without_a_copy(tmp_path: Path) -> None:
    x, table = examples(100, DEFAULT)
    assert x.nbytes > 2 * numpy_shards.PIECE
    tracemalloc.start()
    try:
        shard = write_shard(tmp_path, "train", 0, x, table)
        assert tracemalloc.get_traced_memory()[1] < x.nbytes / 20
    finally:
        tracemalloc.stop()
    assert shard.xxh128[shard.x] == xxhash.xxh128_hexdigest((tmp_path / shard.x).read_bytes())
    np.testing.assert_array_equal(np.load(tmp_path / shard.x), x)


def test_what_the_disk_takes_in_parts_is_written_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Reluctant(io.FileIO):
        def write(self, data: Any) -> int:
            return super().write(memoryview(data)[:1000])

    monkeypatch.setattr(numpy_shards, "open", lambda path, *_, **__: Reluctant(path, "w"), raising=False)
    x, table = examples(20)
    shard = write_shard(tmp_path, "train", 0, x, table)
    monkeypatch.undo()
    assert shard.bytes == {name: (tmp_path / name).stat().st_size for name in shard.files}
    np.testing.assert_array_equal(np.load(tmp_path / shard.x), x)


def test_a_full_disk_leaves_no_file_under_its_final_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.FileIO):
        def write(self, data: Any) -> int:
            if memoryview(data).nbytes > 5000:
                raise OSError(28, "No space left on device")
            return super().write(data)

    monkeypatch.setattr(numpy_shards, "open", lambda path, *_, **__: Full(path, "w"), raising=False)
    with pytest.raises(OutputError, match=r"xtrain_000000\.npy: cannot be written \(No space left on device\)"):
        write_shard(tmp_path, "train", 0, *examples(20))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["table_train_000000.npy", "ytrain_000000.npy"]


def test_arrays_that_are_no_shard_are_refused(tmp_path: Path) -> None:
    x, table = examples(20)
    many = np.zeros((SHARD_SIZE + 1, *SMALL.shape), np.float32)
    pairs = [(x[::2], table[::2]), (x.astype(np.float64), table), (x[:0], table[:0]), (many, np.zeros(len(many), table.dtype))]
    for stamps, rows in (*pairs, (x[:4], table), (x, np.zeros(20, SMALL.source_dtype))):
        with pytest.raises(ValueError, match=r"(x|table) is "):
            write_shard(tmp_path, "train", 0, stamps, rows)
    assert not list(tmp_path.iterdir())


def open_maps(directory: Path) -> int:
    return Path("/proc/self/maps").read_text().count(str(directory))


def test_many_shards_are_read_with_few_open_ones_and_none_stays_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numpy_shards, "OPEN_SHARDS", 2)
    x, table = examples(5 * SHARD_SIZE)
    reader = write(tmp_path, x, table)
    assert open_maps(tmp_path) == 0, "a shard was opened before anybody wanted it"
    rng = np.random.default_rng(3)
    for _ in range(3):
        indices = rng.permutation(len(x))[:200]
        np.testing.assert_array_equal(reader.stamps(indices), x[indices])
        assert open_maps(tmp_path) == 2
    gc.disable()  # nothing may have to wait for the collector
    try:
        del reader
        assert open_maps(tmp_path) == 0
    finally:
        gc.enable()


def test_each_shard_is_opened_once_a_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numpy_shards, "OPEN_SHARDS", 1)
    x, table = examples(3 * SHARD_SIZE)
    reader, opened = write(tmp_path, x, table), []
    original = numpy_shards._map_array
    monkeypatch.setattr(numpy_shards, "_map_array", lambda path: opened.append(path.name) or original(path))
    indices = np.arange(len(x)).reshape(3, -1).T.ravel()  # from one shard to the next and back
    np.testing.assert_array_equal(reader.stamps(indices), x[indices])
    assert sorted(opened) == [f"xtrain_00000{number}.npy" for number in range(3)]
    opened.clear()
    reader.stamps(np.array([SHARD_SIZE, SHARD_SIZE + 7]))
    assert opened == ["xtrain_000001.npy"]


def test_threads_may_read_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numpy_shards, "OPEN_SHARDS", 1)
    x, table = examples(4 * SHARD_SIZE)
    reader = write(tmp_path, x, table)
    batches = np.random.default_rng(4).integers(0, len(x), (60, 50))
    with ThreadPoolExecutor(4) as threads:
        for indices, found in zip(batches, threads.map(reader.stamps, batches), strict=True):
            np.testing.assert_array_equal(found, x[indices])


def test_pickles_and_archives_are_never_loaded(shards: Path) -> None:
    path = shards / "ytrain_000000.npy"
    with open(path, "wb") as file:
        np.save(file, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    archive = io.BytesIO()
    np.savez(archive, np.zeros(SHARD_SIZE, np.uint8))
    for content in (path.read_bytes(), pickle.dumps([1]), archive.getvalue(), b"", b"\x93NUMPY"):
        path.write_bytes(content)
        with pytest.raises(FormatError, match=r"ytrain_000000\.npy: not a readable shard"):
            _ = open_split(shards, "train").labels
        (shards / "xtrain_000000.npy").write_bytes(content)
        with pytest.raises(FormatError, match=r"xtrain_000000\.npy: not a readable shard"):
            open_split(shards, "train").stamps(np.array([3]))


def test_a_shard_of_another_kind_is_named(shards: Path) -> None:
    path, indices = shards / "xtest_000000.npy", np.array([0])
    whole = path.read_bytes()
    for array, problem in (
        (np.zeros((2, *STAMP_SHAPE), np.float32), r"has <f4 \(2, 64, 64, 6\), expected <f4 \(3, 64, 64, 6\)"),
        (np.zeros((3, *STAMP_SHAPE), np.float16), r"has <f2 \(3, 64, 64, 6\), expected <f4 \(3, 64, 64, 6\)"),
        (np.zeros((3, *STAMP_SHAPE), np.float32, order="F"), "is in Fortran's order, expected C's"),
    ):
        np.save(path, array)
        with pytest.raises(FormatError, match=problem):
            open_split(shards, "test").stamps(indices)
    path.write_bytes(whole[:-1])
    with pytest.raises(FormatError, match="not a readable shard"):
        open_split(shards, "test").stamps(indices)
    np.save(shards / "table_test_000000.npy", np.zeros(3, DEFAULT.source_dtype))
    with pytest.raises(FormatError, match="table_test_000000"):
        _ = open_split(shards, "test").table


def test_manifest_problems_are_named(shards: Path) -> None:
    path = shards / "manifest.json"
    good = json.loads(path.read_text())
    shard = good["splits"]["train"][0]
    half = {"dtype": "<f2", "scale": [1.0] * 6, "error": {}}
    for change, problem in (
        ({"version": 1}, "'version' is 1, expected 3; run 'hpc-galaxy split --overwrite'"),
        ({"version": 2}, "'version' is 2, expected 3; run 'hpc-galaxy split --overwrite'"),
        ({"channels": ["image_g"]}, r"'channels' is \['image_g'\] and 'stamp_shape' is \[64, 64, 6\]"),
        ({"stamp_shape": [64, 64, -6]}, "'stamp_shape' is"),
        ({"stamp_shape": []}, "'stamp_shape' is"),
        ({"labels": {"real": 1, "fake": 0}}, "'labels' is"),
        ({"statistics": {"scale": [1.0], "mean": [0.0] * 6, "std": [1.0] * 6}}, r"'statistics\.scale' is 1, expected 6"),
        ({"surprise": 1}, "'surprise': Extra inputs are not permitted"),
        ({"provenance": {"real": {}}}, r"'provenance' is \['real'\], expected \['fake', 'real'\]"),
        ({"provenance": {"real": {}, "fake": {"release": 3}}}, r"'provenance\.fake\.release': Input should be a valid list"),
        ({"storage": {"dtype": "<f8"}}, r"'storage\.dtype': Input should be '<f4' or '<f2'"),
        ({"storage": half | {"scale": [1.0]}}, r"'storage\.scale' is 1, expected 6"),
        ({"storage": half | {"scale": None}}, "'storage': .*scale is None, expected one number a channel"),
        ({"storage": half | {"scale": [3.0] * 6}}, r"'storage': .*expected powers of two"),
        ({"storage": half | {"dtype": "<f4"}}, "'storage': .*none with '<f4'"),
        ({"splits": {"train": []}}, r"'splits' is \['train'\]"),
        ({"splits": good["splits"] | {"test": [shard | {"examples": 513}]}}, r"'splits\.test\.0\.examples' is 513, expected 512, and"),
        ({"splits": good["splits"] | {"test": [shard | {"examples": 0}]}}, r"'splits\.test\.0\.examples' is 0, expected 512, and"),
        ({"splits": good["splits"] | {"test": [shard | {"examples": 500}, shard]}}, r"'splits\.test\.0\.examples' is 500"),
        ({"splits": good["splits"] | {"test": [shard | {"bytes": {}}]}}, r"'splits\.test\.0': .*'bytes' has \[\], expected \['table_"),
        ({"splits": good["splits"] | {"test": [shard | {"sha256": {}}]}}, r"'splits\.test\.0\.sha256': Extra inputs"),
    ):
        path.write_text(json.dumps(good | change))
        with pytest.raises(FormatError, match=problem):
            load_manifest(shards)
    for text in ("[]", "3"):
        path.write_text(text)
        with pytest.raises(FormatError, match="'version' is None, expected 3"):
            load_manifest(shards)
    path.write_text("{")
    with pytest.raises(InputError, match="not JSON"):
        load_manifest(shards)
    path.unlink()
    with pytest.raises(InputError, match="no such file; run 'hpc-galaxy split' first"):
        load_manifest(shards)


def test_a_manifest_reads_back_as_it_was_written(shards: Path) -> None:
    manifest = load_manifest(shards)
    before = (shards / "manifest.json").read_bytes()
    manifest.save(shards)
    assert (shards / "manifest.json").read_bytes() == before


def test_golden_shards_are_written_and_read_to_the_byte(tmp_path: Path) -> None:
    write_golden(tmp_path)
    for name, split, stamps in (("shards_v3", "train", DEFAULT), ("shards_v3_float16", "test", SMALL)):
        written = {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}
        assert written == {path.name: path.read_bytes() for path in (GOLDEN / name).iterdir()}
        assert len(written) == 4
        check([GOLDEN / name])
        reader, (x, table) = open_split(GOLDEN / name, split), golden_examples(stamps)
        np.testing.assert_array_equal(reader.table, table)
        assert reader.labels.tolist() == [0, 1]
        found = reader.stamps(np.array([1]))[0]
        np.testing.assert_allclose(found, x[1], rtol=0 if name == "shards_v3" else 2**-11)
    assert float(open_split(GOLDEN / "shards_v3", "train").stamps(np.array([1]))[0, 2, 5, 1]) == np.float32(10205 + 1 / 3)
