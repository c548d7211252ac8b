"""The parts of the audit: neighbours, repeats, errors by group, centroids, bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sample_audit import GAIN, NOISE, STAMPS, make_toy, write_spoilt
from scipy.spatial.distance import cdist

from hpc_galaxy.shards.manifest import load_manifest
from hpc_galaxy.shards.rounding import round_mantissas
from hpc_galaxy.shards.schema import StampFormat
from hpc_galaxy.splits.audit import tables
from hpc_galaxy.splits.audit.audit import find
from hpc_galaxy.splits.audit.examples import Reader, gather_examples, hash_rows
from hpc_galaxy.splits.audit.findings import worst
from hpc_galaxy.splits.audit.grouped import LARGEST_SIGMA, Limits, difference
from hpc_galaxy.splits.audit.measure import (
    FARTHEST,
    FEATURES,
    REGIONS,
    Ruler,
    bits_in_use,
    by_region,
    centroids,
    count_bits,
    invvar_features,
    positions,
)
from hpc_galaxy.splits.audit.noise import MARGIN, beyond_light, photons
from hpc_galaxy.splits.audit.provenance import gate
from hpc_galaxy.splits.audit.tables import in_two_splits, nearest_elsewhere, repeats
from hpc_galaxy.splits.tabular import tabular_auc
from hpc_galaxy.tracing.spans import Stopwatch
from hpc_galaxy.world import World


@pytest.mark.parametrize("block", [7, 1000])
def test_nearest_elsewhere_agrees_with_trying_all_pairs(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(tables, "BLOCK", block)
    rng = np.random.default_rng(1)
    points = rng.standard_normal((300, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    split, reach = rng.integers(0, 3, 300), 0.12
    apart = np.where(split[:, None] == split, np.inf, cdist(points, points)).min(axis=1)
    expected = np.where(apart < reach, apart, np.inf)
    assert 10 < np.isfinite(expected).sum() < 290
    np.testing.assert_allclose(nearest_elsewhere(points, split, reach), expected, rtol=1e-12)


def test_nobody_is_near_in_an_empty_sky() -> None:
    assert len(nearest_elsewhere(np.empty((0, 3)), np.empty(0, int), 0.1)) == 0
    assert len(in_two_splits(np.empty(0, np.uint64), np.empty(0, int))) == 0
    assert len(repeats(np.empty(0, np.uint64))) == 0


@pytest.mark.parametrize("seed", range(5))
def test_repeats_and_two_splits_agree_with_counting(seed: int) -> None:
    rng = np.random.default_rng(seed)
    keys, split = rng.integers(0, 40, 50).astype(np.uint64), rng.integers(0, 3, 50)
    assert repeats(keys).tolist() == [place for place, key in enumerate(keys) if (keys == key).sum() > 1]
    assert in_two_splits(keys, split).tolist() == [place for place, key in enumerate(keys) if len(set(split[keys == key])) > 1]


def test_the_error_knows_that_galaxies_of_a_group_are_alike() -> None:
    """Classes from different groups, 20 of each; what is measured is the group's own. By simulation."""
    rng = np.random.default_rng(3)
    groups = np.repeat(np.arange(40), 25)
    labels = (groups >= 20).astype(int)
    trials = [difference(rng.standard_normal(40)[groups] + rng.standard_normal(1000), labels, groups) for _ in range(1000)]
    expected = np.sqrt(2 / 20 * (1 + 1 / 25))
    assert np.std([trial.value for trial in trials]) == pytest.approx(expected, rel=0.1)
    assert np.mean([trial.error for trial in trials]) == pytest.approx(expected, rel=0.05)
    assert np.mean([trial.sigma > 1.96 for trial in trials]) == pytest.approx(0.05, abs=0.02)
    independent = difference(rng.standard_normal(40)[groups], labels, np.arange(1000))
    assert independent.error < expected / 3


def test_few_groups_need_more_to_be_sure() -> None:
    labels, values = np.arange(60) % 2, np.arange(60) % 2 + np.random.default_rng(1).standard_normal(60)
    many, few = (difference(values, labels, np.arange(60) % number) for number in (60, 6))
    assert many.value == few.value
    assert many.error == pytest.approx(few.error, rel=0.1)
    assert many.sigma > few.sigma > 0


def test_a_difference_without_scatter_is_certain_and_none_is_none() -> None:
    labels, groups = np.arange(20) % 2, np.arange(20)
    assert difference(labels.astype(float), labels, groups).sigma == LARGEST_SIGMA
    same = difference(np.ones(20), labels, groups)
    assert (same.value, same.sigma) == (0.0, 0.0)
    missing = difference(np.ones(20), np.zeros(20, int), groups)
    assert missing.numbers()["fake"] is None and not missing.exceeds(0, 0)


@pytest.mark.parametrize(
    ("value", "scatter", "result"), [(0.06, 0.001, "fail"), (0.06, 0.3, "pass"), (0.03, 0.001, "warn"), (0.01, 1e-6, "pass")]
)
def test_limits_ask_for_significance_and_size(value: float, scatter: float, result: str) -> None:
    labels, groups = np.arange(400) % 2, np.arange(400)
    noise = np.where(np.arange(400) % 4 < 2, scatter, -scatter)
    assert Limits(warn=(3.0, 0.02), fail=(4.0, 0.05)).judge(difference(value * labels + noise, labels, groups)) == result


def test_worst() -> None:
    assert [worst(["pass", "fail", "warn"]), worst(["warn", "pass"]), worst([])] == ["fail", "warn", "pass"]


def galaxies(x: np.ndarray, y: np.ndarray, sigma: float = 2.0) -> np.ndarray:
    along = [np.exp(-((np.arange(32) - place[:, None]) ** 2) / (2 * sigma**2)) for place in (x, y)]
    return (along[1][:, :, None] * along[0][:, None, :])[..., None] * np.array([1.0, 2.0, 1.0])


def test_centroids_recover_where_the_light_is() -> None:
    rng = np.random.default_rng(2)
    position, offset = rng.uniform(15, 16, (50, 2)), rng.uniform(-1, 1, (50, 2))
    x, y, snr = centroids(galaxies(*(position + offset).T), position, NOISE)
    np.testing.assert_allclose(np.stack([x, y], axis=-1), offset, atol=0.02)
    assert snr.min() > 100
    far, _, _ = centroids(galaxies(position[:, 0] + 5, position[:, 1]), position, NOISE)
    np.testing.assert_allclose(far, FARTHEST)


def test_the_signal_to_noise_ratio_is_that_of_the_window() -> None:
    noise = np.random.default_rng(5).standard_normal((4000, 32, 32, 3)) * NOISE
    snr = centroids(noise, np.full((4000, 2), 15.7), NOISE)[2]
    assert snr.mean() == pytest.approx(0, abs=0.06)
    assert snr.std() == pytest.approx(1, rel=0.05)


def test_positions_follow_the_convention_of_the_cutouts() -> None:
    table = np.zeros(4, STAMPS.example_dtype)
    table["bx"], table["by"] = [100.0, 100.25, 99.75, np.nan], 50.5
    found = positions(table, 64)
    np.testing.assert_allclose(found[:, 0], [32.0, 31.25, 31.75, 31.5])
    assert found[:3].min() > 31 and found[:3].max() <= 32


@pytest.mark.parametrize("bits", [1, 9, 22, 23])
def test_bits_are_counted(bits: int) -> None:
    pixels = np.random.default_rng(1).standard_normal((3, 32, 32, 6)).astype(np.float32)
    assert count_bits(bits_in_use(round_mantissas(pixels, bits))).tolist() == [[bits] * 6] * 3
    assert count_bits(bits_in_use(np.zeros((1, 32, 32, 6), np.float32))).tolist() == [[-1] * 6]


def test_features_of_flat_noise_maps_are_those_of_flat_maps() -> None:
    flat = np.full((2, 32, 32, 3), 4.0, np.float32)
    flat[1, :, :16] = 0
    features = invvar_features(flat).reshape(2, 3, -1)
    np.testing.assert_allclose(features[0, 0], [np.log10(4), *[1] * 8, 0, 0, 0], atol=1e-6)
    assert features[1, 0, -1] == 0.5
    assert np.isnan(features[1, 0, -2]) or features[1, 0, -2] == 0


def test_regions_average_over_pixels_with_data() -> None:
    image, invvar = np.full((1, 32, 32, 3), 2.0, np.float32), np.full((1, 32, 32, 3), 4.0, np.float32)
    invvar[0, :16], image[0, :16] = 0, 77
    variance, light = by_region(image, invvar)
    assert variance.shape == light.shape == (1, 3, REGIONS)
    rings, squares = variance[0, 0, :4], variance[0, 0, 4:].reshape(3, 3)
    np.testing.assert_allclose(rings, 0.25)
    assert np.isnan(squares[0]).all() and (squares[1:] == 0.25).all()
    np.testing.assert_allclose(light[np.isfinite(variance)], 2.0)


def test_photons_are_taken_off() -> None:
    toy = make_toy(4)
    sample = Ruler(STAMPS, tuple(NOISE)).measure(toy.x, positions(toy.table, STAMPS.size))
    np.testing.assert_allclose(photons(sample, toy.table["label"]), 1 / GAIN, rtol=0.05)
    level = np.arange(len(FEATURES) * 3).reshape(3, -1)[:, FEATURES.index("ring0")]
    whole = sample["snr"] > np.quantile(sample["snr"], 0.9)
    before = np.nanmedian(sample["invvar"][whole][:, level])
    after = np.nanmedian(beyond_light(sample, toy.table["label"])[whole].reshape(whole.sum(), 3, -1)[..., 0])
    assert before < 0.95
    assert after == pytest.approx(1, abs=0.01)
    sample["snr"] = 1
    assert photons(sample, toy.table["label"]).tolist() == [0, 0, 0]


def test_light_that_fills_the_stamp_is_taken_off_as_well() -> None:
    """Fakes that are broader than the reals, and as bright, with the photons of both counted in the same way."""
    toy = make_toy(4, wider=2.5, brighter=30)
    sample, labels = Ruler(STAMPS, tuple(NOISE)).measure(toy.x, positions(toy.table, STAMPS.size)), toy.table["label"]
    np.testing.assert_allclose(photons(sample, labels), 1 / GAIN, rtol=0.01)
    groups = hash_rows(toy.table["group"])
    alone = tabular_auc(sample["invvar"], labels, groups, 1, 200)
    beyond = tabular_auc(beyond_light(sample, labels), labels, groups, 1, 200)
    assert alone["interval"][0] > 0.8
    assert beyond["interval"][0] < 0.5 + MARGIN, beyond


def test_every_plane_may_be_missing(tmp_path: Path) -> None:
    x = np.random.default_rng(1).standard_normal((5, 32, 32, 3)).astype(np.float32)
    images = Ruler(StampFormat(planes=("image",), size=32), tuple(NOISE)).measure(x, np.full((5, 2), 15.5))
    assert np.isfinite(images["x"]).all() and np.isnan(images["no_data"]).all() and "invvar" not in images.dtype.names
    invvar = Ruler(StampFormat(planes=("invvar",), size=32), ()).measure(np.abs(x), np.full((5, 2), 15.5))
    assert np.isnan(invvar["x"]).all() and np.isfinite(invvar["no_data"]).all() and (invvar["image_bits"] == -1).all()


def test_hashes_tell_rows_and_seeds_apart() -> None:
    rows = np.array([b"a", b"b", b"a"], "S48")
    first, other, again = hash_rows(rows).tolist()
    assert first == again != other
    assert hash_rows(rows, 1)[0] != first


def test_the_sample_is_the_same_in_whatever_order_shards_are_read(tmp_path: Path) -> None:
    manifest = write_spoilt(tmp_path)
    reader = Reader(tmp_path, manifest, 1, Stopwatch())
    parts = [reader.read(number, (split, 0)) for number, split in enumerate(("train", "valid", "test"))]
    back = [reader.read(number, (split, 0)) for number, split in reversed(list(enumerate(("train", "valid", "test"))))][::-1]
    for one, other in zip(parts, back, strict=True):
        for name in ("keys", "places", "sample"):
            np.testing.assert_array_equal(getattr(one, name).tobytes(), getattr(other, name).tobytes())


def test_names_are_found_in_their_shards(tmp_path: Path) -> None:
    manifest = write_spoilt(tmp_path)
    examples = gather_examples(tmp_path, manifest, World(), 1, Stopwatch())
    assert examples is not None
    last = len(examples.keys) - 1
    toy = make_toy(1)
    expected = toy.table["id"][np.flatnonzero(toy.side == 2)[-1]].decode()
    assert examples.name(last) == f"{expected} (test)"
    with pytest.raises(IndexError):
        examples.name(last + 1)


@pytest.mark.parametrize(
    ("auc", "interval", "result"),
    [
        (0.5, [0.48, 0.52], "pass"),
        (0.53, [0.51, 0.55], "warn"),
        (0.47, [0.45, 0.49], "warn"),
        (0.56, [0.53, 0.6], "fail"),
        (0.5, None, "warn"),
        (None, None, "warn"),
    ],
)
def test_the_gate(auc: float | None, interval: list[float] | None, result: str) -> None:
    assert gate({"columns": {}, "tabular_auc_after": {"auc": auc, "interval": interval}}).result == result


@pytest.mark.parametrize(("smd", "result"), [(-0.09, "pass"), (-0.2, "warn"), (None, "warn")])
def test_the_gate_looks_at_the_columns_as_well(smd: float | None, result: str) -> None:
    columns = {"mag_g": {"smd_after": 0.0}, "mag_r": {"smd_after": smd}}
    assert gate({"columns": columns, "tabular_auc_after": {"auc": 0.5, "interval": [0.48, 0.52]}}).result == result


@pytest.mark.parametrize("seed", range(3))
def test_nothing_fails_where_nothing_is_wrong(tmp_path: Path, seed: int) -> None:
    write_spoilt(tmp_path, seed=100 + seed)
    examples = gather_examples(tmp_path, load_manifest(tmp_path), World(), seed, Stopwatch())
    assert examples is not None
    results = [finding.result for finding in find(examples, seed)]
    assert "fail" not in results and results.count("warn") <= 2
