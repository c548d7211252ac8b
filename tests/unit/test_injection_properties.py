"""What fakes are like: fitted to the real galaxies, one to one, or rows of a table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import fitsio
import numpy as np
import pytest

from hpc_galaxy.bricks.catalog import CATALOG_DTYPE, magnitudes, read_catalog
from hpc_galaxy.bricks.conditions import Conditions
from hpc_galaxy.bricks.galaxies import GALAXY_DTYPE
from hpc_galaxy.bricks.images import BANDS
from hpc_galaxy.bricks.layout import obiwan_path, read_table, tractor_path, truth_path
from hpc_galaxy.bricks.simcat import parameter_keys
from hpc_galaxy.bricks.survey import make_survey
from hpc_galaxy.bricks.views import list_bricks
from hpc_galaxy.config import Config, load_config
from hpc_galaxy.errors import InputError
from hpc_galaxy.injection.inject import Realisation, _items, inject
from hpc_galaxy.injection.properties import draw_fitted, draw_twins, templates
from hpc_galaxy.injection.sample import deal_rows, draw_from_sample, read_sample
from hpc_galaxy.world import World

SHAPE = (300, 400)
DUST = {"g": 0.8, "r": 0.87, "z": 0.92}
Draw = Callable[[int], np.ndarray]


def catalog(count: int = 600) -> np.ndarray:
    """Return galaxies of which the brighter are larger and redder."""
    rng = np.random.default_rng(2)
    made = np.zeros(count, CATALOG_DTYPE)
    rmag = rng.normal(22.0, 0.6, count)
    made["type"], made["sersic"] = np.where(np.arange(count) % 2, b"REX", b"EXP"), 1.0
    made["type"][::10], made["sersic"][::10] = b"SER", rng.uniform(0.6, 5, len(made[::10]))
    made["shape_r"] = np.exp(-0.5 - 0.3 * (rmag - 22) + rng.normal(0, 0.2, count))
    made["shape_e1"] = np.where(made["type"] == b"REX", 0, rng.normal(0, 0.2, count).clip(-0.5, 0.5))
    for band, color in (("g", 0.7 - 0.3 * (rmag - 22)), ("r", 0.0), ("z", -0.6 * np.ones(count))):
        made[f"flux_{band}"] = 10 ** ((22.5 - rmag - color - rng.normal(0, 0.05, count)) / 2.5) * DUST[band]
        made[f"mw_transmission_{band}"] = DUST[band]
    return made


REAL = templates(catalog(), "test")


def mags(table: np.ndarray, band: str) -> np.ndarray:
    return 22.5 - 2.5 * np.log10(table[f"flux_{band}"] / DUST[band])


@pytest.mark.parametrize("kind", ["kde", "gmm"])
def test_fitted_properties_are_spread_and_correlated_as_the_real_ones(kind: str) -> None:
    fakes = draw_fitted(np.random.default_rng(1), REAL, 4000, kind, 3, SHAPE, "test")
    for band in BANDS:
        real, fake = magnitudes(REAL, band), mags(fakes, band)
        assert fake.mean() == pytest.approx(real.mean(), abs=0.06)
        assert fake.std() == pytest.approx(real.std(), rel=0.12)
    color, radius = mags(fakes, "g") - mags(fakes, "r"), np.log(fakes["rhalf"])
    assert np.corrcoef(color, mags(fakes, "r"))[0, 1] < -0.7  # made with -0.3 a magnitude and a scatter of 0.07
    assert np.corrcoef(radius, mags(fakes, "r"))[0, 1] < -0.4
    assert np.hypot(fakes["g1"], fakes["g2"]).max() <= 0.7
    assert 0.5 <= fakes["sersic"].min() < 1.2 < fakes["sersic"].max() <= 6
    assert len(np.unique(fakes["flux_r"])) == 4000
    assert abs(np.arctan2(fakes["g2"], fakes["g1"]).mean()) < 0.1


@pytest.mark.parametrize("kind", ["kde", "gmm"])
def test_fitted_properties_depend_on_the_seed_alone_and_survive_constant_columns(kind: str) -> None:
    real = REAL.copy()
    real["type"], real["sersic"], real["shape_e1"] = b"EXP", 1.0, 0.0  # nothing varies but fluxes and radii

    def draw(seed: int) -> np.ndarray:
        return draw_fitted(np.random.default_rng(seed), real, 50, kind, 2, SHAPE, "test")

    np.testing.assert_array_equal(draw(1), draw(1))
    assert (draw(1)["flux_r"] != draw(2)["flux_r"]).all()
    assert (draw(1)["sersic"] == 1.0).all()
    assert not draw(1)["g1"].any()


def test_too_few_galaxies_for_a_mixture_are_refused() -> None:
    with pytest.raises(InputError, match=r"has 10 sources to fit 6 Gaussians to, expected at least 12; lower injection\.components"):
        draw_fitted(np.random.default_rng(1), REAL[:10], 50, "gmm", 6, SHAPE, "test")


def test_twins_are_like_one_real_galaxy_each() -> None:
    twins = draw_twins(np.random.default_rng(1), REAL, 10_000, SHAPE)
    assert len(twins) == len(REAL)
    for band in BANDS:
        np.testing.assert_array_equal(np.sort(twins[f"flux_{band}"]), np.sort(REAL[f"flux_{band}"].astype(float)))
    by_flux, real = twins[np.argsort(twins["flux_r"])], REAL[np.argsort(REAL["flux_r"])]
    measured, made = np.abs(real["shape_e1"]), np.hypot(by_flux["g1"], by_flux["g2"])
    known = real["type"] != b"REX"
    np.testing.assert_allclose(made[known], measured[known], atol=1e-6)
    assert made[~known].std() > 0.05  # round fits do not tell how elongated the galaxies are
    np.testing.assert_allclose(by_flux["rhalf"], real["shape_r"] * np.sqrt((1 - measured) / (1 + measured)), rtol=1e-5)
    np.testing.assert_allclose(by_flux["sersic"], real["sersic"], atol=0.051)
    assert len(draw_twins(np.random.default_rng(1), REAL, 7, SHAPE)) == 7


def test_stars_are_drawn_from_point_sources() -> None:
    table = catalog(100)
    with pytest.raises(InputError, match="has 0 stars with positive fluxes, expected at least 5"):
        templates(table, "test", stars=True)
    table["type"][:20], table["shape_r"][:20], table["sersic"][:20] = b"PSF", 0, 0
    stars = templates(table, "test", stars=True)
    assert len(stars) == 20
    for kind in ("kde", "gmm"):
        assert np.isfinite(draw_fitted(np.random.default_rng(1), stars, 50, kind, 2, SHAPE, "test")["flux_g"]).all()


def write(path: Path, **columns: object) -> Path:
    """Write a table in obiwan's columns with these changes; None takes a column out."""
    values = {"g": [22.0, 23.0], "r": [21.5, 22.4], "z": [21.0, 21.7], "rhalf": [0.5, 0.8], "n": [1.0, 4.0]} | columns
    kept = {name: np.atleast_1d(np.asarray(value)) for name, value in values.items() if value is not None}
    path.parent.mkdir(parents=True, exist_ok=True)
    fitsio.write(str(path), list(kept.values()), names=list(kept), clobber=True)
    return path


def test_a_table_in_obiwans_columns_is_dimmed_by_the_dust_of_the_brick(tmp_path: Path) -> None:
    rows = read_sample(write(tmp_path / "a.fits", ba=[0.5, 1.0], pa=[10.0, 20.0]))
    fakes = draw_from_sample(np.random.default_rng(1), rows, DUST, SHAPE)
    for band, expected in (("g", [22.0, 23.0]), ("r", [21.5, 22.4]), ("z", [21.0, 21.7])):
        np.testing.assert_allclose(mags(fakes, band), expected)
    np.testing.assert_allclose(np.hypot(fakes["g1"], fakes["g2"]), [1 / 3, 0])
    assert fakes["sersic"].tolist() == [1.0, 4.0]
    assert fakes["rhalf"].tolist() == [0.5, 0.8]
    same = read_sample(write(tmp_path / "b.fits", e1=[0.36, 0.0], e2=[0.48, 0.0]))  # (a^2 - b^2) / (a^2 + b^2) of b / a = 0.5
    np.testing.assert_allclose(same["g1"], [1 / 3, 0])
    unknown = draw_from_sample(np.random.default_rng(1), np.repeat(read_sample(write(tmp_path / "c.fits")), 500), DUST, SHAPE)
    assert 0.2 < np.hypot(unknown["g1"], unknown["g2"]).mean() < 0.3


def test_a_folder_is_read_as_one_table_sorted_by_path(tmp_path: Path) -> None:
    write(tmp_path / "t" / "b.fits", n=[3.0, 4.0])
    write(tmp_path / "t" / "a" / "z.fits.gz", n=[1.0, 2.0])
    (tmp_path / "t" / ".partial-1-c.fits").write_text("of a job that was killed")
    assert read_sample(tmp_path / "t")["sersic"].tolist() == [1.0, 2.0, 3.0, 4.0]


WRONG = [
    ({"n": None}, "lacks the columns n of a sample in obiwan's columns"),
    ({"g": [22.0, np.nan]}, r"row 1 has g = nan, expected a number from 5 to 35 AB magnitudes \(1 such rows\)"),
    ({"r": [-99.0, 22.0]}, "row 0 has r = -99"),
    ({"rhalf": [0.5, -1.0]}, "row 1 has rhalf = -1, expected a number from 0 to 60 arcsec"),
    ({"n": [1.0, 0.0]}, "row 1 has sersic = 0, expected a Sersic index from 0.1 to 20"),
    ({"ba": [0.5, 1.2]}, "row 1 has ba = 1.2"),
    ({"e1": [0.9, 0.0], "e2": [0.9, 0.0]}, "row 0 has e1 = 0.9, expected e1 and e2 of a distortion below 1"),
    ({"n": ["one", "two"]}, "column n holds"),
    ({"rhalf": [0.0, 0.0]}, r"has no galaxies \(rhalf > 0\), expected at least one"),
]


@pytest.mark.parametrize(("columns", "message"), WRONG)
def test_a_table_that_cannot_be_drawn_is_refused(tmp_path: Path, columns: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_sample(write(tmp_path / "a.fits", **columns))


def test_missing_tables_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_sample(tmp_path / "absent.fits")
    with pytest.raises(InputError, match=r"has no file of .fits.fz, .fits.gz, .fits"):
        read_sample(tmp_path)


@pytest.mark.parametrize("items", [3, 5])
def test_no_row_is_dealt_twice_before_all_were_dealt_once(items: int) -> None:
    rows = np.zeros(100, GALAXY_DTYPE)
    rows["flux_g"] = np.arange(100)
    dealt = deal_rows(rows, 1, items, 30)
    assert [len(part) for part in dealt] == [30] * items
    taken, counts = np.unique(np.concatenate(dealt)["flux_g"], return_counts=True)
    assert len(taken) == min(100, items * 30)
    assert counts.max() == (1 if items == 3 else 2)
    np.testing.assert_array_equal(dealt[1], deal_rows(rows, 1, items, 30)[1])
    assert (dealt[1] != deal_rows(rows, 2, items, 30)[1]).any()


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    root = tmp_path_factory.mktemp("faithful")
    paths = [f"paths.survey='{root}/survey'", f"paths.obiwan='{root}/obiwan'", f"paths.sample='{root}/survey/truth'"]
    overrides = ["survey.bricks=2", "survey.npix=256", "survey.rmag=[18, 22]", "survey.count_slope=0", "survey.galaxies_per_arcmin2=60"]
    made = load_config(None, [*paths, *overrides, "injection.per_brick=12", "injection.properties='table'", "seed=5"])
    make_survey(made, World())
    inject(made, World())
    return made


def test_fakes_from_the_surveys_own_truth_are_of_the_same_generator(config: Config) -> None:
    sample, root = read_sample(config.paths.sample), config.paths.obiwan
    simcats = [read_table(obiwan_path(root, brick, "rs0", "simcat-elg")) for brick in list_bricks(config.paths.survey)]
    fakes = np.concatenate(simcats)
    assert len(fakes) == 24
    for fake in fakes:
        rmag = fake["rflux"] / fake["mw_transmission_r"]
        near = sample[np.argmin(np.abs(sample["flux_r"] / rmag - 1))]
        assert near["flux_r"] == pytest.approx(rmag, rel=1e-6)  # dimmed by the dust of where it is injected
        assert (near["bulge"], near["knots"], near["sersic"], near["rhalf"]) == tuple(
            fake[name] for name in ("bulge", "knots", "n", "rhalf")
        )
    assert (fakes["bulge"] > 0).sum() > 5
    assert len(np.unique(parameter_keys(fakes))) == 24  # nobody is there twice
    truth = np.concatenate([read_table(path) for path in sorted(config.paths.sample.rglob("*.fits"))])
    assert not np.isin(fakes["seed"], truth["seed"]).any()  # knots of their own
    assert len(np.unique(fakes["seed"])) == 24


def test_the_truth_has_detected_sources_row_by_row_and_the_others_beside_them(config: Config) -> None:
    for brick in list_bricks(config.paths.survey):
        path = truth_path(config.paths.survey, brick)
        truth, undetected = read_table(path), read_table(path.with_name(f"undetected-{brick}.fits"))
        found = read_catalog(tractor_path(config.paths.survey, brick))
        assert len(truth) == len(found)
        assert truth.dtype == undetected.dtype
        for band in BANDS:
            np.testing.assert_allclose(truth[f"mw_transmission_{band}"], found[f"mw_transmission_{band}"], rtol=1e-6)


def test_rows_do_not_depend_on_who_makes_the_realisation(config: Config) -> None:
    items = _items(config, World())
    assert [(brick, number) for brick, number, _ in items] == [(brick, 0) for brick in list_bricks(config.paths.survey)]
    assert all(rows is None for _, _, rows in _items(config, World(rank=1, size=2)))  # the dealer hands them over
    brick, number, rows = items[1]
    read = read_table(obiwan_path(config.paths.obiwan, brick, "rs0", "simcat-elg"))
    conditions = Conditions(
        dict.fromkeys(BANDS, 1.2), dict.fromkeys(BANDS, 0.01), {band: read[f"mw_transmission_{band}"][0] for band in BANDS}
    )
    cell = type("Cell", (), {"brickid": 0})
    assert rows is not None
    fakes = Realisation(config, cell, number, rows)._draw(np.random.default_rng(1), catalog(10), conditions, SHAPE)
    np.testing.assert_allclose(fakes["flux_g"], read["gflux"], rtol=1e-6)
