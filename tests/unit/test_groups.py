"""Sky groups: sides are hashes of names, tiles cover the sky, and what lies near a border of a tile is known."""

from __future__ import annotations

import numpy as np
import pytest

from hpc_galaxy.bricks.geometry import unit_vectors
from hpc_galaxy.config import Split
from hpc_galaxy.errors import ConfigError, InputError
from hpc_galaxy.shards.schema import SOURCE_DTYPE
from hpc_galaxy.splits.groups import (
    assign,
    chosen_side,
    group_names,
    hash64,
    hash_names,
    near_other_tiles,
    one_side_each,
    overlap_arcsec,
    require_positions,
    sides,
    tile_names,
    tile_of,
)
from hpc_galaxy.splits.guard import Guard, box_around, on_plane

THIRDS = Split(train=0.34, valid=0.33, test=0.33)
TILES = Split(train=0.34, valid=0.33, test=0.33, groups="tile", tile_arcmin=3.0)


def sky(rng: np.random.Generator, count: int, dec: float = 6.0, degrees: float = 0.5) -> np.ndarray:
    """Return sources spread over a patch of the sky that begins at right ascension 0, so that it crosses that border."""
    table = np.zeros(count, SOURCE_DTYPE)
    table["ra"] = (rng.uniform(-0.5, 0.5, count) * degrees / np.cos(np.radians(dec))) % 360
    table["dec"] = np.clip(dec + rng.uniform(-0.5, 0.5, count) * degrees, -90, 90)
    table["id"] = [f"id-{number}" for number in range(count)]
    table["brick"] = b"0000p060"
    return table


def test_hash_is_the_same_everywhere_and_uniform() -> None:
    # The first 16 digits of: printf '1:group:1211p060' | sha256sum
    assert hash64(1, "group:1211p060") == 0x0458B78540A29E00
    assert hash_names(1, "group", np.array([b"1211p060", b""])).tolist() == [0x0458B78540A29E00, hash64(1, "group:")]
    values = hash_names(1, "any", np.array([str(number).encode() for number in range(4000)])) / 2**64
    assert np.histogram(values, 10, (0, 1))[0] == pytest.approx(np.full(10, 400), abs=80)


def test_fractions_of_many_bricks_are_those_asked_for() -> None:
    hashes = hash_names(1, "group", np.array([f"{number:04d}p060" for number in range(5000)], "S8"))
    assert np.bincount(sides(hashes, Split()), minlength=3) / 5000 == pytest.approx([0.8, 0.1, 0.1], abs=0.015)
    assert set(sides(hashes, Split(train=0.7, valid=0.3, test=0.0)).tolist()) == {0, 1}
    assert set(sides(hashes, Split(train=0.0, valid=0.3, test=0.7)).tolist()) == {1, 2}
    assert sides(np.array([2**64 - 1], np.uint64), Split(train=0.7, valid=0.3, test=0.0)) == [1]


@pytest.mark.parametrize("dec", [-89.99, -60.0, 0.0, 33.3, 84.0, 89.999])
def test_tiles_are_small_cells_that_are_nowhere_narrower_than_asked(dec: float) -> None:
    degrees = 0.1
    table = sky(np.random.default_rng(1), 3000, dec)
    row, column = tile_of(table["ra"], table["dec"], degrees)
    names = tile_names(row, column)
    assert all(len(name) < 16 for name in names.tolist())
    points = unit_vectors(table["ra"], table["dec"])
    for name in np.unique(names)[:40]:
        inside = points[names == name]
        across = np.degrees(2 * np.arcsin(np.linalg.norm(inside - inside[0], axis=1).max() / 2))
        assert across < 4 * degrees
    if abs(dec) < 85:
        width = 360 / (np.floor(360 * np.cos(np.radians(np.abs(np.stack([row, row + 1]) * degrees - 90).max(axis=0))) / degrees))
        assert (width * np.cos(np.radians(table["dec"])) >= degrees * 0.999).all()


@pytest.mark.parametrize("dec", [-70.0, 0.0, 6.0, 83.0])
@pytest.mark.parametrize("guard", [0.0, 20.0])
def test_tiles_keep_stamps_of_different_splits_apart(dec: float, guard: float) -> None:
    settings = TILES.model_copy(update={"guard_arcsec": guard})
    table = sky(np.random.default_rng(2), 6000, dec)
    _, side = assign(table, 5, settings)
    near = near_other_tiles(table, side, 5, settings, 64)
    assert 0.05 < near.mean() < 0.75
    points, least = unit_vectors(table["ra"], table["dec"]), np.radians((overlap_arcsec(64) + guard) / 3600)
    for number in range(3):
        here, others = points[(side == number) & ~near], points[(side != number) & ~near]
        assert len(here) and np.arccos(np.clip(here @ others.T, -1, 1)).min() >= least
    # Nothing is dropped for nothing: far inside its tile a source stays, whatever its neighbours.
    centres = np.array(table[:1])
    row, column = tile_of(centres["ra"], centres["dec"], 0.05)
    columns = int(360 * np.cos(np.radians(np.abs(np.stack([row, row + 1]) * 0.05 - 90).max())) / 0.05)
    centres["ra"], centres["dec"] = (column + 0.5) * 360 / columns, (row + 0.5) * 0.05 - 90
    assert not near_other_tiles(centres, assign(centres, 5, settings)[1], 5, settings, 64).any()


def test_positions_decide_alone_whether_a_source_of_a_tile_stays() -> None:
    table = sky(np.random.default_rng(3), 500)
    _, side = assign(table, 1, TILES)
    near = near_other_tiles(table, side, 1, TILES, 64)
    _, first = assign(table[:50], 1, TILES)
    assert (first == side[:50]).all()
    assert (near_other_tiles(table[:50], first, 1, TILES, 64) == near[:50]).all()


def test_tiles_smaller_than_stamps_are_refused() -> None:
    table = sky(np.random.default_rng(4), 3)
    settings = TILES.model_copy(update={"tile_arcmin": 1.5})
    with pytest.raises(ConfigError, match=r"split.tile_arcmin: is 1.5, expected more than 3.17 for stamps of 512 pixels; raise it"):
        near_other_tiles(table, np.zeros(3), 1, settings, 512)


def test_tiles_need_positions() -> None:
    table = sky(np.random.default_rng(4), 3)
    table["dec"][1] = np.nan
    require_positions(table, THIRDS, "file")
    with pytest.raises(InputError, match=r"file: 1 of 3 sources have no position, .*; set split.groups = 'brick'"):
        require_positions(table, TILES, "file")


def test_bricks_are_groups_of_their_own() -> None:
    table = sky(np.random.default_rng(5), 40)
    table["brick"] = [f"{number % 10:04d}p060" for number in range(40)]
    assert (group_names(table, THIRDS) == table["brick"]).all()
    group, side = assign(table, 1, THIRDS)
    assert len(np.unique(group)) == 10
    assert group[0] == hash64(1, "group:0000p060")
    assert all(len(set(side[table["brick"] == brick])) == 1 for brick in np.unique(table["brick"]))


@pytest.mark.parametrize("dec", [-88.0, 0.0, 70.0])
def test_bricks_on_different_sides_are_kept_a_diagonal_apart(dec: float) -> None:
    rng = np.random.default_rng(6)
    least = overlap_arcsec(64)
    west, east = (sky(rng, 800, dec, 0.1) for _ in range(2))
    east["ra"] = (east["ra"] + (0.1 - 0.015) / np.cos(np.radians(dec))) % 360  # they share a strip of 54 arcsec
    boxes = np.concatenate([box_around(west, 0), box_around(east, 2)])
    guard = Guard(boxes, least)
    assert not guard.too_near(west, 0).any()
    near = guard.too_near(east, 2)
    assert 0.2 < near.mean() < 0.3  # (54 + 24) of 360 arcsec
    points = [unit_vectors(part["ra"], part["dec"]) for part in (west, east[~near])]
    assert np.degrees(np.arccos(np.clip(points[0] @ points[1].T, -1, 1))).min() * 3600 >= least
    # What is dropped lies within the strip, the margin, and the boxes' corners.
    flat = on_plane(unit_vectors(east["ra"], east["dec"]), boxes["centre"][0])
    assert (flat[near] <= boxes["high"][0] + np.radians(1.01 * least / 3600)).all()
    assert not Guard(boxes[1:], least).too_near(east, 2).any()
    assert not Guard(np.concatenate([box_around(west, 2), boxes[1:]]), least).too_near(east, 2).any()


def test_sources_without_positions_are_left_alone() -> None:
    table = sky(np.random.default_rng(7), 20)
    other = table.copy()
    other["ra"][:5] = np.nan
    near = Guard(box_around(table, 0), 30.0).too_near(other, 1)
    assert not near[:5].any() and near[5:].all()
    other["ra"] = np.nan
    assert len(box_around(other, 0)) == 0
    assert not Guard(box_around(table, 0), 30.0).too_near(other, 1).any()


def test_repeats_of_an_injected_galaxy_stay_on_one_side() -> None:
    rng = np.random.default_rng(8)
    keys, side = rng.integers(1, 60, 400).astype(np.uint64), rng.choice(3, 400, p=[0.8, 0.1, 0.1])
    goes = one_side_each(keys, side, chosen_side(1, Split()))
    for key in np.unique(keys):
        stays = side[(keys == key) & ~goes]
        assert len(stays) and len(set(stays)) == 1
    alone = np.array([5, 7, 9], np.uint64)
    assert not one_side_each(alone, np.array([0, 1, 2]), chosen_side(1, Split())).any()
    chosen = [chosen_side(1, Split())(key, (0, 1, 2)) for key in range(2000)]
    assert np.bincount(chosen) / 2000 == pytest.approx([0.8, 0.1, 0.1], abs=0.03)
    assert {chosen_side(1, Split())(key, (1, 2)) for key in range(20)} == {1, 2}
