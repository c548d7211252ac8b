"""The order of an epoch: complete, of any number of ranks, local, and small in memory."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpc_galaxy.training.data.order import Order, rank_examples, rank_part
from hpc_galaxy.world import World

SIZES = st.lists(st.integers(1, 40), min_size=1, max_size=30)


def global_batches(order: Order, size: int, world_size: int, start: int = 0) -> list[list[int]]:
    """Each global batch of an epoch, as all ranks together hold it."""
    worlds = [World(rank=rank, size=world_size) for rank in range(world_size)]
    stops = [(begin, min(begin + size, len(order))) for begin in range(start, len(order), size)]
    return [np.concatenate([rank_examples(order, *stop, world) for world in worlds]).tolist() for stop in stops]


@settings(deadline=None)
@given(SIZES, st.integers(1, 8), st.integers(1, 200), st.integers(0, 2**40), st.integers(1, 99))
def test_nothing_is_lost_or_repeated(sizes: list[int], window: int, batch: int, seed: int, epoch: int) -> None:
    order = Order(seed, epoch, sizes, window)
    batches = global_batches(order, batch, 3)
    assert len(order) == sum(sizes)
    assert sorted(np.concatenate(batches).tolist()) == list(range(sum(sizes)))
    assert [len(part) for part in batches[:-1]] == [batch] * (len(batches) - 1)


@settings(deadline=None)
@given(SIZES, st.integers(1, 8), st.integers(1, 200), st.sampled_from([2, 3, 7, 64]))
def test_any_number_of_ranks_sees_the_same_batches(sizes: list[int], window: int, batch: int, ranks: int) -> None:
    order = Order(5, 2, sizes, window)
    assert global_batches(order, batch, ranks) == global_batches(order, batch, 1)


@settings(deadline=None)
@given(SIZES, st.integers(1, 8), st.data())
def test_positions_do_not_depend_on_how_they_are_asked_for(sizes: list[int], window: int, data: st.DataObject) -> None:
    whole = Order(5, 2, sizes, window).part(0, sum(sizes))
    start = data.draw(st.integers(0, len(whole)))
    stop = data.draw(st.integers(start, len(whole)))
    part = Order(5, 2, sizes, window).part(start, stop)
    assert part.dtype == np.int64
    assert part.tolist() == whole[start:stop].tolist()


def test_a_thousand_ranks_share_out_a_small_batch() -> None:
    order = Order(1, 1, [512, 512, 100], 2)
    assert global_batches(order, 300, 1000) == global_batches(order, 300, 1)
    assert {rank_part(300, World(rank=rank, size=1000)).stop for rank in range(1000)} == set(range(301))


def test_parts_differ_by_one_at_most() -> None:
    lengths = [len(range(300)[rank_part(300, World(rank=rank, size=7))]) for rank in range(7)]
    assert set(lengths) == {42, 43}
    assert sum(lengths) == 300


def test_the_order_is_this_one() -> None:
    # A run that is continued with another version has to go on in the same order.
    assert Order(1, 1, [3, 2, 4, 1], 2).part(0, 10).tolist() == [2, 6, 0, 5, 8, 7, 1, 4, 9, 3]


def test_seed_and_epoch_decide_it() -> None:
    orders = [Order(seed, epoch, [20] * 5, 2).part(0, 100).tolist() for seed in (1, 2, 2**63) for epoch in (1, 2, 3)]
    assert len({tuple(order) for order in orders}) == 9
    assert orders[0] == Order(1, 1, [20] * 5, 2).part(0, 100).tolist()


def test_shards_and_examples_are_both_shuffled() -> None:
    shards, window = 400, 10
    order = Order(1, 1, [50] * shards, window).part(0, 50 * shards)
    first = order[: 50 * window]
    assert len(np.unique(first // 50)) == window
    assert np.ptp(first // 50) > shards / 3  # from all over the split
    # Within a window neighbours in the order are no neighbours in the shards, and any shard may come first.
    assert np.mean(np.diff(first // 50) == 0) < 0.2
    assert abs(np.corrcoef(np.arange(len(first)), first)[0, 1]) < 0.2
    assert abs(np.corrcoef(np.arange(len(order)), order)[0, 1]) < 0.1


@pytest.mark.parametrize("window", [1, 4, 64])
def test_a_batch_comes_from_two_windows_at_most(window: int) -> None:
    sizes = [512] * 199 + [301]
    order = Order(3, 1, sizes, window)
    for start in range(0, len(order), 301):
        shards = np.unique(order.part(start, min(start + 301, len(order))) // 512)
        assert len(shards) <= 2 * window


def test_a_rank_reads_neighbours() -> None:
    order = Order(3, 1, [512] * 64, 64)
    ranks = [rank_examples(order, 0, 1024, World(rank=rank, size=16)) for rank in range(16)]
    assert all((np.diff(examples) > 0).all() for examples in ranks)
    # 64 shards by 16 ranks: 4 each, and one more at a border, where examples dealt out one by one would come from 40.
    assert max(len(np.unique(examples // 512)) for examples in ranks) <= 6


def test_sixty_million_examples_take_little_memory() -> None:
    sizes = [512] * 117_187 + [256]
    tracemalloc.start()
    try:
        order = Order(1, 1, sizes, 64)
        for start in (0, 30_000_000, 31_234_567, len(order) - 16_384):
            batch = rank_examples(order, start, start + 16_384, World(rank=511, size=512))
            assert len(batch) == 32
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(order) == 60_000_000
    assert peak < 16e6  # all indices would be 480 MB


def test_each_window_is_shuffled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    shuffled, shuffle = [], Order._shuffle
    monkeypatch.setattr(Order, "_shuffle", lambda self, number: shuffled.append(number) or shuffle(self, number))
    order = Order(1, 1, [10] * 12, 3)
    for start in range(0, 120, 7):
        order.part(start, min(start + 7, 120))
    assert shuffled == [0, 1, 2, 3]


def test_nothing() -> None:
    order = Order(1, 1, [], 4)
    assert len(order) == 0
    assert order.part(0, 0).tolist() == []
