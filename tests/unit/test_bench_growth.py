"""The power law that benchmarks of growth fit: known laws are found, and the interval says how well."""

from __future__ import annotations

import numpy as np
import pytest

from hpc_galaxy.bench.growth import draw_growth, fit_growth

SIZES = [100, 300, 1000, 3000, 10_000, 30_000, 100_000]


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 1.5, 2.0])
def test_finds_a_power_law(exponent):
    found = fit_growth(SIZES, [3e-4 * size**exponent for size in SIZES])
    assert found.exponent == pytest.approx(exponent, abs=0.003)
    assert found.low <= exponent <= found.high
    assert found.high - found.low < 0.05 or exponent == 0


def test_what_is_the_same_at_every_size_hides_no_growth():
    found = fit_growth(SIZES, [5 + 2e-9 * size**2 for size in SIZES])
    assert found.exponent == pytest.approx(2, abs=0.01)
    assert found.fixed == pytest.approx(5, rel=0.01)
    assert found.at(1e7) == pytest.approx(5 + 2e-9 * 1e14, rel=0.05)


def test_sorting_is_within_the_target_and_a_square_is_not():
    sizes = [10_000, 30_000, 100_000, 300_000, 1_000_000]
    assert 1.05 < fit_growth(sizes, [1e-6 * size * np.log2(size) for size in sizes]).exponent < 1.1
    assert fit_growth(SIZES, [1e-3 * size + 1e-7 * size**2 for size in SIZES]).exponent > 1.3


def test_does_not_depend_on_units_or_order():
    rng = np.random.default_rng(3)
    values = np.array(SIZES) ** 1.1 * np.exp(rng.normal(0, 0.1, len(SIZES)))
    one, other = fit_growth(SIZES, values), fit_growth(SIZES[::-1], 1e6 * values[::-1])
    assert one.exponent == other.exponent
    assert (one.low, one.high) == (other.low, other.high)
    assert other.at(1e6) == pytest.approx(1e6 * one.at(1e6))


def test_the_interval_holds_the_truth_in_nineteen_of_twenty_experiments():
    rng = np.random.default_rng(1)
    held, widths = 0, []
    for _ in range(100):
        values = (0.02 + 1e-4 * np.array(SIZES)) * np.exp(rng.normal(0, 0.05, len(SIZES)))
        found = fit_growth(SIZES, values)
        held += found.low <= 1 <= found.high
        widths.append(found.high - found.low)
    assert 88 <= held <= 100
    assert 0.03 < np.median(widths) < 0.3


@pytest.mark.parametrize(
    ("sizes", "values"),
    [
        ([1, 2, 3], [1, 2, 3]),
        ([1, 2, 2, 3], [1, 2, 2, 3]),
        ([1, 2, 3, 4], [1, 2, 0, 4]),
        ([0, 1, 2, 3], [1, 2, 3, 4]),
        ([1, 2, 3, 4], [1, 2, 3]),
    ],
)
def test_refuses_what_cannot_be_fitted(sizes, values):
    with pytest.raises(ValueError, match="expected 4 or more positive ones"):
        fit_growth(sizes, values)


def test_draws_a_picture(tmp_path):
    law = fit_growth(SIZES, [1e-3 * size for size in SIZES])
    draw_growth(
        {"bricks": {"list the work": law, "rank 0 [MB]": law}, "ranks": {"gather": law}},
        {"bricks": 2e5, "ranks": 4096},
        tmp_path / "growth.png",
    )
    assert (tmp_path / "growth.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
