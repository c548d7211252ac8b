"""Which of the sample that the score was fitted to have stayed after matching."""

from __future__ import annotations

import numpy as np
import pytest

from hpc_galaxy.splits import pairing
from hpc_galaxy.splits.pairing import stayed_of
from hpc_galaxy.splits.sources import PLACE, codes


def places(count: int, seed: int) -> np.ndarray:
    """Return different places in a random order, shape (count,)."""
    number = np.random.default_rng(seed).permutation(3 * count)[:count]
    found = np.empty(count, PLACE)
    found["file"], found["row"] = number // 7, number % 7
    return found


@pytest.mark.parametrize("block", [1, 10, 1 << 20])
def test_those_that_stayed_are_found_in_blocks_of_any_size(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairing, "BLOCK", block)
    sample, kept = places(100, 1), places(150, 2)
    parts = [kept[:13], kept[:0], kept[13:]]
    expected = np.isin(codes(sample), codes(kept))
    assert 0 < expected.sum() < 100
    np.testing.assert_array_equal(stayed_of(sample, parts), expected)


def test_none_where_nothing_was_kept_or_nothing_asked_for() -> None:
    sample = places(10, 1)
    assert not stayed_of(sample, []).any()
    assert not stayed_of(sample, [sample[:0]]).any()
    assert stayed_of(sample[:0], [sample]).shape == (0,)
    assert stayed_of(sample, [sample]).all()
