"""Injection: light, noise and inverse variance as they should be, and obiwan's tables."""

from __future__ import annotations

from pathlib import Path

import fitsio
import numpy as np
import pytest

from hpc_galaxy.bricks.catalog import CATALOG_DTYPE, read_catalog
from hpc_galaxy.bricks.conditions import EFFECTIVE_GAIN, Conditions
from hpc_galaxy.bricks.galaxies import GALAXY_DTYPE
from hpc_galaxy.bricks.images import BANDS, read_plane
from hpc_galaxy.bricks.layout import coadd_path, obiwan_path, read_table, tractor_path
from hpc_galaxy.bricks.maskbits import read_maskbits
from hpc_galaxy.bricks.simcat import read_injected
from hpc_galaxy.bricks.survey import make_survey
from hpc_galaxy.bricks.views import injected_views, list_bricks
from hpc_galaxy.config import Config, Injection, load_config
from hpc_galaxy.errors import InputError
from hpc_galaxy.injection.add import Drawing, add_galaxies
from hpc_galaxy.injection.inject import inject, mark_masked
from hpc_galaxy.injection.places import collisions
from hpc_galaxy.injection.properties import draw_galaxies, templates
from hpc_galaxy.injection.psf import catalog_psfs
from hpc_galaxy.world import World

CONDITIONS = Conditions(dict.fromkeys(BANDS, 1.2), dict.fromkeys(BANDS, 0.005), dict.fromkeys(BANDS, 0.9))


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    root = tmp_path_factory.mktemp("inject")
    overrides = ["survey.bricks=2", "survey.npix=384", "injection.per_brick=30", "injection.realisations=2", "seed=5"]
    made = load_config(None, [f"paths.survey='{root}/survey'", f"paths.obiwan='{root}/obiwan'", *overrides])
    make_survey(made, World())
    inject(made, World())
    return made


def galaxy(flux: float) -> np.ndarray:
    fakes = np.zeros(1, GALAXY_DTYPE)
    fakes["x"] = fakes["y"] = 50.0
    fakes["rhalf"], fakes["sersic"] = 0.5, 1.0
    for band in BANDS:
        fakes[f"flux_{band}"] = flux
    return fakes


def add(planes: dict[str, np.ndarray], settings: Injection, key: int = 0) -> None:
    drawing = Drawing(settings, catalog_psfs(CONDITIONS, settings.defects))
    add_galaxies(planes, galaxy(20.0), np.array([0]), drawing, [key])


def planes() -> dict[str, np.ndarray]:
    kinds = {"image": 0.0, "invvar": 4e4}
    return {f"{plane}_{band}": np.full((100, 100), value, np.float32) for plane, value in kinds.items() for band in BANDS}


def test_noiseless_flux_is_conserved() -> None:
    brick = planes()
    add(brick, Injection(poisson=False))
    assert brick["image_g"].sum() == pytest.approx(20.0, rel=0.02)


def test_photon_noise_and_invvar_agree() -> None:
    light = planes()
    add(light, Injection(poisson=False))
    noisy = []
    for key in range(300):
        brick = planes()
        add(brick, Injection(), key)
        noisy.append(brick["image_g"])
    expected = 4e4 / (1 + 4e4 * light["image_g"] / EFFECTIVE_GAIN["g"])
    np.testing.assert_allclose(brick["invvar_g"], expected, rtol=1e-5)
    bright = light["image_g"] > 0.05
    added = 1 / brick["invvar_g"][bright] - 1 / 4e4
    assert np.mean(np.var(noisy, axis=0, ddof=1)[bright] / added) == pytest.approx(1.0, abs=0.05)
    assert np.mean(noisy, axis=0)[bright].sum() == pytest.approx(light["image_g"][bright].sum(), rel=2e-3)


def test_invvar_update_can_be_switched_off() -> None:
    brick = planes()
    add(brick, Injection(update_invvar=False))
    assert (brick["invvar_g"] == np.float32(4e4)).all()


def test_no_data_stay_no_data() -> None:
    brick = planes()
    brick["invvar_g"][50] = 0
    add(brick, Injection())
    assert (brick["image_g"][50] == 0).all()
    assert (brick["invvar_g"][50] == 0).all()


def test_collisions_keep_the_first() -> None:
    x, y = np.array([0.0, 10.0, 20.0, 100.0]), np.zeros(4)
    assert collisions(x, y, 5.0).tolist() == [False, True, False, False]  # 5 arcsec are 19 pixels; the third is clear of the first
    assert not collisions(x, y, 0).any()


def test_coadds_differ_from_the_survey_by_the_fakes_alone(config: Config) -> None:
    brick = list_bricks(config.paths.survey)[0]
    before = read_plane(coadd_path(config.paths.survey, brick, "image", "r")).pixels.astype(float)
    after = read_plane(coadd_path(config.paths.obiwan, brick, "image", "r", "rs0")).pixels.astype(float)
    injected = read_injected(injected_views(config.paths.obiwan, brick)[0])
    away = np.ones(before.shape, bool)
    for row in injected:
        x, y = round(row["x"] - 1), round(row["y"] - 1)
        away[max(0, y - 60) : y + 61, max(0, x - 60) : x + 61] = False
    assert np.abs(after - before)[away].max(initial=0) < 1.1e-4
    brightest = injected[np.argmax(injected["rflux"])]
    x, y = round(brightest["x"] - 1), round(brightest["y"] - 1)
    near = (slice(max(0, y - 3), y + 4), slice(max(0, x - 3), x + 4))
    assert (after - before)[near].sum() > 0.2 * brightest["rflux"]


def test_simcat_is_in_obiwans_conventions(config: Config) -> None:
    root, brick = config.paths.obiwan, list_bricks(config.paths.survey)[0]
    simcat = read_table(obiwan_path(root, brick, "rs0", "simcat-elg"))
    added = read_table(obiwan_path(root, brick, "rs0", "sim_ids_added"))["id"]
    skipped = read_table(obiwan_path(root, brick, "rs0", "skippedids-elg"))["id"]
    assert sorted([*added, *skipped]) == simcat["id"].tolist() == list(range(30))
    catalog = read_catalog(tractor_path(root, brick, "rs0"))
    real = read_catalog(tractor_path(config.paths.survey, brick))
    np.testing.assert_array_equal(catalog[: len(real)], real)
    detected = catalog[len(real) :]
    assert 10 < len(detected) <= len(added)
    assert len(np.unique(catalog["objid"])) == len(catalog)
    for band in BANDS:  # a fake lies in the same sky
        np.testing.assert_allclose(detected[f"psfdepth_{band}"], real[f"psfdepth_{band}"][0], rtol=1e-3)
    # simcat counts from 1, the Tractor catalog from 0: the brightest are measured to a fraction of a pixel.
    bright = detected[detected["flux_r"] > np.median(detected["flux_r"])]
    for row in bright:
        offset = np.hypot(simcat["x"] - 1 - row["bx"], simcat["y"] - 1 - row["by"])
        assert offset.min() < 0.7


def test_realisations_differ(config: Config) -> None:
    brick = list_bricks(config.paths.survey)[0]
    one, other = (read_injected(view) for view in injected_views(config.paths.obiwan, brick))
    assert not np.intersect1d(one["x"], other["x"]).size


def test_fakes_are_like_the_real_galaxies_they_are_drawn_from() -> None:
    rng = np.random.default_rng(2)
    catalog = np.zeros(500, CATALOG_DTYPE)
    catalog["type"], catalog["sersic"], catalog["shape_r"] = b"EXP", 1.0, np.exp(rng.normal(-0.7, 0.3, 500))
    for band, mag in (("g", 22.4), ("r", 22.0), ("z", 21.4)):
        catalog[f"flux_{band}"] = 10 ** ((22.5 - mag - rng.normal(0, 0.4, 500)) / 2.5) * 0.9
        catalog[f"mw_transmission_{band}"] = 0.9
    catalog["type"][:50], catalog["shape_r"][:50] = b"PSF", 0
    real = templates(catalog, "test")
    assert len(real) == 450
    fakes = draw_galaxies(rng, real, 4000, 0.1, (300, 400))
    for band in BANDS:
        real_mag, fake_mag = -2.5 * np.log10(real[f"flux_{band}"]), -2.5 * np.log10(fakes[f"flux_{band}"])
        assert fake_mag.mean() == pytest.approx(real_mag.mean(), abs=0.05)
        assert fake_mag.std() == pytest.approx(real_mag.std(), rel=0.1)
    assert np.log(fakes["rhalf"]).mean() == pytest.approx(np.log(real["shape_r"]).mean(), abs=0.05)
    assert (fakes["x"].max() > 390) and (fakes["x"].max() < 399.5)
    assert (fakes["y"].max() > 290) and (fakes["y"].max() < 299.5)


def test_too_few_real_galaxies_are_refused() -> None:
    with pytest.raises(InputError, match="has 0 galaxies with positive fluxes, expected at least 5"):
        templates(np.zeros(3, CATALOG_DTYPE), "tractor-x.fits")


def test_an_unfinished_survey_is_refused(config: Config, tmp_path: Path) -> None:
    (tmp_path / "survey").mkdir()
    (tmp_path / "survey" / "stage.json").write_text("{}")
    with pytest.raises(InputError, match="'hpc-galaxy survey' did not finish here"):
        inject(load_config(None, [f"paths.survey='{tmp_path}/survey'"]), World())


def test_fakes_have_the_mask_bits_of_their_pixel(tmp_path: Path) -> None:
    bits = np.zeros((100, 100), np.int16)
    bits[50:, :] = 1 << 11 | 1 << 6
    path = tmp_path / "legacysurvey-1211p060-maskbits.fits.fz"
    fitsio.write(str(path), bits, compress="HCOMPRESS", clobber=True)
    measured = np.zeros(3, CATALOG_DTYPE)
    measured["bx"], measured["by"] = [10, 10, 140], [49.4, 49.6, 99.7]
    mark_masked(measured, read_maskbits(tmp_path / "absent.fits.fz"))
    assert not measured["maskbits"].any()
    mark_masked(measured, read_maskbits(path))
    assert measured["maskbits"].tolist() == [0, 2112, 2112]
    assert measured["allmask_r"].tolist() == [0, 1, 1]
    assert not measured["allmask_z"].any()
