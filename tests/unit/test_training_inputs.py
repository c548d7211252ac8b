"""What the network sees: units, choice of planes, and moves that leave the physics alone; compiled and with numpy."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sample_shards import FLOAT, make_shards, save_manifest

from hpc_galaxy.config.training import Data
from hpc_galaxy.errors import ConfigError, FormatError
from hpc_galaxy.shards.manifest import Statistics
from hpc_galaxy.shards.numpy_shards import SplitReader, write_shard
from hpc_galaxy.shards.schema import StampFormat
from hpc_galaxy.training.data import augment, inputs
from hpc_galaxy.training.data.augment import Augmentation, move
from hpc_galaxy.training.data.inputs import Inputs, make_inputs

EDGES = [0.0, -0.0, 1e-38, -1e-30, 1e-7, 1e-3, 0.41, -1.0, 2.0, 65.0, 1e4, 9.9e8, -1.1e9, 1e15, -1e30, 3e38]
CHOICES: list[tuple[str, ...]] = [("image", "invvar"), ("image",), ("invvar",), ("snr",), ("snr", "invvar"), ("invvar", "image")]
ALL_TURNS = list(itertools.product((0, 1), range(4)))


def some_inputs(chosen: tuple[str, ...], kind: str = "arcsinh", bands: tuple[str, ...] = ("g", "r", "z"), size: int = 10) -> Inputs:
    rng = np.random.default_rng(len(chosen))
    scale, mean, std = (tuple(rng.uniform(0.5, 2, len(chosen) * len(bands)).tolist()) for _ in range(3))
    return Inputs(bands, ("image", "invvar"), size, chosen, kind, scale, mean, std)


def some_stamps(count: int, size: int, bands: int = 3, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    image = rng.standard_cauchy((count, size, size, bands))
    return np.concatenate([image, rng.uniform(0, 50, image.shape)], axis=3).astype(np.float32)


def seen_by(what: Inputs, stamps: np.ndarray, moves: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    out = np.full((*stamps.shape[:3], len(what.channels)), np.nan, np.float32)
    finite = what.apply(stamps, out, moves)
    return out, finite


def expected_of(what: Inputs, stamps: np.ndarray) -> np.ndarray:
    """The definition, in double precision."""
    bands, pixels = len(what.bands), stamps.astype(np.float64)
    image, invvar = pixels[..., :bands], pixels[..., bands:]
    planes = {"image": image, "invvar": invvar, "snr": image * np.sqrt(np.maximum(invvar, 0))}
    value = np.concatenate([planes[name] for name in what.inputs], axis=3) / np.array(what.scale)
    return ((np.arcsinh(value) if what.kind == "arcsinh" else value) - what.mean) / np.array(what.std)


@pytest.mark.parametrize("chosen", CHOICES)
@pytest.mark.parametrize("kind", ["arcsinh", "standard"])
@pytest.mark.parametrize("bands", [("r",), ("g", "r", "z"), ("g", "r", "i", "z")])
def test_what_the_network_sees_is_as_defined(way: str, chosen: tuple[str, ...], kind: str, bands: tuple[str, ...]) -> None:
    what, stamps = some_inputs(chosen, kind, bands), some_stamps(5, 10, len(bands))
    before = stamps.copy()
    out, finite = seen_by(what, stamps)
    np.testing.assert_allclose(out, expected_of(what, stamps), rtol=2e-6, atol=2e-6)
    assert finite.dtype == bool
    assert finite.tolist() == [True] * 5
    assert what.channels == tuple(f"{name}_{band}" for name in chosen for band in bands)
    np.testing.assert_array_equal(stamps, before)


@pytest.mark.parametrize("chosen", CHOICES)
def test_both_ways_agree(monkeypatch: pytest.MonkeyPatch, chosen: tuple[str, ...]) -> None:
    neutral = (1.0,) * (3 * len(chosen))
    what = Inputs(("g", "r", "z"), ("image", "invvar"), 16, chosen, "arcsinh", neutral, (0.0,) * len(neutral), neutral)
    stamps, rng = some_stamps(40, 16) * np.float32(10), np.random.default_rng(2)
    stamps[:2].flat[: len(EDGES)] = np.abs(EDGES)
    moves = np.stack([rng.integers(0, 2, 40), rng.integers(0, 4, 40), *rng.integers(-4, 5, (2, 40))], axis=1).astype(np.int32)
    compiled = seen_by(what, stamps, moves)
    monkeypatch.setattr(inputs, "COMPILED", False)
    plain = seen_by(what, stamps, moves)
    np.testing.assert_allclose(compiled[0], plain[0], rtol=1e-6, atol=1e-37)
    assert compiled[1].tolist() == plain[1].tolist()


def test_in_place(way: str) -> None:
    what, stamps = some_inputs(("image", "invvar")), some_stamps(4, 10)
    assert what.in_place
    assert not some_inputs(("invvar", "image")).in_place
    expected, _ = seen_by(what, stamps)
    what.apply(stamps, stamps)
    np.testing.assert_array_equal(stamps, expected)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_stamps_with_pixels_that_are_no_numbers_are_told(way: str, bad: float) -> None:
    stamps = some_stamps(6, 10)
    stamps[1, 0, 0, 0], stamps[3, 9, 9, 2], stamps[4, 5, 5, 3] = bad, bad, bad
    for kind in ("arcsinh", "standard"):
        assert (~seen_by(some_inputs(("image", "invvar"), kind), stamps)[1]).nonzero()[0].tolist() == [1, 3, 4]
        assert (~seen_by(some_inputs(("image",), kind), stamps)[1]).nonzero()[0].tolist() == [1, 3]
        # A plane that is not looked at may hold anything.
        assert (~seen_by(some_inputs(("invvar",), kind), stamps)[1]).nonzero()[0].tolist() == [4]


def test_a_negative_inverse_variance_is_told_where_its_root_is_taken(way: str) -> None:
    stamps = some_stamps(3, 10)
    stamps[2, 4, 4, 5] = -1
    assert seen_by(some_inputs(("snr",)), stamps)[1].tolist() == [True, True, False]
    assert seen_by(some_inputs(("image", "invvar")), stamps)[1].all()


def test_nothing_and_many_channels(way: str) -> None:
    what = some_inputs(("image", "invvar"))
    out, finite = seen_by(what, some_stamps(0, 10))
    assert out.shape == (0, 10, 10, 6)
    assert finite.shape == (0,)
    bands = tuple(f"b{number}" for number in range(1500))  # more than the compiled part has room for
    many, stamps = some_inputs(("image",), "standard", bands), some_stamps(1, 10, 1500)
    np.testing.assert_allclose(seen_by(many, stamps)[0], expected_of(many, stamps), rtol=2e-6, atol=2e-6)


def test_arrays_of_another_kind_are_taken_as_they_are_meant(way: str) -> None:
    what, stamps = some_inputs(("snr",)), some_stamps(8, 10)
    expected, _ = seen_by(what, stamps)
    np.testing.assert_array_equal(seen_by(what, stamps.astype(np.float64))[0], expected)
    np.testing.assert_array_equal(seen_by(what, stamps[::2])[0], expected[::2])


def test_json_says_all(way: str) -> None:
    what, stamps = some_inputs(("snr", "invvar")), some_stamps(3, 10)
    again = Inputs.from_json(json.loads(json.dumps(what.to_json())))
    assert again == what
    np.testing.assert_array_equal(seen_by(again, stamps)[0], seen_by(what, stamps)[0])


ARGUMENTS = {
    "stamps": np.ones((2, 4, 4, 2), np.float32),
    "moves": np.zeros((2, 4), np.int32),
    "sources": np.array([[0, -1], [1, -1]], np.int32),
    "factors": np.ones((3, 8), np.float32),
    "out": np.empty((2, 4, 4, 2), np.float32),
    "finite": np.empty(2, np.uint8),
    "size": 4,
    "channels": 2,
    "curved": True,
}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"size": 0}, "an impossible size"),
        ({"size": 2**40}, "an impossible size"),
        ({"channels": 2**62}, "an impossible size"),
        ({"channels": -2}, "an impossible size"),
        ({"sources": np.empty((0, 2), np.int32)}, "an impossible size"),
        ({"stamps": np.ones((2, 4, 4, 1), np.float32)}, "stamps of another shape"),
        ({"channels": 1}, "stamps of another shape"),
        ({"out": np.empty((2, 4, 4, 1), np.float32)}, "room of another shape"),
        ({"finite": np.empty(3, np.uint8)}, "stamps of another shape"),
        ({"factors": np.ones((3, 7), np.float32)}, "factors of another shape"),
        ({"sources": np.zeros(5, np.int32)}, "factors of another shape"),
        ({"moves": np.zeros((1, 4), np.int32)}, "moves of another shape"),
        ({"sources": np.array([[0, -1], [2, -1]], np.int32)}, "a channel that there is not"),
        ({"sources": np.array([[0, -1], [-1, -1]], np.int32)}, "a channel that there is not"),
        ({"sources": np.array([[0, -1], [1, 2]], np.int32)}, "a channel that there is not"),
        ({"sources": np.array([[0, -2], [1, -1]], np.int32)}, "a channel that there is not"),
        ({"out": ARGUMENTS["stamps"]}, "stamps and room that overlap"),
    ],
)
def test_misuse_of_the_compiled_part_is_refused(change: dict[str, Any], problem: str) -> None:
    inputs._inputs.see(*ARGUMENTS.values())
    with pytest.raises(ValueError, match=problem):
        inputs._inputs.see(*(ARGUMENTS | change).values())


# Which inputs a configuration makes of shards.


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> SplitReader:
    directory = tmp_path_factory.mktemp("shards")
    return SplitReader(directory, make_shards(directory, train=60, valid=2, test=2), "train")


def test_the_manifest_s_statistics_are_taken(shards: SplitReader) -> None:
    what = make_inputs(Data(), shards)
    assert (what.bands, what.planes, what.size, what.inputs, what.kind) == (
        ("g", "r", "z"),
        ("image", "invvar"),
        64,
        ("image", "invvar"),
        "arcsinh",
    )
    assert (what.scale, what.mean, what.std) == ((1.0,) * 6, (0.1,) * 3 + (0.88,) * 3, (1.0,) * 6)
    assert make_inputs(Data(inputs=("invvar",)), shards).mean == (0.88,) * 3
    assert what.stamps == shards.stamp_format


def test_signal_to_noise_has_units_of_its_own(shards: SplitReader) -> None:
    statistics = Statistics(scale=[2.0] * 6, mean=[3.0] * 6, std=[4.0] * 6)
    reader = SplitReader(shards.directory, shards.manifest.model_copy(update={"statistics": statistics}), "train")
    what = make_inputs(Data(inputs=("snr", "invvar")), reader)
    assert (what.scale, what.mean, what.std) == ((1.0,) * 3 + (2.0,) * 3, (0.0,) * 3 + (3.0,) * 3, (1.0,) * 3 + (4.0,) * 3)


@pytest.mark.parametrize("chosen", [(), ("snr",), ("image",)])
def test_standard_measures_its_moments(way: str, shards: SplitReader, chosen: tuple[str, ...]) -> None:
    what = make_inputs(Data(inputs=chosen, normalise="standard"), shards)
    assert what.kind == "standard"
    pixels = seen_by(what, shards.stamps(np.arange(60)))[0].reshape(-1, len(what.channels)).astype(np.float64)
    np.testing.assert_allclose(pixels[:, :3].mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(pixels[:, :3].std(axis=0), 1, rtol=1e-5)
    # The inverse variance of these shards is 1 everywhere: no scatter to divide by.
    assert what.std[3:] == (1.0,) * (len(what.channels) - 3)
    assert what == make_inputs(Data(inputs=chosen, normalise="standard"), shards)


def test_standard_does_not_depend_on_the_unit_of_flux(tmp_path: Path) -> None:
    stamps, format_ = some_stamps(20, 8, 1) * np.float32(1e-20), StampFormat(("r",), ("image", "invvar"), 8)
    shard = write_shard(tmp_path, "train", 0, stamps, np.zeros(20, format_.example_dtype))
    what = make_inputs(
        Data(normalise="standard"), SplitReader(tmp_path, save_manifest(tmp_path, {"train": [shard]}, format_, FLOAT), "train")
    )
    np.testing.assert_allclose(seen_by(what, stamps)[0].std(axis=(0, 1, 2)), 1, rtol=1e-4)


def test_standard_takes_a_sample_from_all_over_the_split(shards: SplitReader, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    read = SplitReader.stamps
    monkeypatch.setattr(inputs, "SAMPLE", 7)
    monkeypatch.setattr(SplitReader, "stamps", lambda self, indices: taken.extend(indices.tolist()) or read(self, indices))
    make_inputs(Data(normalise="standard"), shards)
    assert len(taken) == 7
    assert (taken[0], taken[-1]) == (0, 59)
    assert max(np.diff(taken)) - min(np.diff(taken)) <= 1


def test_standard_names_an_example_that_is_no_number(tmp_path: Path) -> None:
    stamps, format_ = some_stamps(20, 8, 1), StampFormat(("r",), ("image", "invvar"), 8)
    stamps[13, 2, 3, 0] = np.nan
    table = np.zeros(20, format_.example_dtype)
    table["id"] = [f"galaxy-{number}" for number in range(20)]
    manifest = save_manifest(tmp_path, {"train": [write_shard(tmp_path, "train", 0, stamps, table)]}, format_, FLOAT)
    with pytest.raises(FormatError, match=r"xtrain_000000.npy, split 'train', example 13 \(id galaxy-13\): has pixels that are not finite"):
        make_inputs(Data(normalise="standard"), SplitReader(tmp_path, manifest, "train"))


@pytest.mark.parametrize("needed", ["snr", "invvar"])
def test_a_plane_that_the_shards_lack_is_named(tmp_path: Path, needed: Any) -> None:
    format_ = StampFormat(("r",), ("image",), 8)
    shard = write_shard(tmp_path, "train", 0, np.ones((4, 8, 8, 1), np.float32), np.zeros(4, format_.example_dtype))
    reader = SplitReader(tmp_path, save_manifest(tmp_path, {"train": [shard]}, format_, FLOAT), "train")
    with pytest.raises(ConfigError, match=f"train.data.inputs: '{needed}' needs the plane 'invvar'; the shards have image"):
        make_inputs(Data(inputs=("image", needed)), reader)
    assert make_inputs(Data(), reader).inputs == ("image",)


# Moves.


def moved(stamps: np.ndarray, *which: int) -> np.ndarray:
    """The raw stamps after one move, through `Inputs.apply` with neutral units."""
    bands = stamps.shape[3] // 2
    ones = (1.0,) * (2 * bands)
    names = tuple(f"b{number}" for number in range(bands))
    what = Inputs(names, ("image", "invvar"), stamps.shape[1], ("image", "invvar"), "standard", ones, (0.0,) * len(ones), ones)
    return seen_by(what, stamps, np.array([which] * len(stamps), np.int32))[0]


@pytest.mark.parametrize("bands", [1, 2, 3, 5])
@pytest.mark.parametrize("size", [1, 2, 7, 8])
def test_the_compiled_moves_are_numpy_s(bands: int, size: int) -> None:
    stamps = some_stamps(2, size, bands)
    for (flip, turns), dx, dy in itertools.product(ALL_TURNS, (-9, -7, -1, 0, 3, 8), (-8, -2, 0, 1, 40)):
        out = np.full_like(stamps, np.nan)
        move(stamps, np.array([(flip, turns, dx, dy)] * 2), out)
        np.testing.assert_array_equal(moved(stamps, flip, turns, dx, dy), out, err_msg=f"{flip} {turns} {dx} {dy}")


def test_mirrors_and_turns_are_the_eight_of_a_square(way: str) -> None:
    stamps = some_stamps(1, 6)
    images = [moved(stamps, flip, turns, 0, 0) for flip, turns in ALL_TURNS]
    assert len({image.tobytes() for image in images}) == 8
    # A group: whatever follows whatever is one of the eight again.
    orbit = {moved(image, flip, turns, 0, 0).tobytes() for image in images for flip, turns in ALL_TURNS}
    assert orbit == {image.tobytes() for image in images}
    for image in images:
        np.testing.assert_array_equal(np.sort(image.reshape(-1, 6), axis=0), np.sort(stamps.reshape(-1, 6), axis=0))


def test_turns_are_about_the_geometric_centre(way: str) -> None:
    for size in (7, 8):
        y, x = np.mgrid[:size, :size] - (size - 1) / 2
        stamps = np.repeat(np.exp(-(x**2 + y**2) / 8)[None, ..., None], 2, axis=3).astype(np.float32)
        for flip, turns in ALL_TURNS:
            np.testing.assert_array_equal(moved(stamps, flip, turns, 0, 0), stamps)


def centroid(image: np.ndarray) -> tuple[float, float]:
    y, x = np.mgrid[: image.shape[0], : image.shape[1]] - (len(image) - 1) / 2
    return float((x * image).sum() / image.sum()), float((y * image).sum() / image.sum())


def test_flux_stays_and_the_centroid_goes_where_it_should(way: str) -> None:
    y, x = np.mgrid[:32, :32] - 15.5
    image = np.exp(-((x - 2.3) ** 2 + (y + 1.1) ** 2) / 6)
    stamps = np.stack([image, np.full_like(image, 4)], axis=2)[None].astype(np.float32)
    x0, y0 = centroid(stamps[0, ..., 0].astype(float))
    # The array's rows are y: a quarter turn of numpy's takes (x, y) to (y, -x).
    quarter = [(x0, y0), (y0, -x0), (-x0, -y0), (-y0, x0)]
    mirrored = [(-x0, y0), (y0, x0), (x0, -y0), (-y0, -x0)]
    for flip, turns in ALL_TURNS:
        for dx, dy in ((0, 0), (3, -2), (-1, 4)):
            out = moved(stamps, flip, turns, dx, dy)[0].astype(float)
            assert out[..., 0].sum() == pytest.approx(stamps[0, ..., 0].sum(), rel=1e-4)
            expected = (mirrored if flip else quarter)[turns]
            assert centroid(out[..., 0]) == pytest.approx((expected[0] + dx, expected[1] + dy), abs=2e-3)
            # What comes in has no data.
            assert (out[..., 1] == 0).sum() == 32 * 32 - (32 - abs(dx)) * (32 - abs(dy))


ALL = Data(augment=("flip", "rotate", "shift"), max_shift=3)


def test_draws_depend_on_the_example_alone() -> None:
    indices = np.random.default_rng(1).permutation(10_000)
    whole = Augmentation(ALL, 7, 2).moves(indices)
    assert whole.dtype == np.int32
    for part in (slice(0, 1), slice(17, 4000), slice(9_990, None)):
        np.testing.assert_array_equal(Augmentation(ALL, 7, 2).moves(indices[part]), whole[part])
    assert Augmentation(ALL, 7, 2).moves(indices[:0]).shape == (0, 4)


@pytest.mark.parametrize("other", [(8, 2), (7, 3), (2, 7)])
def test_seed_and_epoch_decide_the_draws(other: tuple[int, int]) -> None:
    indices = np.arange(10_000)
    same = (Augmentation(ALL, 7, 2).moves(indices) == Augmentation(ALL, *other).moves(indices)).mean(axis=0)
    np.testing.assert_allclose(same, [1 / 2, 1 / 4, 1 / 7, 1 / 7], atol=0.03)


def test_all_choices_are_equally_frequent_and_independent() -> None:
    count = 100_000
    moves = Augmentation(ALL, 1, 1).moves(np.arange(count))
    for column, values in (
        (augment.FLIP, range(2)),
        (augment.TURNS, range(4)),
        (augment.SHIFT_X, range(-3, 4)),
        (augment.SHIFT_Y, range(-3, 4)),
    ):
        found, counts = np.unique(moves[:, column], return_counts=True)
        assert found.tolist() == list(values)
        expected = count / len(values)
        assert np.abs(counts - expected).max() < 5 * np.sqrt(expected)
    off_diagonal = np.corrcoef(moves.T) - np.eye(4)
    assert np.abs(off_diagonal).max() < 5 / np.sqrt(count)
    neighbours = [np.corrcoef(moves[1:, column], moves[:-1, column])[0, 1] for column in range(4)]
    assert np.abs(neighbours).max() < 5 / np.sqrt(count)


@pytest.mark.parametrize(("kind", "columns"), [("flip", [0]), ("rotate", [1]), ("shift", [2, 3])])
def test_only_what_is_asked_for_is_done(kind: Any, columns: list[int]) -> None:
    moves = Augmentation(Data(augment=(kind,)), 1, 1).moves(np.arange(200))
    assert (np.flatnonzero(np.abs(moves).max(axis=0))).tolist() == columns
    assert np.abs(moves).max() == {"flip": 1, "rotate": 3, "shift": 2}[kind]
