"""Pairs along a line, against the plain greedy algorithm."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpc_galaxy.splits.matching import match_nearest

GRID = st.lists(st.integers(-30, 30), max_size=40)


def greedy(real: np.ndarray, fake: np.ndarray, caliper: float) -> list[list[int]]:
    """Take the closest pair again and again."""
    distance = np.abs(real[:, None] - fake[None])
    pairs = []
    while distance.size and distance.min() <= caliper:
        one, other = np.unravel_index(np.argmin(distance), distance.shape)
        pairs.append([int(one), int(other)])
        distance[one], distance[:, other] = np.inf, np.inf
    return sorted(pairs)


@pytest.mark.parametrize("seed", range(30))
def test_pairs_are_those_of_the_greedy_algorithm(seed: int) -> None:
    rng = np.random.default_rng(seed)
    real, fake = rng.normal(size=rng.integers(1, 60)), rng.normal(rng.normal(), rng.uniform(0.2, 2), size=rng.integers(1, 60))
    caliper = rng.uniform(0.01, 1)
    assert match_nearest(real, fake, caliper).tolist() == greedy(real, fake, caliper)


@given(GRID, GRID, st.integers(0, 10))
def test_equal_values(real: list[int], fake: list[int], caliper: int) -> None:
    ours, theirs = np.array(real, float), np.array(fake, float)
    pairs = match_nearest(ours, theirs, caliper)
    assert len(set(pairs[:, 0].tolist())) == len(set(pairs[:, 1].tolist())) == len(pairs), "somebody has two partners"
    assert (np.abs(ours[pairs[:, 0]] - theirs[pairs[:, 1]]) <= caliper).all()
    left, alone = np.delete(ours, pairs[:, 0]), np.delete(theirs, pairs[:, 1])
    assert not (np.abs(left[:, None] - alone[None]) <= caliper).any(), "two that could be a pair were left alone"
    same = sum(min(real.count(value), fake.count(value)) for value in set(real))
    assert (ours[pairs[:, 0]] == theirs[pairs[:, 1]]).sum() == same, "equal values come first"


def test_the_same_every_time_and_in_any_scale() -> None:
    rng = np.random.default_rng(3)
    real, fake = np.round(rng.normal(size=5000), 2), np.round(rng.normal(0.5, 1, 4000), 2)
    pairs = match_nearest(real, fake, 0.1)
    assert (pairs == match_nearest(real, fake, 0.1)).all()
    assert (pairs == match_nearest(8 * real, 8 * fake, 0.8)).all()
    assert (np.diff(pairs[:, 0]) > 0).all()


@pytest.mark.parametrize(("real", "fake"), [([], []), ([1.0], []), ([], [1.0]), ([0.0], [1.0])])
def test_nothing_to_pair(real: list[float], fake: list[float]) -> None:
    assert match_nearest(np.array(real), np.array(fake), 0.5).shape == (0, 2)


def test_many_with_one_value_take_one_round() -> None:
    # As the scores of trees do: a thousand equal ones of each class, and a run of one class beside a run of the other.
    assert len(match_nearest(np.zeros(70_000), np.zeros(50_000), 0.0)) == 50_000
    real, fake = -np.arange(50_000.0), 1 + np.arange(50_000.0)
    pairs = match_nearest(real, fake, 1001.0)
    assert pairs.tolist() == [[number, number] for number in range(501)]
