"""Which examples a rank sees, and what they look like; no MPI."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import sample_shards
import torch

from hpc_galaxy.errors import FormatError, InputError
from hpc_galaxy.shards.manifest import SHARD_SIZE
from hpc_galaxy.shards.numpy_shards import open_split
from hpc_galaxy.training.dataset import Batch, Dataset, epoch_order, global_batches, rank_part, read_ahead
from hpc_galaxy.world import World

EXAMPLES = SHARD_SIZE + 23  # two shards


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("dataset") / "shards"
    sample_shards.make_shards(directory, train=EXAMPLES, valid=8, test=0)
    return directory


def worlds(size: int) -> list[World]:
    return [World(rank=rank, size=size) for rank in range(size)]


def test_order_is_of_seed_and_epoch_alone() -> None:
    assert np.array_equal(epoch_order(1, 3, 100), epoch_order(1, 3, 100))
    assert not np.array_equal(epoch_order(1, 3, 100), epoch_order(1, 4, 100))
    assert not np.array_equal(epoch_order(1, 3, 100), epoch_order(2, 3, 100))
    assert sorted(epoch_order(1, 3, 100)) == list(range(100))


@pytest.mark.parametrize("examples", [1, 12, 25, 96, 97])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_ranks_share_the_same_global_batches(examples: int, size: int) -> None:
    batches = global_batches(epoch_order(1, 1, examples), 12)
    shared = [[batch[rank_part(len(batch), world)] for world in worlds(size)] for batch in batches]
    for batch, parts in zip(batches, shared, strict=True):
        assert np.array_equal(np.concatenate(parts), batch)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
    everything = np.concatenate([part for parts in shared for part in parts])
    assert sorted(everything) == list(range(examples)), "an example was dropped or repeated"


def test_rank_731_of_1000_may_have_nothing() -> None:
    assert rank_part(100, World(rank=731, size=1000)) == slice(73, 73)
    assert rank_part(32_000, World(rank=731, size=1000)) == slice(731 * 32, 732 * 32)


def test_two_ranks_see_the_images_of_one(shards: Path) -> None:
    dataset = Dataset(open_split(shards, "train"))
    whole = list(dataset.epoch(1, 1, 40, World()))
    halves = [list(dataset.epoch(1, 1, 40, world)) for world in worlds(2)]
    assert len(whole) == len(halves[0]) == len(halves[1]) == -(-EXAMPLES // 40)
    for one, *two in zip(whole, *halves, strict=True):
        assert torch.equal(one.images, torch.cat([batch.images for batch in two]))
        assert torch.equal(one.labels, torch.cat([batch.labels for batch in two]))
        assert {one.examples} == {batch.examples for batch in two} == {len(one.labels)}
    assert len(whole[-1].labels) == EXAMPLES % 40
    assert sum(len(batch.labels) for batch in whole) == EXAMPLES


def test_a_batch_is_normalised_and_channels_last_without_a_copy(shards: Path) -> None:
    reader = open_split(shards, "train")
    indices = np.array([SHARD_SIZE + 3, 0, 7])
    batch = Dataset(reader).load(indices, 3)
    statistics = reader.manifest.statistics
    expected = (np.arcsinh(reader.stamps(indices) / statistics.scale) - statistics.mean) / statistics.std
    assert batch.images.shape == (3, 6, 64, 64) and batch.images.dtype == torch.float32
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert np.allclose(batch.images.permute(0, 2, 3, 1), expected, rtol=1e-5, atol=1e-6)
    assert batch.labels.tolist() == reader.labels[indices].tolist()


def test_a_pixel_that_is_not_finite_is_one_clear_error(tmp_path: Path) -> None:
    sample_shards.make_shards(tmp_path, train=20, valid=8, test=8)
    stamps = np.load(tmp_path / "xtrain_000000.npy", mmap_mode="r+")
    stamps[13, 5, 6, 2] = np.nan
    del stamps
    dataset = Dataset(open_split(tmp_path, "train"))
    with pytest.raises(FormatError, match=r"split 'train', example 13 \(id train-13\): has pixels that are not finite"):
        list(dataset.epoch(1, 1, 8, World()))


def test_splits_that_cannot_be_trained_on(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="split 'test': holds no examples"):
        Dataset(open_split(shards, "test")).check()
    sample_shards.make_shards(tmp_path, train=4, valid=4, test=4)
    labels = np.load(tmp_path / "ytrain_000000.npy", mmap_mode="r+")
    labels[2] = 7
    del labels
    with pytest.raises(FormatError, match="has a label 7, expected 0 or 1"):
        Dataset(open_split(tmp_path, "train")).check()


def test_read_ahead_keeps_order_and_passes_errors_on() -> None:
    assert list(read_ahead(lambda number: number**2, range(5))) == [0, 1, 4, 9, 16]
    assert list(read_ahead(lambda number: number, [])) == []
    with pytest.raises(ZeroDivisionError):
        list(read_ahead(lambda number: 1 / number, [1, 0, 2]))


def test_batch_moves_to_a_device() -> None:
    batch = Batch(torch.zeros(2, 6, 64, 64), torch.zeros(2, dtype=torch.int64), 5)
    assert batch.to(torch.device("cpu")).examples == 5
