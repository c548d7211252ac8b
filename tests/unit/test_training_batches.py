"""Batches: the same for any number of ranks, resumed anywhere, read ahead in memory that is used again."""

from __future__ import annotations

import operator
import threading
import time
from collections.abc import Callable, Generator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from patience import patience
from sample_shards import FLOAT, SMALL, save_manifest

from hpc_galaxy.config.training import Data
from hpc_galaxy.errors import FormatError, InputError
from hpc_galaxy.shards.manifest import SHARD_SIZE
from hpc_galaxy.shards.numpy_shards import SplitReader, write_shard
from hpc_galaxy.training.data.batches import Batch, Dataset, read_ahead
from hpc_galaxy.training.data.inputs import make_inputs
from hpc_galaxy.world import World

EXAMPLES = 3 * SHARD_SIZE + 77
SERIAL = World()


def small_shards(directory: Path, examples: int = EXAMPLES, broken: int | None = None) -> SplitReader:
    """Stamps of 8 x 8 pixels in one band whose first pixel tells which example they are."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(examples, 8, 8, 2)).astype(np.float32)
    x[:, 0, 0, 0] = np.arange(examples)
    x[..., 1] = 1
    if broken is not None:
        x[broken, 3, 4, 1] = np.nan
    table = np.zeros(examples, SMALL.example_dtype)
    table["label"] = rng.integers(0, 2, examples)
    table["id"] = [f"galaxy-{number}" for number in range(examples)]
    starts = range(0, examples, SHARD_SIZE)
    parts = [slice(start, start + SHARD_SIZE) for start in starts]
    shards = [write_shard(directory, "train", number, x[part], table[part]) for number, part in enumerate(parts)]
    return SplitReader(directory, save_manifest(directory, {"train": shards}, SMALL, FLOAT), "train")


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> SplitReader:
    return small_shards(tmp_path_factory.mktemp("shards"))


def dataset(reader: SplitReader, *augment: str, training: bool = True, **settings: Any) -> Dataset:
    data = Data(**{"window": 2, "augment": augment, **settings})
    return Dataset(reader, make_inputs(data, reader), data, training)


def epoch(data: Dataset, batch: int, ranks: int = 1, start: int = 0, **seeds: int) -> list[tuple[list[int], bytes, bytes]]:
    """Each global batch as all ranks hold it: which examples, their pixels and their labels."""
    at = {"seed": 1, "epoch": 1, **seeds}
    found: list[tuple[list[int], bytes, bytes]] = []
    for rank in range(ranks):
        slices = data.epoch(at["seed"], at["epoch"], batch, World(rank=rank, size=ranks), start)
        mine = [(part.indices.tolist(), in_memory(part), part.labels.numpy().tobytes()) for part in slices]
        found = [tuple(map(operator.add, *both)) for both in zip(found, mine, strict=True)] if rank else mine
    return found


def in_memory(batch: Batch) -> bytes:
    return batch.images.permute(0, 2, 3, 1).numpy().tobytes()


@pytest.mark.parametrize("augment", [(), ("flip", "rotate", "shift")])
@pytest.mark.parametrize("ranks", [2, 3, 7, 1000])
def test_any_number_of_ranks_sees_the_same_global_batches(reader: SplitReader, ranks: int, augment: tuple[str, ...]) -> None:
    data, batch = dataset(reader, *augment), 600 if ranks == 1000 else 100
    batches = epoch(data, batch)
    assert epoch(data, batch, ranks) == batches
    assert sorted(index for indices, *_ in batches for index in indices) == list(range(EXAMPLES))


@pytest.mark.parametrize("start", [100, 101, 1_500, EXAMPLES - 1, EXAMPLES])
@pytest.mark.parametrize("ranks", [1, 3])
def test_an_epoch_is_resumed_anywhere(reader: SplitReader, start: int, ranks: int) -> None:
    data = dataset(reader, "flip", "shift")
    if start % 100 == 0:
        assert epoch(data, 100, ranks, start) == epoch(data, 100)[start // 100 :]
    # What was seen before, in batches of whatever size, and what comes now are the epoch.
    before = [index for indices, *_ in islice(epoch(data, 1), start) for index in indices]
    after = [index for indices, *_ in epoch(data, 100, ranks, start) for index in indices]
    assert sorted(before + after) == list(range(EXAMPLES))


def test_what_a_batch_holds(reader: SplitReader) -> None:
    data = dataset(reader)
    batch = next(data.epoch(3, 1, 50, World(rank=1, size=4)))
    assert batch.images.shape == (13, 2, 8, 8)
    assert batch.images.dtype == torch.float32
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert (batch.labels.dtype, batch.indices.dtype, batch.examples) == (torch.int64, np.int64, 50)
    assert batch.labels.tolist() == reader.labels[batch.indices].tolist()
    expected = np.empty((13, 8, 8, 2), np.float32)
    data.inputs.apply(reader.stamps(batch.indices), expected)
    np.testing.assert_array_equal(batch.images.permute(0, 2, 3, 1).numpy(), expected)
    assert batch.images[:, 0, 0, 0].tolist() == pytest.approx(list(np.arcsinh(batch.indices) - 0.1), rel=1e-5)
    moved = batch.to(torch.device("cpu"))
    assert (moved.images.data_ptr(), moved.examples) == (batch.images.data_ptr(), 50)


@pytest.mark.parametrize("chosen", [("invvar", "image"), ("snr",), ("image", "invvar")])
def test_other_inputs(reader: SplitReader, chosen: tuple[str, ...]) -> None:
    data = dataset(reader, inputs=chosen)
    for batch in islice(data.epoch(1, 1, 64, SERIAL), 7):
        expected = np.empty((64, 8, 8, len(chosen)), np.float32)
        data.inputs.apply(reader.stamps(batch.indices), expected)
        assert in_memory(batch) == expected.tobytes()


def test_pieces(reader: SplitReader) -> None:
    batch = next(dataset(reader).epoch(1, 1, 50, SERIAL))
    pieces = list(batch.pieces(20))
    assert [len(piece.labels) for piece in pieces] == [20, 20, 10]
    assert np.concatenate([piece.indices for piece in pieces]).tolist() == batch.indices.tolist()
    assert torch.equal(torch.cat([piece.images for piece in pieces]), batch.images)
    assert torch.equal(torch.cat([piece.labels for piece in pieces]), batch.labels)
    assert {piece.examples for piece in pieces} == {50}
    nothing = next(dataset(reader).epoch(1, 1, 50, World(rank=0, size=1000)))
    assert [piece.images.shape for piece in nothing.pieces(20)] == [(0, 2, 8, 8)]
    assert nothing.examples == 50


def test_only_training_stamps_are_changed(reader: SplitReader) -> None:
    plain = epoch(dataset(reader), 200)
    assert epoch(dataset(reader, "rotate", training=False), 200) == plain  # a dataset that is not to be augmented
    changed = epoch(dataset(reader, "rotate"), 200)
    assert [indices for indices, *_ in changed] == [indices for indices, *_ in plain]
    assert all(one != other for (_, one, _), (_, other, _) in zip(changed, plain, strict=True))


def test_seed_and_epoch_change_order_and_draws(reader: SplitReader) -> None:
    data = dataset(reader, "shift")
    first = epoch(data, EXAMPLES)  # one batch, sorted: its order is the same in all epochs
    assert epoch(data, EXAMPLES) == first
    assert epoch(data, EXAMPLES, epoch=2)[0][0] == first[0][0]
    assert len({epoch(data, EXAMPLES, **at)[0][1] for at in ({}, {"epoch": 2}, {"seed": 2})}) == 3
    assert len({tuple(epoch(data, 100, **at)[0][0]) for at in ({}, {"epoch": 2}, {"seed": 2})}) == 3


@pytest.mark.parametrize("ranks", [1, 2, 5, 40])
def test_blocks_are_the_split_in_its_own_order(reader: SplitReader, ranks: int) -> None:
    data = dataset(reader, "rotate")
    blocks = [batch.indices for rank in range(ranks) for batch in data.blocks(64, World(rank=rank, size=ranks))]
    assert np.concatenate(blocks).tolist() == list(range(EXAMPLES))
    assert [len(block) for block in blocks] == [64] * (EXAMPLES // 64) + [EXAMPLES % 64]
    first = next(data.blocks(64, SERIAL))
    assert first.images[:, 0, 0, 0].tolist() == pytest.approx(list(np.arcsinh(np.arange(64)) - 0.1), rel=1e-5)
    assert first.examples == 64


def test_a_batch_is_valid_until_the_next_one_is_asked_for(reader: SplitReader) -> None:
    data = dataset(reader, prefetch=2)
    pointers, expected = [], epoch(data, 50)
    for batch, (indices, pixels, _) in zip(data.epoch(1, 1, 50, SERIAL), expected, strict=True):
        time.sleep(0.002)  # in which all that may be read ahead is
        assert batch.indices.tolist() == indices
        assert in_memory(batch) == pixels
        pointers.append(batch.images.data_ptr())
    assert len(set(pointers)) == 4  # prefetch + 2, again and again


def test_a_batch_larger_than_the_split_takes_no_more_memory(reader: SplitReader) -> None:
    batches = list(dataset(reader).epoch(1, 1, 10**12, SERIAL))
    assert [batch.examples for batch in batches] == [EXAMPLES]


@pytest.mark.parametrize("augment", [(), ("flip",)])
def test_a_stamp_that_is_no_number_is_named(tmp_path: Path, augment: tuple[str, ...]) -> None:
    data = dataset(small_shards(tmp_path, 700, broken=600), *augment)
    with pytest.raises(
        FormatError, match=r"xtrain_000001.npy, split 'train', example 600 \(id galaxy-600\): has pixels that are not finite"
    ):
        list(data.epoch(1, 1, 50, SERIAL))
    assert len(list(islice(data.blocks(64, SERIAL), 9))) == 9
    with pytest.raises(FormatError, match="example 600"):
        list(data.blocks(64, SERIAL))


@pytest.mark.parametrize("harm", ["missing", "truncated"])
def test_a_damaged_shard_is_named(tmp_path: Path, harm: str) -> None:
    reader = small_shards(tmp_path, 700)
    path = tmp_path / "xtrain_000001.npy"
    path.unlink() if harm == "missing" else path.write_bytes(path.read_bytes()[:5000])
    data = dataset(reader)
    with pytest.raises(FormatError, match=r"xtrain_000001.npy: not a readable shard"):
        list(data.epoch(1, 1, 50, SERIAL))


def test_ids_read_no_other_tables(tmp_path: Path) -> None:
    data = dataset(small_shards(tmp_path, 1500))
    (tmp_path / "table_train_000001.npy").unlink()
    assert data.ids(np.array([1400, 3, 1401, 3])) == ["galaxy-1400", "galaxy-3", "galaxy-1401", "galaxy-3"]
    assert data.ids(np.array([], int)) == []


def test_a_split_that_cannot_be_trained_on_is_refused(tmp_path: Path, reader: SplitReader) -> None:
    dataset(reader).check()
    empty = SplitReader(reader.directory, reader.manifest, "valid")
    with pytest.raises(InputError, match="split 'valid': holds no examples"):
        Dataset(empty, dataset(reader).inputs, Data()).check()
    other = Dataset(reader, dataset(reader, inputs=("image",)).inputs, Data())
    other.check()  # not all planes are needed
    bigger = reader.manifest.model_copy(update={"stamp_shape": [16, 16, 2]})
    with pytest.raises(FormatError, match=r"has stamps \(16, 16, 2\) of image_r, invvar_r, expected \(8, 8, 2\) of image_r, invvar_r"):
        Dataset(SplitReader(reader.directory, bigger, "train"), dataset(reader).inputs, Data()).check()


def test_labels_of_no_class_are_refused(tmp_path: Path) -> None:
    reader = small_shards(tmp_path, 20)
    reader.labels[3] = 255
    with pytest.raises(FormatError, match="has a label 255, expected 0 or 1"):
        dataset(reader).check()


# Reading ahead.


def reading_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("read_ahead")]


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + patience(10)
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_items_are_loaded_ahead_while_one_is_in_use(depth: int) -> None:
    loaded: list[int] = []
    items = read_ahead(lambda item: loaded.append(item) or -item, range(20), depth)
    for number, value in enumerate(items):
        assert value == -number
        wait_until(lambda: len(loaded) == min(number + 1 + depth, 20))  # noqa: B023
        time.sleep(0.002)
        assert len(loaded) == min(number + 1 + depth, 20)  # and not further
    assert loaded == list(range(20))
    assert reading_threads() == []


def test_nothing_is_loaded_before_it_is_asked_for() -> None:
    loaded: list[int] = []
    read_ahead(loaded.append, range(3), 2)
    assert loaded == []
    assert list(read_ahead(loaded.append, [], 2)) == []


def test_an_error_comes_where_its_item_would_have() -> None:
    def load(item: int) -> int:
        if item == 3:
            raise FormatError("shard 3", "is damaged", "make it anew")
        return item

    items, got = read_ahead(load, range(9), 4), []
    with pytest.raises(FormatError, match="shard 3: is damaged"):
        while True:
            got.append(next(items))
    assert got == [0, 1, 2]
    assert reading_threads() == []


@pytest.mark.parametrize("taken", [1, 3])
def test_closed_early_it_ends_its_thread(taken: int) -> None:
    loaded: list[int] = []
    ahead, go_on = threading.Event(), threading.Event()

    def load(item: int) -> int:
        if item > taken:
            ahead.set()
            go_on.wait(patience(10))
        loaded.append(item)
        return item

    items = read_ahead(load, range(1000), 5)
    assert isinstance(items, Generator)
    assert list(islice(items, taken)) == list(range(taken))
    assert len(reading_threads()) == 1 and ahead.wait(patience(10))
    threading.Timer(0.2, go_on.set).start()
    items.close()
    assert reading_threads() == []
    # What it was doing it has ended; the others that were waiting to be loaded it has not begun.
    assert loaded == list(range(taken + 2))
