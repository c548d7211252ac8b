"""The pixel moments: compiled and with numpy, of any number of channels, for numbers of any size."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hpc_galaxy.splits import statistics
from hpc_galaxy.splits.statistics import MOST_CHANNELS, finish, moments

EDGES = [0.0, -0.0, 1e-38, -1e-30, 1e-7, 1e-3, 0.41, 0.42, -1.0, 2.0, 65.0, 1e4, 9.9e8, -1.1e9, 1e15, 2e19, -1e30, 1.7e38, 3.4e38]


@pytest.fixture(params=["compiled", "numpy"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "compiled":
        assert statistics.COMPILED, "the package's C parts were not compiled"
    else:
        monkeypatch.setattr(statistics, "COMPILED", False)
    return str(request.param)


def exact(x: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """The moments of the float32 quotients, everything else in double precision and summed without rounding."""
    values = np.arcsinh((x.reshape(-1, len(scale)) / scale.astype(np.float32)).astype(np.float64)).T
    return np.array([[float(len(row)) for row in values], [math.fsum(row) for row in values], [math.fsum(row**2) for row in values]])


def stamps(channels: int, shape: tuple[int, ...] = (7, 10, 10)) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(channels)
    scale = 10.0 ** rng.uniform(-3, 4, channels)
    return (rng.standard_cauchy((*shape, channels)) * scale).astype(np.float32), scale


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 6, 8, 13, MOST_CHANNELS, MOST_CHANNELS + 3])
def test_any_number_of_channels(way: str, channels: int) -> None:
    x, scale = stamps(channels)
    number, total, squares = moments(x, scale)
    expected = exact(x, scale)
    assert number.tolist() == [700.0] * channels
    np.testing.assert_allclose(total, expected[1], atol=700 * 1e-7)
    np.testing.assert_allclose(squares, expected[2], rtol=1e-7)


@pytest.mark.parametrize("value", EDGES)
def test_each_number_alone_is_right_to_seven_digits(way: str, value: float) -> None:
    for sign in (1, -1):
        _, total, squares = moments(np.full((1, 1, 1, 1), sign * value, np.float32), np.ones(1))
        expected = math.asinh(sign * float(np.float32(value)))
        assert total[0] == pytest.approx(expected, rel=3e-7, abs=1e-45)
        assert squares[0] == pytest.approx(expected**2, rel=6e-7, abs=1e-60)


def test_numbers_between_all_powers_of_two() -> None:
    # One pixel a channel: what comes out are the single values.
    values = np.random.default_rng(3).permutation(np.geomspace(1e-12, 1e12, 60 * 500).astype(np.float32)).reshape(-1, 60)
    for row in values:
        total = moments(row, np.ones(60))[1]
        np.testing.assert_allclose(total, np.arcsinh(row.astype(np.float64)), rtol=3e-7)


@pytest.mark.parametrize("pixels", [0, 1, 15, 16, 17, 31, 33, 400])
def test_any_number_of_pixels(way: str, pixels: int) -> None:
    x, scale = stamps(3, (pixels,))
    np.testing.assert_allclose(moments(x, scale), exact(x, scale), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_pixel_that_is_no_number_shows_in_its_channel_alone(way: str, bad: float) -> None:
    x, scale = stamps(6)
    x[3, 4, 5, 2] = bad
    sums = moments(x, scale)
    assert np.isnan(sums[1:, 2]).all()
    assert np.isfinite(sums[:, [0, 1, 3, 4, 5]]).all()


def test_sums_do_not_drift(way: str) -> None:
    # 10 million equal pixels: single precision would be off in the third digit.
    x = np.full((10_000_000 // 4, 4), 0.1, np.float32)
    number, total, squares = moments(x, np.ones(4))
    value = math.asinh(float(np.float32(0.1)))
    assert total / number == pytest.approx(np.full(4, value), rel=2e-7)
    assert squares / number == pytest.approx(np.full(4, value**2), rel=4e-7)


def test_both_ways_agree_and_make_the_same_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    x, _ = stamps(6, (40, 32, 32))
    scale = np.array([0.01, 0.02, 0.03, 1e4, 2e4, 3e3])
    compiled = finish(scale, [moments(x, scale)])
    monkeypatch.setattr(statistics, "COMPILED", False)
    plain = finish(scale, [moments(x, scale)])
    assert compiled.mean == pytest.approx(plain.mean, rel=1e-6, abs=1e-7)
    assert compiled.std == pytest.approx(plain.std, rel=1e-7)


def test_parts_of_memory_that_are_not_contiguous(way: str) -> None:
    x, scale = stamps(4)
    np.testing.assert_allclose(moments(x[:, ::2, 1:-1], scale), exact(x[:, ::2, 1:-1], scale), rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize(
    ("pixels", "scale", "out", "problem"),
    [
        (7, 2, (3, 2), "pixels of another number of channels"),
        (8, 0, (3, 0), "an impossible number of channels"),
        (65, 65, (3, 65), "an impossible number of channels"),
        (8, 2, (2, 2), "room for another number of channels"),
    ],
)
def test_misuse_is_refused(pixels: int, scale: int, out: tuple[int, int], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        statistics._moments.moments(np.ones(pixels, np.float32), np.ones(scale, np.float32), np.empty(out))
