"""How fakes are drawn: Sersic, bulge and disk, knots, stars, and pictures of the user's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fitsio
import galsim
import numpy as np
import pytest

from hpc_galaxy.bricks.conditions import Conditions
from hpc_galaxy.bricks.galaxies import GALAXY_DTYPE, draw, moffat
from hpc_galaxy.bricks.images import BANDS
from hpc_galaxy.config import Injection
from hpc_galaxy.errors import InputError
from hpc_galaxy.injection.add import Drawing
from hpc_galaxy.injection.pictures import Pictures, read_pictures
from hpc_galaxy.injection.profiles import give_profiles
from hpc_galaxy.injection.psf import catalog_psfs

DUST = {"g": 0.8, "r": 0.87, "z": 0.92}
CONDITIONS = Conditions(dict.fromkeys(BANDS, 1.2), dict.fromkeys(BANDS, 0.005), DUST)
SHAPE = (201, 201)


def galaxies(count: int = 400) -> np.ndarray:
    rng = np.random.default_rng(1)
    fakes = np.zeros(count, GALAXY_DTYPE)
    fakes["x"], fakes["y"], fakes["rhalf"], fakes["sersic"] = 100.2, 99.7, 0.8, 2.0
    fakes["g1"], fakes["bulge"], fakes["knots"], fakes["seed"] = 0.3, 0.3, 0.1, 5
    rmag, color = rng.uniform(19, 24, count), rng.uniform(0, 1.8, count)
    for band, mag in (("g", rmag + color), ("r", rmag), ("z", rmag - 0.5)):
        fakes[f"flux_{band}"] = 10 ** ((22.5 - mag) / 2.5) * DUST[band]
    return fakes


def given(profile: Any, pictures: Pictures | None = None, fakes: np.ndarray | None = None) -> np.ndarray:
    made = galaxies() if fakes is None else fakes.copy()
    give_profiles(np.random.default_rng(3), made, Injection(profile=profile), DUST, pictures)
    return made


def test_auto_leaves_galaxies_as_they_are() -> None:
    np.testing.assert_array_equal(given("auto"), galaxies())


def test_sersic_takes_bulges_and_knots_away() -> None:
    fakes = given("sersic")
    assert not fakes["bulge"].any()
    assert not fakes["knots"].any()
    assert (fakes["sersic"] == 2.0).all()


@pytest.mark.parametrize("profile", ["bulge_disk", "knots"])
def test_bright_blue_galaxies_alone_get_substructure(profile: str) -> None:
    fakes, plain = given(profile), galaxies()
    rmag = 22.5 - 2.5 * np.log10(plain["flux_r"] / DUST["r"])
    color = 2.5 * np.log10(plain["flux_r"] / DUST["r"] / (plain["flux_g"] / DUST["g"]))
    chosen = fakes["bulge"] > 0
    np.testing.assert_array_equal(chosen, (rmag < 21.5) & (color < 0.8481))
    assert 0.05 < fakes["bulge"][chosen].min() < 0.1
    assert 0.3 < fakes["bulge"][chosen].max() < 0.35
    np.testing.assert_array_equal(fakes["knots"] > 0, chosen if profile == "knots" else np.zeros(len(fakes), bool))
    np.testing.assert_allclose(fakes["sersic"], np.where(chosen, 1 + 3 * fakes["bulge"], 2.0))
    assert len(np.unique(fakes["seed"])) == len(fakes)


def test_a_star_is_a_point() -> None:
    fake = given("star")[0]
    assert (fake["rhalf"], fake["sersic"], fake["g1"], fake["bulge"]) == (0, 0, 0, 0)
    pixels = drawing("star").stamps(fake, SHAPE)["r"]
    expected = draw(fake, "r", moffat(1.2), SHAPE)
    np.testing.assert_array_equal(pixels.pixels, expected.pixels)


def drawing(profile: Any, pictures: Pictures | None = None, **changes: Any) -> Drawing:
    settings = Injection(profile=profile, **changes)
    return Drawing(settings, catalog_psfs(CONDITIONS, settings.defects), pictures)


def picture(scale: float = 0.1, side: int = 101, rhalf: float = 0.5, axis: float = 1.0, psf: bool = False) -> np.ndarray:
    """Return a picture of an exponential galaxy, of a flux of 37."""
    profile = galsim.Exponential(half_light_radius=rhalf, flux=37.0).shear(q=axis, beta=0 * galsim.degrees)
    seen = galsim.Convolve(profile, moffat(1.2)) if psf else profile
    return np.array(seen.drawImage(nx=side, ny=side, scale=scale, method="no_pixel" if psf else "auto").array)


def write(path: Path, *pixels: np.ndarray, **header: Any) -> Path:
    with fitsio.FITS(str(path), "rw", clobber=True) as file:
        for image in pixels:
            file.write(image, header=[{"name": name, "value": value} for name, value in header.items()])
    return path


def exponential(fake: np.void, rhalf: float) -> np.ndarray:
    row = np.array(fake)[()].copy()
    row["rhalf"], row["sersic"], row["g1"], row["g2"], row["bulge"], row["knots"] = rhalf, 1.0, 0, 0, 0, 0
    light = np.zeros(SHAPE)
    stamp = draw(row, "r", moffat(1.2), SHAPE)
    light[stamp.rows, stamp.columns] = stamp.pixels
    return light


def drawn(path: Path, rhalf: float = 0.8) -> tuple[np.void, np.ndarray]:
    pictures = read_pictures(path)
    before = galaxies(3)
    before["rhalf"] = rhalf
    fake = given("stamp", pictures, before)[0]
    stamp = drawing("stamp", pictures).stamps(fake, SHAPE)["r"]
    light = np.zeros(SHAPE)
    light[stamp.rows, stamp.columns] = stamp.pixels
    return fake, light


@pytest.mark.parametrize(("header", "radius"), [({"RHALF": 0.5}, 0.8), ({}, 0.5)])
def test_a_picture_is_drawn_with_the_flux_of_the_fake_and_its_radius_if_it_states_its_own(
    tmp_path: Path, header: dict[str, float], radius: float
) -> None:
    fake, light = drawn(write(tmp_path / "s.fits", picture(), PIXSCALE=0.1, **header))
    expected = exponential(fake, radius)
    assert light.sum() == pytest.approx(fake["flux_r"], rel=0.02)
    assert fake["rhalf"] == pytest.approx(radius, rel=0.05)
    assert fake["g1"] == 0
    assert np.abs(light - expected).max() < 0.03 * expected.max()


def test_a_picture_with_the_psf_in_it_is_not_convolved_again(tmp_path: Path) -> None:
    path = write(tmp_path / "s.fits", picture(0.262, 61, psf=True), PIXSCALE=0.262, HASPSF=True, RHALF=0.5)
    fake, light = drawn(path)
    expected = exponential(fake, 0.5)
    assert np.abs(light - expected).max() < 0.03 * expected.max()
    with pytest.raises(InputError, match=r"HASPSF = T.*injection.defects.psf"):
        read_pictures(path, broader=True)


def test_pictures_are_chosen_and_turned_at_random(tmp_path: Path) -> None:
    flat, round_ = picture(axis=0.4), picture()
    cube = np.stack([flat, round_])
    for path in (
        write(tmp_path / "a.fits", flat, round_, PIXSCALE=0.1, RHALF=0.5),
        write(tmp_path / "b.fits", cube, PIXSCALE=0.1, RHALF=0.5),
    ):
        pictures = read_pictures(path)
        assert len(pictures.all) == 2
        fakes = given("stamp", pictures)
        chosen = np.array([pictures.of(fake) is pictures.all[0] for fake in fakes])
        assert 0.4 < chosen.mean() < 0.6
        angles = [position_angle(drawing("stamp", pictures).stamps(fake, SHAPE)["r"].pixels) for fake in fakes[chosen][:20]]
        assert np.ptp(angles) > 1.5  # of pi
        assert len(np.unique(np.round(angles, 3))) == 20


def position_angle(pixels: np.ndarray) -> float:
    y, x = np.mgrid[: pixels.shape[0], : pixels.shape[1]]
    dx, dy = x - (x * pixels).sum() / pixels.sum(), y - (y * pixels).sum() / pixels.sum()
    window = pixels * np.exp(-(dx**2 + dy**2) / 50)
    return float(0.5 * np.arctan2(2 * (window * dx * dy).sum(), (window * (dx**2 - dy**2)).sum()))


HOLE = np.where(np.eye(9) > 0, np.nan, 1.0)
WRONG = [
    ((np.ones((9, 9)),), {}, "HDU 0: PIXSCALE in the header is None, expected the size of a pixel in arcsec, a positive number"),
    ((np.ones((9, 9)),), {"PIXSCALE": -0.2}, "PIXSCALE in the header is -0.2"),
    ((np.ones((9, 9)), np.zeros((9, 9))), {"PIXSCALE": 0.2}, "HDU 1: its pixels sum to 0, expected a finite, positive flux"),
    ((HOLE,), {"PIXSCALE": 0.2}, "its pixels sum to nan"),
    ((np.ones((9, 9)),), {"PIXSCALE": 0.2, "RHALF": "small"}, "RHALF in the header is 'small'"),
    ((np.ones((9, 9)),), {"PIXSCALE": 0.2, "HASPSF": 1}, "HASPSF in the header is 1, expected T or F"),
    ((np.ones(9),), {"PIXSCALE": 0.2}, "has no picture, expected images of two dimensions or cubes"),
]


@pytest.mark.parametrize(("pixels", "header", "message"), WRONG)
def test_what_is_no_picture_is_refused(tmp_path: Path, pixels: tuple[np.ndarray, ...], header: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_pictures(write(tmp_path / "s.fits", *pixels, **header))


def test_files_that_are_no_pictures_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_pictures(tmp_path / "absent.fits")
    (tmp_path / "s.fits").write_text("no FITS")
    with pytest.raises(InputError):
        read_pictures(tmp_path / "s.fits")
