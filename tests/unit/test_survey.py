"""The synthetic survey: noise that agrees with invvar, sources where the catalog says, spreads as in real data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hpc_galaxy.bricks.catalog import read_catalog
from hpc_galaxy.bricks.conditions import Conditions, measure
from hpc_galaxy.bricks.galaxies import GALAXY_DTYPE, draw, effective_area, moffat, sersic_index
from hpc_galaxy.bricks.geometry import brick_wcs, grid_brick, survey_bricks
from hpc_galaxy.bricks.images import BANDS, read_plane
from hpc_galaxy.bricks.layout import coadd_path, read_table, tractor_path, truth_path
from hpc_galaxy.bricks.population import draw_population
from hpc_galaxy.bricks.survey import draw_conditions, make_survey, render
from hpc_galaxy.config import Config, Survey, load_config
from hpc_galaxy.errors import ConfigError, StaleOutputError
from hpc_galaxy.world import World

NPIX = 256


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    root = tmp_path_factory.mktemp("survey")
    made = load_config(None, [f"paths.survey='{root}/survey'", "survey.bricks=2", f"survey.npix={NPIX}", "seed=5"])
    make_survey(made, World())
    return made


def conditions() -> Conditions:
    return Conditions(dict.fromkeys(BANDS, 1.2), {"g": 0.004, "r": 0.006, "z": 0.015}, dict.fromkeys(BANDS, 0.9))


def star(x: float, y: float, flux: float) -> np.ndarray:
    sources = np.zeros(1, GALAXY_DTYPE)
    sources["x"], sources["y"] = x, y
    for band in BANDS:
        sources[f"flux_{band}"] = flux
    return sources


@pytest.mark.parametrize("band", BANDS)
def test_noise_agrees_with_invvar(config: Config, band: str) -> None:
    brick = survey_bricks(2, config.survey.ra, config.survey.dec)[0].name
    image, invvar = (read_plane(coadd_path(config.paths.survey, brick, plane, band)).pixels for plane in ("image", "invvar"))
    good = (invvar[:, 1:] > 0) & (invvar[:, :-1] > 0)
    variance = 1 / invvar[:, 1:][good] + 1 / invvar[:, :-1][good]
    # Neighbouring pixels hold nearly the same light: their difference is noise. The median deviation does not see the rest.
    scatter = 1.4826 * np.median(np.abs(np.diff(image, axis=1)[good]) / np.sqrt(variance))
    assert scatter == pytest.approx(1.0, abs=0.06)


def test_sky_and_photon_noise_of_a_bright_star_agree_with_invvar() -> None:
    sources = star(40.3, 39.8, 3000.0)
    seen = [render(np.random.default_rng(seed), sources, conditions(), "g", 80) for seed in range(60)]
    images, invvar = np.stack([image for image, _ in seen]), np.stack([plane for _, plane in seen])
    good = (invvar > 0).all(axis=0)
    measured, promised = images.var(axis=0, ddof=1)[good], 1 / invvar[0][good]
    assert np.mean(measured / promised) == pytest.approx(1.0, abs=0.02)
    bright = promised > 10 * promised.min()  # where the star's own photons dominate
    assert bright.sum() > 20
    assert np.mean(measured[bright] / promised[bright]) == pytest.approx(1.0, abs=0.1)


def test_light_lands_where_it_should_and_adds_up() -> None:
    sources = star(50.3, 41.75, 10.0)
    stamp = draw(sources[0], "g", moffat(1.2), (100, 100))
    y, x = np.mgrid[stamp.rows, stamp.columns]
    total = stamp.pixels.sum()
    assert total == pytest.approx(10.0, rel=0.02)
    assert ((x * stamp.pixels).sum() / total, (y * stamp.pixels).sum() / total) == pytest.approx((50.3, 41.75), abs=0.02)


def test_what_lies_outside_the_coadd_is_not_drawn() -> None:
    assert draw(star(-300.0, 50.0, 1.0)[0], "g", moffat(1.2), (100, 100)).pixels.size == 0
    corner = draw(star(-0.4, -0.4, 1.0)[0], "g", moffat(1.2), (100, 100))
    assert corner.rows.start == corner.columns.start == 0
    assert 0.2 < corner.pixels.sum() < 0.5


def test_catalog_is_consistent_and_has_every_kind(config: Config) -> None:
    for brick in survey_bricks(2, config.survey.ra, config.survey.dec):
        catalog = read_catalog(tractor_path(config.paths.survey, brick.name))
        truth = read_table(truth_path(config.paths.survey, brick.name))
        assert len(catalog) == len(truth) > 5
        assert np.hypot(catalog["bx"] - truth["x"], catalog["by"] - truth["y"]).max() < 5
        x, y = brick_wcs(brick.ra, brick.dec, NPIX).all_world2pix(catalog["ra"], catalog["dec"], 0)
        np.testing.assert_allclose(x, catalog["bx"], atol=1e-3)
        np.testing.assert_allclose(y, catalog["by"], atol=1e-3)
        assert catalog["brick_primary"].all()


def test_measurement_errors_are_as_large_as_their_invvar_says() -> None:
    sources = np.repeat(star(100.0, 100.0, 1.0), 4000)
    catalog, index = measure(np.random.default_rng(3), sources, conditions(), brick_wcs(120.0, 6.0, NPIX), grid_brick(384, 480))
    assert len(index) == 4000
    for band in BANDS:
        pull = (catalog[f"flux_{band}"] - 1.0) * np.sqrt(catalog[f"flux_ivar_{band}"])
        assert (pull.mean(), pull.std()) == pytest.approx((0, 1), abs=0.06)
    for column in ("bx", "by"):
        assert catalog[column].mean() == pytest.approx(100.0, abs=0.02)


def test_depth_is_the_inverse_variance_of_a_point_sources_flux() -> None:
    sources = np.concatenate([star(100.0, 100.0, 5.0), star(100.0, 100.0, 50.0)])
    sources["rhalf"][1] = 1.5
    catalog, index = measure(np.random.default_rng(1), sources, conditions(), brick_wcs(120.0, 6.0, NPIX), grid_brick(384, 480))
    assert index.tolist() == [0, 1]
    psf = moffat(1.2).drawImage(nx=64, ny=64, scale=0.262, method="no_pixel").array
    for band in BANDS:
        depth = catalog[f"psfdepth_{band}"]
        assert depth[0] == depth[1]  # of the sky, whatever the source is
        # What a fit of the PSF finds where there is nothing.
        skies = [render(np.random.default_rng(seed), sources[:0], conditions(), band, 64)[0] for seed in range(400)]
        fluxes = [float((psf * sky).sum() / (psf**2).sum()) for sky in skies]
        assert np.std(fluxes) * np.sqrt(depth[0]) == pytest.approx(1, abs=0.1)


def test_population_spreads() -> None:
    sources = draw_population(np.random.default_rng(1), Survey(npix=3600), {"g": 0.8, "r": 0.9, "z": 1.0})
    galaxies = sources[sources["rhalf"] > 0]
    rmag = 22.5 - 2.5 * np.log10(galaxies["flux_r"] / 0.9)
    color = 2.5 * np.log10(galaxies["flux_r"] / 0.9 / (galaxies["flux_g"] / 0.8))
    assert len(galaxies) == pytest.approx(15 * (3600 * 0.262 / 60) ** 2, rel=0.1)
    assert rmag.min() >= 17
    assert rmag.max() <= 24.5 + 1e-6
    assert (np.percentile(color, 10) < 0.3) and (np.percentile(color, 90) > 1.1)
    assert np.std(np.log10(galaxies["rhalf"])) > 0.15
    assert np.corrcoef(rmag, np.log10(galaxies["rhalf"]))[0, 1] < -0.3
    assert np.hypot(galaxies["g1"], galaxies["g2"]).max() <= 0.7 + 1e-9
    bright = galaxies["bulge"] + galaxies["knots"] > 0
    assert (rmag[bright] < 21.5).all()
    assert bright.sum() > 50


@pytest.mark.parametrize("slope", [0.0, 0.33, -0.2])
def test_numbers_grow_with_magnitude_as_asked(slope: float) -> None:
    survey = Survey(npix=3600, rmag=(18.0, 22.0), count_slope=slope, stars_per_arcmin2=0, galaxies_per_arcmin2=40)
    rmag = 22.5 - 2.5 * np.log10(draw_population(np.random.default_rng(1), survey, dict.fromkeys(BANDS, 1.0))["flux_r"])
    assert (18 <= rmag.min() < 18.3) and (21.7 < rmag.max() <= 22 + 1e-9)
    faint, bright = (rmag > 20).sum(), (rmag <= 20).sum()
    assert np.log10(faint / bright) == pytest.approx(2 * slope, abs=0.05)  # two bins of two magnitudes


def test_magnitudes_the_wrong_way_round_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"rmag is 24 to 18, expected the brighter limit first"):
        load_config(None, ["survey.rmag=[24, 18]"])


def test_bright_galaxies_have_knots_that_a_sersic_profile_has_not() -> None:
    galaxy = star(100.0, 100.0, 100.0)
    galaxy["rhalf"], galaxy["sersic"], galaxy["bulge"], galaxy["knots"], galaxy["seed"] = 2.0, 1.3, 0.2, 0.2, 4
    smooth = galaxy.copy()
    smooth["bulge"] = smooth["knots"] = 0

    def asymmetry(source: np.ndarray) -> float:
        pixels = draw(source[0], "g", moffat(1.0), (201, 201)).pixels
        return float(np.abs(pixels - pixels[::-1, ::-1]).sum() / pixels.sum())

    assert asymmetry(galaxy) > 0.05
    assert asymmetry(smooth) < 1e-3


def test_seeing_and_depth_vary_by_brick_and_band() -> None:
    drawn = [draw_conditions(np.random.default_rng(seed), Survey()) for seed in range(40)]
    for band in BANDS:
        fwhm = [one.fwhm[band] for one in drawn]
        assert np.std(fwhm) / np.mean(fwhm) == pytest.approx(0.08, abs=0.03)
    five_sigma = [5 * one.sigma["g"] * np.sqrt(effective_area(one.fwhm["g"])) for one in drawn]
    assert np.mean(22.5 - 2.5 * np.log10(five_sigma)) == pytest.approx(24.6, abs=0.06)


def test_sersic_index_stays_within_what_galsim_draws() -> None:
    assert [sersic_index(value) for value in (0.1, 1.04, 9.0)] == pytest.approx([0.5, 1.0, 6.0])


def test_another_configuration_does_not_overwrite(config: Config) -> None:
    other = config.model_copy(update={"seed": 6})
    with pytest.raises(StaleOutputError, match="another configuration"):
        make_survey(other, World())


def test_finished_bricks_are_not_made_again(config: Config) -> None:
    path = tractor_path(config.paths.survey, survey_bricks(1, config.survey.ra, config.survey.dec)[0].name)
    before = path.stat().st_mtime_ns
    make_survey(config, World())
    assert path.stat().st_mtime_ns == before


def test_a_users_data_are_never_claimed_or_cleared(tmp_path: Path) -> None:
    mine = tmp_path / "survey" / "coadd" / "mine.fits"
    mine.parent.mkdir(parents=True)
    mine.write_text("precious")
    config = load_config(None, [f"paths.survey='{tmp_path}/survey'", "survey.npix=128"])
    for overwrite in (False, True):
        with pytest.raises(StaleOutputError, match="did not make"):
            make_survey(config, World(), overwrite)
    assert mine.read_text() == "precious"


def test_overwrite_makes_everything_again(tmp_path: Path) -> None:
    config = load_config(None, [f"paths.survey='{tmp_path}/survey'", "survey.npix=128", "survey.bricks=2"])
    make_survey(config, World())
    fewer = config.model_copy(update={"survey": config.survey.model_copy(update={"bricks": 1})})
    make_survey(fewer, World(), overwrite=True)
    assert len(list((tmp_path / "survey").rglob("tractor-*.fits"))) == 1
    assert len(read_table(tmp_path / "survey" / "survey-bricks.fits.gz")) == 1
