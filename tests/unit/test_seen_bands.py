"""A choice of bands, and the middle of the stamps taken away: what the network sees then, compiled and with numpy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError
from sample_shards import FLOAT, make_config, make_shards, save_manifest

from hpc_galaxy.bricks.geometry import PIXEL_SCALE as SCALE_OF_COADDS
from hpc_galaxy.config.training import Data
from hpc_galaxy.errors import ConfigError
from hpc_galaxy.shards.manifest import Statistics
from hpc_galaxy.shards.numpy_shards import SplitReader, write_shard
from hpc_galaxy.shards.schema import PIXEL_SCALE, StampFormat
from hpc_galaxy.training.data.augment import move
from hpc_galaxy.training.data.inputs import Inputs, make_inputs
from hpc_galaxy.training.weights import About

SIX = (1.0,) * 6
PLANES = ("image", "invvar")


@pytest.fixture
def shards(tmp_path: Path) -> SplitReader:
    statistics = Statistics(scale=[0.1, 0.2, 0.3, 10, 20, 30], mean=[1, 2, 3, 4, 5, 6], std=[2, 3, 4, 5, 6, 7])
    return SplitReader(tmp_path, make_shards(tmp_path).model_copy(update={"statistics": statistics}), "train")


def some_stamps(count: int, size: int, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.standard_cauchy((count, size, size, 3)), rng.uniform(1, 50, (count, size, size, 3))], axis=3).astype("f4")


def seen_by(what: Inputs, stamps: np.ndarray, moves: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    out = np.full((*stamps.shape[:3], len(what.channels)), np.nan, np.float32)
    return out, what.apply(stamps, out, moves)


def test_the_scale_is_that_of_the_coadds() -> None:
    assert PIXEL_SCALE == SCALE_OF_COADDS


@pytest.mark.parametrize("bands", [("r",), ("z", "g"), ("g", "z"), ("g", "r", "z")])
@pytest.mark.parametrize("chosen", [(), ("image",), ("snr",), ("invvar", "snr")])
def test_chosen_bands_are_those_of_all_bands(way: str, shards: SplitReader, bands: tuple[str, ...], chosen: tuple[str, ...]) -> None:
    whole = make_inputs(Data.model_validate({"inputs": chosen}), shards)
    what = make_inputs(Data.model_validate({"inputs": chosen, "bands": bands}), shards)
    assert what.channels == tuple(f"{name}_{band}" for name in chosen or PLANES for band in bands)
    places = [whole.channels.index(channel) for channel in what.channels]
    assert [what.scale, what.mean, what.std] == [tuple(np.take(v, places).tolist()) for v in (whole.scale, whole.mean, whole.std)]
    stamps, moves = some_stamps(4, 64), np.array([[1, 3, -2, 1]] * 4, np.int32)
    for how in (None, moves):
        np.testing.assert_array_equal(seen_by(what, stamps, how)[0], seen_by(whole, stamps, how)[0][..., places])


def test_only_all_bands_in_their_order_are_in_place(shards: SplitReader) -> None:
    assert [make_inputs(Data(bands=bands), shards).in_place for bands in ((), ("g", "r", "z"), ("r",), ("z", "r", "g"))] == [
        *(True, True),
        *(False, False),
    ]


@pytest.mark.parametrize("bands", [("i",), ("g", "g"), ("g", "i")])
def test_bands_that_are_not_there_once_are_refused(shards: SplitReader, bands: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match=r"train.data.bands: is \['.*'\], expected each once of those that the shards have, g, r, z"):
        make_inputs(Data.model_validate({"bands": bands}), shards)


@pytest.mark.parametrize("chosen", [PLANES, ("snr",), ("invvar", "image")])
@pytest.mark.parametrize("kind", ["arcsinh", "standard"])
@pytest.mark.parametrize("moved", [False, True])
def test_the_middle_is_as_where_there_are_no_data(way: str, chosen: tuple[str, ...], kind: str, moved: bool) -> None:
    rng, size, radius = np.random.default_rng(3), 16, 1.3
    stamps = some_stamps(5, size)
    factors = [tuple(rng.uniform(0.5, 2, 3 * len(chosen)).tolist()) for _ in range(3)]
    plain = Inputs(("g", "r", "z"), PLANES, size, chosen, kind, *factors)
    what = Inputs(("g", "r", "z"), PLANES, size, chosen, kind, *factors, mask_centre=radius)
    moves = np.stack([rng.integers(0, 2, 5), rng.integers(0, 4, 5), rng.integers(-5, 6, 5), rng.integers(-5, 6, 5)], axis=1).astype("i4")
    # The definition: first moved, then without data within the radius, then as any stamp.
    expected = stamps.copy()
    if moved:
        move(stamps, moves, expected)
    y, x = np.mgrid[:size, :size] - 7.5
    hidden = np.hypot(x, y) * 0.262 <= radius
    expected[:, hidden] = 0
    out, finite = seen_by(what, stamps, moves if moved else None)
    np.testing.assert_array_equal(out, seen_by(plain, expected)[0])
    assert finite.all() and 70 < hidden.sum() < 85
    changed = (out != seen_by(plain, stamps, moves if moved else None)[0]).any(axis=(0, 3))
    np.testing.assert_array_equal(changed, hidden)


def test_what_is_masked_need_not_be_a_number(way: str) -> None:
    stamps = some_stamps(3, 16)
    stamps[0, 7, 7, 2], stamps[1, 0, 0, 1] = np.nan, np.inf
    what = Inputs(("g", "r", "z"), PLANES, 16, PLANES, "arcsinh", SIX, (0.0,) * 6, SIX, mask_centre=1.0)
    out, finite = seen_by(what, stamps)
    assert finite.tolist() == [True, False, True]
    assert not out[0, 7, 7].any()


def test_in_place_and_aside_are_the_same(way: str) -> None:
    what = Inputs(("g", "r", "z"), PLANES, 16, PLANES, "arcsinh", SIX, (0.5,) * 6, SIX, mask_centre=1.0)
    stamps = some_stamps(3, 16)
    expected, _ = seen_by(what, stamps)
    what.apply(stamps, stamps)
    np.testing.assert_array_equal(stamps, expected)


@pytest.mark.parametrize("radius", [0.18, 11.68, 100.0])
def test_a_mask_that_is_no_control_is_refused(shards: SplitReader, radius: float) -> None:
    with pytest.raises(ConfigError, match=rf"mask_centre: is {radius:g}, expected 0.185 to less than 11.672 for stamps of 64 pixels"):
        make_inputs(Data(mask_centre=radius), shards)
    assert make_inputs(Data(mask_centre=0.186), shards).masked.sum() == 4
    assert make_inputs(Data(mask_centre=11.67), shards).masked.sum() == 64 * 64 - 4


def test_standard_is_measured_on_what_is_seen(way: str, shards: SplitReader) -> None:
    what = make_inputs(Data(normalise="standard", bands=("z",), inputs=("image",), mask_centre=3.0), shards)
    pixels = seen_by(what, shards.stamps(np.arange(60)))[0].astype(np.float64)
    assert (pixels.mean(), pixels.std()) == pytest.approx((0, 1), abs=2e-2)
    assert what.kind == "standard" and what.scale == (1.0,)


def test_weights_of_before_know_of_neither(tmp_path: Path) -> None:
    what = Inputs(("g", "r", "z"), PLANES, 64, PLANES, "arcsinh", SIX, (0.0,) * 6, SIX, ("g", "r"), 1.5)
    assert Inputs.from_json(json.loads(json.dumps(what.to_json()))) == what
    before = {name: value for name, value in what.to_json().items() if name not in ("seen_bands", "mask_centre")}
    assert (Inputs.from_json(before).seen_bands, Inputs.from_json(before).mask_centre) == ((), 0.0)
    said = {"epoch": 1, "steps": 1, "seed": 1, "metrics": {}, "fingerprint": "", "shards": "", "config": {}, "code_version": ""}
    assert About.model_validate_json(json.dumps({**said, "model": "cnn2018", "inputs": before})).inputs == Inputs.from_json(before)
    for spoilt, complaint in (
        ({"seen_bands": ["i"]}, "bands"),
        ({"seen_bands": ["g", "g"]}, "bands"),
        ({"mask_centre": -1}, "a mask of -1"),
    ):
        with pytest.raises(ValidationError, match=complaint):
            About.model_validate_json(json.dumps({**said, "model": "cnn2018", "inputs": before | spoilt}))


def test_training_and_scores_see_the_same_part(tmp_path: Path) -> None:
    """A network that is trained on one band without the middle scores stamps alike, whatever lies in what it does not see."""
    from hpc_galaxy.training.predict import predict
    from hpc_galaxy.training.train import train
    from hpc_galaxy.world import World

    make_shards(tmp_path / "shards", train=32, valid=32, test=16)
    config = make_config(tmp_path, "train.data.bands=['r']", "train.data.mask_centre=1.0", "train.epochs=1")
    train(config, World(), overwrite=False)
    rng = np.random.default_rng(5)
    stamps, table = some_stamps(6, 64), np.zeros(12, StampFormat().example_dtype)
    table["id"] = [f"{number}" for number in range(12)]
    other = stamps.copy()
    other[:, 31:33, 31:33] = rng.normal(size=(6, 2, 2, 6))
    other[..., [0, 2, 3, 5]] = rng.uniform(1, 2, (6, 64, 64, 4))
    shard = write_shard(tmp_path / "both", "test", 0, np.concatenate([stamps, other]), table)
    save_manifest(tmp_path / "both", {"test": [shard]}, StampFormat(), FLOAT)
    predict(tmp_path / "run", [tmp_path / "both"], tmp_path / "scores.npy", World())
    scores = np.load(tmp_path / "scores.npy")["score"]
    np.testing.assert_array_equal(scores[:6], scores[6:])
    assert len(set(scores.tolist())) > 1
