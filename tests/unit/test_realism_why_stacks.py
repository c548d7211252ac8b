"""Mean stamps of galaxies of which we know the difference, against plain numpy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import AllHere
from sample_why import SMALL, make_reader

from hpc_galaxy.bricks.geometry import PIXEL_SCALE
from hpc_galaxy.realism.why import stacks as module
from hpc_galaxy.realism.why.stacks import Stack, add_up, largest_by_chance, make_stacks, membership
from hpc_galaxy.shards.numpy_shards import SplitReader
from hpc_galaxy.shards.schema import StampFormat
from hpc_galaxy.world import World


class Recorder(AllHere):
    """A communicator that keeps what is gathered."""

    def __init__(self) -> None:
        self.parts: list[np.ndarray] = []

    def gather(self, value: np.ndarray, root: int) -> list[np.ndarray]:
        self.parts.append(value)
        return [value]


def stacked(reader: SplitReader) -> dict[str, Stack]:
    members = membership(reader.table, reader.labels, reader.stamp_format)
    assert not isinstance(members, str)
    sums = add_up(reader, members, World())
    assert sums is not None
    return {each.part: each for each in make_stacks(sums, members)}


def rows_of(stack: Stack) -> dict[str, dict[str, Any]]:
    return {row["band"]: row for row in stack.rows(SMALL.bands)}


def test_means_and_errors_are_those_of_all_stamps_at_once(tmp_path: Path) -> None:
    reader = make_reader(tmp_path, bricks=7, each=31)
    table, images = reader.table, reader.stamps(np.arange(len(reader)))[..., :3].astype(float)
    bright = table["mag_g"] <= np.median(table["mag_g"])
    found = stacked(reader)
    for part, chosen in {"all": bright | True, "bright half": bright, "faint half": ~bright}.items():
        stack, real, fake = found[part], chosen & (table["label"] == 0), chosen & (table["label"] == 1)
        means = images[real].mean(axis=0), images[fake].mean(axis=0)
        assert stack.counts == (real.sum(), fake.sum()) and stack.groups == 7
        assert stack.means == pytest.approx(np.array(means), abs=1e-12)
        influence = [
            (images[real & here] - means[0]).sum(axis=0) / real.sum() - (images[fake & here] - means[1]).sum(axis=0) / fake.sum()
            for here in (table["brick"] == brick for brick in np.unique(table["brick"]))
        ]
        assert stack.error(stack.influence) == pytest.approx(np.sqrt(7 / 6 * np.sum(np.square(influence), axis=0)), rel=1e-9)


def test_the_sums_have_the_same_bits_at_any_number_of_ranks_and_any_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = make_reader(tmp_path, bricks=5, each=110)  # two shards
    members = membership(reader.table, reader.labels, SMALL)
    assert not isinstance(members, str)
    alone = add_up(reader, members, World())
    monkeypatch.setattr(module, "CHUNK", 7)
    for size in (2, 3, 8):
        comm = Recorder()
        found = [add_up(reader, members, World(rank=rank, size=size, comm=comm)) for rank in range(size)]
        assert [each is None for each in found] == [False] + [True] * (size - 1)
        assert np.array_equal(np.concatenate(comm.parts), alone)


def test_where_nothing_differs_the_significances_are_noise(tmp_path: Path) -> None:
    stacks = stacked(make_reader(tmp_path))
    for stack in stacks.values():
        for row in rows_of(stack).values():
            assert 0.75 < row["chi2_per_pixel"] < 1.35
            assert abs(row["largest_sigma"]) < largest_by_chance(256) + 2.5
            assert abs(row["central_difference"]) < 4 * row["central_error"]


def test_a_difference_is_seen_where_it_is_and_with_its_size(tmp_path: Path) -> None:
    stack = stacked(make_reader(tmp_path, fainter=0.2))["all"]
    rows, offset = rows_of(stack), np.arange(16) - 7.5
    radius = np.hypot(offset, offset[:, None])
    light = (0.2 * np.exp(-(radius**2) / 8))[radius * PIXEL_SCALE <= 1].sum()
    assert (
        rows["g"]["central_difference"] == pytest.approx(light, abs=4 * rows["g"]["central_error"])
        and rows["g"]["central_error"] < 0.1 * light
    )
    assert rows["g"]["largest_sigma"] > 5 and rows["g"]["chi2_per_pixel"] > 2 and rows["r"]["chi2_per_pixel"] < 1.4
    y, x = np.unravel_index(np.argmax(stack.significance[..., 0]), (16, 16))
    assert radius[y, x] < 4
    assert (rows["g"]["reals"], rows["g"]["fakes"], rows["g"]["groups"]) == (240, 240, 12)


def test_more_bricks_than_groups_share_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GROUPS", 6)
    reader = make_reader(tmp_path, bricks=20, each=20)
    stack = stacked(reader)["all"]
    assert stack.groups == 6 and 0.6 < rows_of(stack)["r"]["chi2_per_pixel"] < 1.6


def test_galaxies_without_a_magnitude_are_in_no_half(tmp_path: Path) -> None:
    reader = make_reader(tmp_path, bricks=4, each=20)
    reader.table["mag_g"][:8] = np.nan
    counts = {part: sum(stack.counts) for part, stack in stacked(reader).items()}
    assert counts == {"all": 80, "bright half": 36, "faint half": 36}
    reader.table["mag_g"] = np.nan
    assert list(stacked(reader)) == ["all"]


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda table, labels: (table, labels * 0, SMALL), "one class is missing"),
        (
            lambda table, labels: (table[table["brick"] == table["brick"][0]], labels[table["brick"] == table["brick"][0]], SMALL),
            "one brick",
        ),
        (lambda table, labels: (table, labels, StampFormat(("g", "r", "z"), ("invvar",), 16)), "no images"),
    ],
)
def test_what_is_impossible_says_why(tmp_path: Path, spoil: Any, why: str) -> None:
    reader = make_reader(tmp_path, bricks=3, each=10)
    assert why in str(membership(*spoil(reader.table, reader.labels)))


def test_pixels_without_scatter_are_not_significant_unless_they_differ() -> None:
    stack = Stack("all", (2, 2), 2, np.zeros((2, 1, 1, 1)), np.zeros((2, 1, 1, 1)))
    assert stack.significance.item() == 0
    assert 30 < Stack("all", (2, 2), 2, np.array([1.0, 0.0]).reshape(2, 1, 1, 1), np.zeros((2, 1, 1, 1))).significance.item() < 40


def test_the_largest_by_chance_is_what_random_numbers_have() -> None:
    largest = np.abs(np.random.default_rng(1).normal(size=(400, 1024))).max(axis=1)
    assert largest_by_chance(1024) == pytest.approx(np.median(largest), abs=0.06)
