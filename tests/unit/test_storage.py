"""Pixels as float16: what is stored, what is read, and what it costs."""

from __future__ import annotations

import json

import numpy as np
import pytest
from pydantic import ValidationError

from hpc_galaxy.shards.schema import DEFAULT, StampFormat
from hpc_galaxy.shards.storage import HALF, LARGEST, Storage, StorageError, decode, encode, half_scale

SKY = np.array([0.003, 0.005, 0.012, 1.1e5, 4e4, 7e3], np.float32)  # noise of images, typical inverse variances
SCALE = half_scale(SKY.tolist())


def sky(count: int = 20, seed: int = 1, stamps: StampFormat = DEFAULT) -> np.ndarray:
    """Return stamps of noise in units of a survey, inverse variances that differ by a factor of two, and pixels without data."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, *stamps.shape))
    bands = len(stamps.bands)
    x[..., bands:] = rng.uniform(0.7, 1.4, x[..., bands:].shape)
    x[0, :5] = 0
    return (x * SKY[: len(stamps.channels)]).astype(np.float32)


def test_the_scale_is_the_nearest_power_of_two() -> None:
    assert half_scale([1.0, 1.4, 1.42, 0.7, 0.71, 3e-3, 1e5, 2.0**-30]) == [1.0, 1.0, 2.0, 0.5, 1.0, 2.0**-8, 2.0**17, 2.0**-30]
    for value in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="expected numbers above 0"):
            half_scale([1.0, value])


def test_every_float16_is_read_exactly() -> None:
    stored = np.arange(1 << 16, dtype=np.uint16).view(HALF).reshape(-1, 64, 4)
    scale = [0.25, 1.0, 2.0**17, 2.0**-30]
    out = np.empty(stored.shape, np.float32)
    with np.errstate(invalid="ignore"):
        decode(stored, scale, out)
        np.testing.assert_array_equal(out, stored.astype(np.float64) * scale)


@pytest.mark.parametrize("count", [1, 15, 16, 17, 40])
def test_pixels_are_stored_to_the_nearest_and_read_again(count: int) -> None:
    x = sky(count)
    before = x.copy()
    stored, _ = encode(x, SCALE, DEFAULT)
    assert (stored.dtype, stored.shape) == (HALF, x.shape)
    np.testing.assert_array_equal(x, before, "the caller's stamps were changed")
    np.testing.assert_array_equal(stored, (x.astype(np.float64) / SCALE).astype(HALF))
    out = np.empty_like(x)
    decode(stored, SCALE, out)
    assert np.all(np.abs(out - x) <= np.abs(x) * 2**-11 + np.array(SCALE) * 2**-25)
    assert np.array_equal(out == 0, x == 0)
    again, _ = encode(out, SCALE, DEFAULT)
    np.testing.assert_array_equal(again, stored)


def test_a_buffer_is_written_and_returned() -> None:
    x = sky(18)
    out = np.full(x.shape, 7, HALF)
    assert encode(x, SCALE, DEFAULT, out)[0] is out
    np.testing.assert_array_equal(out, encode(x, SCALE, DEFAULT)[0])


def test_what_is_beyond_float16_is_clipped_and_counted_and_infinities_stay() -> None:
    x = sky(20)
    edge = np.float32(LARGEST) * SCALE[1]
    x[17, 3, 3:8, 1] = [edge, -edge, np.nextafter(edge, np.float32(1e30)), -2 * edge, 1e30]
    x[2, 0, 0, 3:5] = [np.inf, 66000 * SCALE[4]]
    x[2, 0, 1, 0] = np.nan
    below = sky(20, seed=2)
    below[3, 3, 3, 0] = -1e30
    stored, sums = encode(x, SCALE, DEFAULT)
    assert sums["clipped"] == 4
    assert stored[17, 3, 3:8, 1].tolist() == [LARGEST, -LARGEST, LARGEST, -LARGEST, LARGEST]
    assert stored[2, 0, 0, 3:5].tolist() == [np.inf, LARGEST]
    assert np.flatnonzero(np.isnan(stored)).tolist() == [np.ravel_multi_index((2, 0, 1, 0), x.shape)]
    assert encode(sky(20), SCALE, DEFAULT)[1]["clipped"] == 0
    assert encode(below, SCALE, DEFAULT)[1]["clipped"] == 1


def test_the_error_is_that_of_the_pixels_in_units_of_their_noise() -> None:
    x = sky(20)
    x[3, 30:34, 30:34, :3] *= 4000  # a bright galaxy: where rounding costs something
    stored, sums = encode(x, SCALE, DEFAULT)
    error = StorageError(DEFAULT)
    error.add(sums)
    difference = np.abs(stored.astype(np.float64) * SCALE - x)
    invvar = x[..., 3:].astype(np.float64)
    sigma, data = difference[..., :3] * np.sqrt(invvar), invvar > 0
    found = error.attributes()
    assert found["rounding_rms_sigma"] == pytest.approx(np.sqrt((sigma**2).sum() / data.sum()), rel=1e-5)
    assert found["rounding_max_sigma"] == pytest.approx(sigma.max(), rel=1e-5)
    assert found["rounding_max_relative_invvar"] == pytest.approx((difference[..., 3:][data] / invvar[data]).max(), rel=1e-5)
    assert 1e-4 < found["rounding_rms_sigma"] < 0.1 and found["rounding_max_sigma"] > 1
    assert 2**-12 < found["rounding_max_relative_invvar"] <= 2**-11
    assert found["clipped"] == 0


def test_the_error_of_all_shards_is_that_of_all_stamps_whoever_summed_it() -> None:
    x = sky(40)
    x[7, 3, 3, 0] = 1e9
    x[31, 3, 3, 1] = 1e9
    parts = [encode(x[start : start + 10], SCALE, DEFAULT)[1] for start in range(0, 40, 10)]
    whole, pieces, recorded = StorageError(DEFAULT, [encode(x, SCALE, DEFAULT)[1]]), StorageError(DEFAULT), StorageError(DEFAULT)
    for part in parts:
        pieces.add(part)
        recorded.add(json.loads(json.dumps(part)))
    assert pieces.attributes() == recorded.attributes()
    assert pieces.attributes() == pytest.approx(whole.attributes(), rel=1e-12)
    assert pieces.attributes()["clipped"] == 2
    assert StorageError(DEFAULT).attributes() == dict.fromkeys(pieces.attributes(), 0.0)


@pytest.mark.parametrize(("planes", "numbers"), [(("image",), set()), (("invvar",), {"rounding_max_relative_invvar"})])
def test_without_inverse_variances_nothing_is_said_in_sigmas(planes: tuple[str, ...], numbers: set[str]) -> None:
    stamps = StampFormat(("r", "z"), planes, 16)
    x = np.random.default_rng(1).uniform(1, 2, (5, *stamps.shape)).astype(np.float32)
    error = StorageError(stamps, [encode(x, [1.0, 1.0], stamps)[1]])
    assert set(error.attributes()) == numbers | {"clipped"}


def test_a_storage_that_contradicts_itself_is_refused() -> None:
    assert Storage().model_dump() == {"dtype": "<f4", "scale": None, "error": {}}
    assert Storage(dtype="<f2", scale=[0.25, 2.0**17]).scale == [0.25, 2.0**17]
    for scale in ([3.0], [0.0], [-2.0], [float("inf")], [float("nan")], [2.0**-120]):
        with pytest.raises(ValidationError, match="expected powers of two"):
            Storage(dtype="<f2", scale=scale)
    for dtype, several in (("<f2", None), ("<f4", [1.0])):
        with pytest.raises(ValidationError, match="expected one number a channel with '<f2', and none with '<f4'"):
            Storage(dtype=dtype, scale=several)
