"""Where fakes go, the PSF they are drawn with there, and what is kept of them."""

from __future__ import annotations

from pathlib import Path

import fitsio
import h5py
import numpy as np
import pytest

from hpc_galaxy.bricks.conditions import Conditions
from hpc_galaxy.bricks.galaxies import GALAXY_DTYPE, draw, draw_source, moffat
from hpc_galaxy.bricks.images import BANDS, read_plane
from hpc_galaxy.bricks.layout import coadd_path, obiwan_path, read_table
from hpc_galaxy.bricks.maskbits import maskbits_path
from hpc_galaxy.bricks.survey import make_survey
from hpc_galaxy.bricks.views import list_bricks
from hpc_galaxy.config import Config, Defects, load_config
from hpc_galaxy.errors import ConfigError, InputError
from hpc_galaxy.injection.inject import inject
from hpc_galaxy.injection.places import draw_again, forbidden
from hpc_galaxy.injection.psf import brick_psfs
from hpc_galaxy.world import World

CONDITIONS = Conditions(dict.fromkeys(BANDS, 1.2), dict.fromkeys(BANDS, 0.005), dict.fromkeys(BANDS, 0.9))
NPIX, BRICK, STAR = 192, "1201p060", 1 << 1


def fakes_at(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    fakes = np.zeros(len(x), GALAXY_DTYPE)
    fakes["x"], fakes["y"] = x, y
    return fakes


def test_places_without_data_or_with_a_bit_are_drawn_again_and_others_stay() -> None:
    planes = {f"invvar_{band}": np.ones((80, 60), np.float32) for band in BANDS}
    planes["invvar_z"][:, :30] = 0  # one band is enough
    bits = np.zeros((80, 60), np.int32)
    bits[:40], bits[60:] = 1 << 1, 1 << 4
    rng = np.random.default_rng(1)
    before = fakes_at(rng.uniform(-0.5, 59.5, 400), rng.uniform(-0.5, 79.5, 400))
    bad = forbidden(planes, bits, 1 << 1)
    after = before.copy()
    assert not draw_again(np.random.default_rng(2), after, bad).any()
    y, x = (np.rint(after[name]).astype(int).clip(0, size - 1) for name, size in (("y", 80), ("x", 60)))
    assert not bad[y, x].any()
    assert (y >= 60).any()  # a bit that nobody named
    good = (np.rint(before["x"]) >= 30) & (np.rint(before["y"]) >= 40)
    np.testing.assert_array_equal(after[good], before[good])
    again = before.copy()
    draw_again(np.random.default_rng(2), again, bad)
    np.testing.assert_array_equal(again, after)


def test_fakes_without_any_place_are_given_up() -> None:
    planes = {f"invvar_{band}": np.zeros((20, 20), np.float32) for band in BANDS}
    assert draw_again(np.random.default_rng(1), fakes_at(np.full(3, 5.0), np.full(3, 5.0)), forbidden(planes, None, 0)).all()


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    root = tmp_path_factory.mktemp("places")
    paths = [f"paths.{name}='{root}/{name}'" for name in ("survey", "obiwan", "psf")]
    made = load_config(None, [*paths, "survey.bricks=1", f"survey.npix={NPIX}", "survey.galaxies_per_arcmin2=30", "injection.per_brick=8"])
    make_survey(made, World())
    return made


def with_injection(config: Config, root: Path, **changes: object) -> Config:
    injection = config.injection.model_copy(update=changes)
    return config.model_copy(update={"injection": injection, "paths": config.paths.model_copy(update={"obiwan": root / "obiwan"})})


def test_masked_pixels_get_no_fake_and_twins_move_too(config: Config, tmp_path: Path) -> None:
    wanted = with_injection(config, tmp_path, properties="matched", reject_masked=True, reject_bits=("BRIGHT",), collision_arcsec=0.0)
    path = maskbits_path(config.paths.survey, BRICK)
    with pytest.raises(InputError, match=r"no such file, expected it: injection\.reject_bits names bits of it"):
        inject(wanted, World())
    bits = np.zeros((NPIX, NPIX), np.int16)
    bits[:, : NPIX // 2] = STAR
    fitsio.write(str(path), bits, compress="HCOMPRESS", clobber=True)
    try:
        inject(wanted, World())
        added = read_table(obiwan_path(wanted.paths.obiwan, BRICK, "rs0", "simcat-elg"))
        assert len(added) == len(read_table(obiwan_path(wanted.paths.obiwan, BRICK, "rs0", "sim_ids_added"))) == 8
        assert (np.rint(added["x"] - 1) >= NPIX // 2).all()
    finally:
        path.unlink()


def test_a_bit_that_does_not_exist_is_refused(config: Config, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"injection\.reject_bits: unknown bit 'BRIHGT', the nearest is 'BRIGHT'"):
        inject(with_injection(config, tmp_path, reject_masked=True, reject_bits=("BRIHGT",)), World())


def test_what_is_kept_adds_up(config: Config, tmp_path: Path) -> None:
    wanted = with_injection(config, tmp_path, keep=("noiseless", "before", "after"), collision_arcsec=20.0, poisson=False)
    inject(wanted, World())
    added = read_table(obiwan_path(wanted.paths.obiwan, BRICK, "rs0", "sim_ids_added"))["id"]
    simcat = read_table(obiwan_path(wanted.paths.obiwan, BRICK, "rs0", "simcat-elg"))[added]
    own = read_plane(coadd_path(config.paths.survey, BRICK, "image", "r")).pixels
    with h5py.File(tmp_path / "obiwan" / "obiwan" / BRICK[:3] / BRICK / "rs0" / f"injected-{BRICK}.h5") as file:
        assert file["id"][:].tolist() == added.tolist()
        np.testing.assert_allclose(file["x"][:], simcat["x"] - 1)
        noiseless, before, after = (file[name][:] for name in ("noiseless", "before", "after"))
        x, y = file["x"][:], file["y"][:]
    assert noiseless.shape == (len(added), 64, 64, 3)
    for number in range(len(added)):
        left, bottom = int(np.ceil(x[number] - 32)), int(np.ceil(y[number] - 32))
        here = np.s_[max(0, bottom) : bottom + 64, max(0, left) : left + 64]
        there = np.s_[max(0, -bottom) : NPIX - bottom, max(0, -left) : NPIX - left]
        np.testing.assert_array_equal(before[number, :, :, 1][there], own[here])
        # In the middle nobody else's light is: 20 arcsec are 76 pixels.
        middle = np.s_[28:36, 28:36]
        data = before[number][middle] != 0  # not in dead columns
        np.testing.assert_allclose((after - before)[number][middle][data], noiseless[number][middle][data], atol=1e-5)
    inside = (np.abs(x - NPIX / 2) < 60) & (np.abs(y - NPIX / 2) < 60)
    flux = noiseless[..., 0].sum(axis=(1, 2))[inside]
    np.testing.assert_allclose(flux, simcat["gflux"][inside], rtol=0.1)


def write_psf(folder: Path, name: str, fwhm: float, side: int = 63, scale: float | None = None, moved: float = 0.0) -> None:
    folder.mkdir(exist_ok=True)
    image = moffat(fwhm).drawImage(nx=side, ny=side, scale=scale or 0.262, offset=(moved, 0), method="no_pixel").array * 37
    fitsio.write(str(folder / name), image, header=[{"name": "PIXSCALE", "value": scale}] if scale else None, clobber=True)


def seen(config: Config, band: str = "r", x: float = 50.3, y: float = 49.8) -> np.ndarray:
    """Return a star as the configured PSF shows it, shape (100, 100)."""
    psf = brick_psfs(config, BRICK, CONDITIONS, (NPIX, NPIX))[band](x, y)
    light = np.zeros((100, 100))
    stamp = draw_source(psf.profile * 10, (50.3, 49.8), 61, (100, 100))
    light[stamp.rows, stamp.columns] = stamp.pixels
    return light


def star(fwhm: float) -> np.ndarray:
    row = fakes_at(np.array([50.3]), np.array([49.8]))
    row["flux_r"] = 10
    light, stamp = np.zeros((100, 100)), draw(row[0], "r", moffat(fwhm), (100, 100))
    light[stamp.rows, stamp.columns] = stamp.pixels
    return light


def test_the_psf_of_a_picture_is_drawn_as_it_is(config: Config) -> None:
    wanted = with_injection(config, config.paths.survey.parent, psf="image")
    folder = config.paths.psf
    with pytest.raises(InputError, match=rf"has neither psf-{BRICK}-g.fits nor psf-g.fits"):
        brick_psfs(wanted, BRICK, CONDITIONS, (NPIX, NPIX))
    for band in BANDS:
        write_psf(folder, f"psf-{band}.fits", 1.5)
    for band in ("r", "z"):
        write_psf(folder, f"psf-{BRICK}-{band}.fits", 1.3, 121, 0.131)  # finer pixels, of this brick alone
    for band, fwhm in (("g", 1.5), ("r", 1.3)):
        assert np.abs(seen(wanted, band) - star(fwhm)).max() < 0.01 * star(fwhm).max()
    wider = wanted.model_copy(update={"injection": wanted.injection.model_copy(update={"defects": Defects(psf=0.1)})})
    assert np.abs(seen(wider) - star(1.43)).max() < 0.01 * star(1.43).max()


NO_PSF = [
    ("moved", "its centroid lies [+]0.5. pixels off the middle of the picture in x"),
    ("dark", "its pixels sum to 0"),
    ("cube", "has no image"),
]


@pytest.mark.parametrize(("name", "message"), NO_PSF)
def test_a_picture_that_is_no_psf_is_refused(config: Config, tmp_path: Path, name: str, message: str) -> None:
    folder = tmp_path / "psf"
    write_psf(folder, "psf-g.fits", 1.2, moved=0.55)
    if name != "moved":
        fitsio.write(str(folder / "psf-g.fits"), np.zeros((9, 9) if name == "dark" else (2, 9, 9)), clobber=True)
    wanted = with_injection(config, tmp_path, psf="image")
    wanted = wanted.model_copy(update={"paths": wanted.paths.model_copy(update={"psf": folder})})
    with pytest.raises(InputError, match=message):
        brick_psfs(wanted, BRICK, CONDITIONS, (NPIX, NPIX))


def test_the_psf_of_a_map_is_the_one_where_the_galaxy_lies(config: Config) -> None:
    wanted = with_injection(config, config.paths.survey.parent, psf="map")
    with pytest.raises(InputError, match=r"no such map of the PSF's size"):
        brick_psfs(wanted, BRICK, CONDITIONS, (NPIX, NPIX))
    sizes = np.full((NPIX, NPIX), 1.5, np.float32)
    sizes[50:60, 50:60], sizes[100:] = 1.0, 0
    for band in BANDS:
        path = coadd_path(config.paths.survey, BRICK, "psfsize", band)
        fitsio.write(str(path), sizes, compress="GZIP", qlevel=0, clobber=True)
    for (x, y), fwhm in {(50.3, 49.8): 1.0, (49.4, 52.0): 1.5, (60.0, 150.0): 1.2, (-0.4, 5.0): 1.5}.items():
        # The stamps are not of the same size, nor are the Fourier transforms behind them.
        np.testing.assert_allclose(seen(wanted, x=x, y=y), star(fwhm), atol=3e-4 * star(fwhm).max())
    with pytest.raises(InputError, match=r"has shape \(192, 192\), expected \(50, 50\), the coadd's"):
        brick_psfs(wanted, BRICK, CONDITIONS, (50, 50))


def test_bricks_are_what_the_tests_think(config: Config) -> None:
    assert list_bricks(config.paths.survey) == [BRICK]
