"""Coadds and catalogs on disk."""

from __future__ import annotations

from pathlib import Path

import fitsio
import numpy as np
import pytest
from astropy.io import fits

from hpc_galaxy.bricks.catalog import CATALOG_DTYPE, magnitudes, read_catalog, tractor_columns
from hpc_galaxy.bricks.geometry import brick_wcs
from hpc_galaxy.bricks.images import BANDS, PLANES, header_wcs, read_header, read_plane, read_planes, wcs_header, write_plane
from hpc_galaxy.bricks.layout import coadd_path, obiwan_path, tractor_path
from hpc_galaxy.errors import InputError

BRICK = "1211p060"


def write(root: Path, data: np.ndarray, plane: str = "image") -> Path:
    write_plane(root, BRICK, plane, "g", data, wcs_header(brick_wcs(121.1, 6.0, data.shape[0]), BRICK, plane, "g"))
    return coadd_path(root, BRICK, plane, "g")


def test_paths_are_those_of_the_legacy_surveys_and_obiwan() -> None:
    root = Path("dr9")
    assert coadd_path(root, BRICK, "image", "r") == root / "coadd/121/1211p060/legacysurvey-1211p060-image-r.fits.fz"
    assert coadd_path(root, BRICK, "invvar", "z", "rs0") == root / "coadd/121/1211p060/rs0/legacysurvey-1211p060-invvar-z.fits.fz"
    assert tractor_path(root, BRICK) == root / "tractor/121/tractor-1211p060.fits"
    assert tractor_path(root, BRICK, "rs0") == root / "tractor/121/1211p060/rs0/tractor-1211p060.fits"
    assert obiwan_path(root, BRICK, "rs0", "simcat-elg") == root / "obiwan/121/1211p060/rs0/simcat-elg-1211p060.fits"
    assert obiwan_path(root, BRICK, "rs0", "sim_ids_added") == root / "obiwan/121/1211p060/rs0/sim_ids_added.fits"


def test_coadd_round_trip_as_astropy_sees_it(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    data = rng.normal(0, 0.005, (250, 250)).astype(np.float32)
    data[40:50, 60] = 0
    path = write(tmp_path, data)
    with fits.open(path) as hdus:
        assert isinstance(hdus[1], fits.CompImageHDU)
        assert (hdus[1].compression_type, hdus[1].header["CRPIX1"], hdus[1].header["MAGZERO"]) == ("RICE_1", 125.5, 22.5)
        independent = np.asarray(hdus[1].data)
    ours = read_plane(path).pixels
    assert ours.dtype == np.float32
    np.testing.assert_array_equal(ours, independent)
    np.testing.assert_allclose(ours, data, atol=5.1e-5)  # half a quantum
    assert (ours[40:50, 60] == 0).all()
    assert header_wcs(read_header(tmp_path, BRICK, "image", "g")).all_pix2world(124.5, 124.5, 0) == pytest.approx((121.1, 6.0))


def test_written_coadds_carry_the_checksum_of_their_data_and_are_always_the_same_bytes(tmp_path: Path) -> None:
    data = np.random.default_rng(1).normal(0, 0.005, (120, 120)).astype(np.float32)
    path = write(tmp_path, data)
    with fits.open(path, checksum=True, disable_image_compression=True) as hdus:  # astropy warns where it disagrees
        stated = hdus[1].header["DATASUM"]
    assert int(stated) == read_plane(path).datasum != 0
    first = path.read_bytes()
    assert write(tmp_path, data).read_bytes() == first
    other = write(tmp_path / "other", data * 2)
    write_plane(tmp_path / "copy", BRICK, "image", "g", data, read_header(tmp_path / "other", BRICK, "image", "g"))
    assert int(stated) == read_plane(coadd_path(tmp_path / "copy", BRICK, "image", "g")).datasum != read_plane(other).datasum


def test_negative_invvar_is_no_data(tmp_path: Path) -> None:
    for plane in PLANES:
        for band in BANDS:
            path = coadd_path(tmp_path, BRICK, plane, band)
            path.parent.mkdir(parents=True, exist_ok=True)
            fitsio.write(str(path), np.array([[-2.0, 3.0]], np.float32))  # named .fz, not compressed
    assert read_plane(coadd_path(tmp_path, BRICK, "invvar", "g")).pixels.tolist() == [[-2.0, 3.0]]
    planes = read_planes(tmp_path, BRICK)
    assert planes["invvar_g"].tolist() == [[0.0, 3.0]]
    assert planes["image_g"].tolist() == [[-2.0, 3.0]]


def test_planes_of_a_brick_have_to_agree(tmp_path: Path) -> None:
    for plane in PLANES:
        for band in BANDS:
            write_plane(tmp_path, BRICK, plane, band, np.ones((120, 120), np.float32), [])
    assert list(read_planes(tmp_path, BRICK)) == ["image_g", "image_r", "image_z", "invvar_g", "invvar_r", "invvar_z"]
    bad = np.ones((120, 120), np.float32)
    bad[3, 4] = np.nan
    write_plane(tmp_path, BRICK, "image", "r", bad, [])
    with pytest.raises(InputError, match="image_r has 1 pixels that are no numbers, expected 0"):
        read_planes(tmp_path, BRICK)
    write_plane(tmp_path, BRICK, "image", "r", bad[:100], [])
    with pytest.raises(InputError, match="planes differ in shape"):
        read_planes(tmp_path, BRICK)


def test_missing_and_broken_coadds_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"legacysurvey-1211p060-image-g\.fits\.fz: no such file"):
        read_planes(tmp_path, BRICK)
    path = write(tmp_path, np.random.default_rng(1).normal(0, 1, (400, 400)).astype(np.float32))
    whole = path.read_bytes()
    for length, problem in (
        (len(whole) * 2 // 3, "not a readable FITS file .it ends after"),
        (3000, "the header of HDU 1 has no end"),
        (2880, "has no two-dimensional image"),
        (200, "the header of HDU 0 has no end"),
        (0, "not a readable FITS file"),
    ):
        path.write_bytes(whole[:length])
        for checksum in (True, False):
            with pytest.raises(InputError, match=problem) as caught:
                read_plane(path, checksum=checksum)
            assert caught.value.where == str(path)
    path.unlink()
    with pytest.raises(InputError, match=r"image-g\.fits\.fz: no such file"):
        read_plane(path)


def test_header_is_read_from_the_hdu_with_the_image(tmp_path: Path) -> None:
    path = coadd_path(tmp_path, BRICK, "image", "g")
    path.parent.mkdir(parents=True)
    fitsio.write(str(path), np.zeros((3, 4), np.float32), header={"MAGZERO": 22.5})  # named .fz, not compressed
    assert read_header(tmp_path, BRICK, "image", "g")["MAGZERO"] == 22.5


def dr5_table(count: int = 3) -> np.ndarray:
    columns = [("release", ">i4"), ("brickid", ">i4"), ("objid", ">i4"), ("brick_primary", "?"), ("type", "S4")]
    columns += [(name, ">f8") for name in ("ra", "dec")] + [(name, ">f4") for name in ("bx", "by")]
    columns += [
        (f"{name}_{band}", ">f4") for name in ("flux", "flux_ivar", "mw_transmission", "nobs", "psfsize", "allmask") for band in "grz"
    ]
    columns += [(name, ">f4") for name in ("shapeexp_r", "shapedev_r", "shapeexp_e1", "shapedev_e1")]
    table = np.zeros(count, columns)
    table["type"] = [b"REX ", b"DEV ", b"PSF "][:count]
    table["shapeexp_r"], table["shapedev_r"] = 0.5, 0.9
    table["shapeexp_e1"], table["shapedev_e1"] = 0.1, 0.2
    return table


def test_dr5_columns_are_mapped(tmp_path: Path) -> None:
    path = tmp_path / "tractor-1211p060.fits"
    fitsio.write(str(path), dr5_table())
    catalog = read_catalog(path)
    assert catalog.dtype == CATALOG_DTYPE
    assert catalog["type"].tolist() == [b"REX", b"DEV", b"PSF"]
    assert catalog["shape_r"] == pytest.approx([0.5, 0.9, 0])
    assert catalog["shape_e1"] == pytest.approx([0.1, 0.2, 0])
    assert catalog["sersic"].tolist() == [1, 4, 0]


def test_dr9_round_trip(tmp_path: Path) -> None:
    catalog = np.zeros(2, CATALOG_DTYPE)
    catalog["type"], catalog["sersic"], catalog["objid"] = [b"SER", b"EXP"], [2.2, 1.0], [7, 9]
    path = tmp_path / "tractor-1211p060.fits"
    fitsio.write(str(path), tractor_columns(catalog, BRICK))
    assert fitsio.read(str(path))["brickname"].tolist() == [BRICK, BRICK]
    np.testing.assert_array_equal(read_catalog(path), catalog)


def test_foreign_table_is_refused_by_name_of_its_missing_columns(tmp_path: Path) -> None:
    path = tmp_path / "tractor-1211p060.fits"
    fitsio.write(str(path), np.zeros(2, [("ra", "f8"), ("dec", "f8")]))
    with pytest.raises(InputError, match="lacks the columns brick_primary, brickid"):
        read_catalog(path)


def test_magnitudes_are_corrected_for_extinction_and_nan_without_flux() -> None:
    table = np.zeros(4, CATALOG_DTYPE)
    table["flux_g"], table["mw_transmission_g"] = [1.0, 0.8, -0.1, 1.0], [1.0, 0.8, 1.0, 0.0]
    assert magnitudes(table, "g")[:2] == pytest.approx([22.5, 22.5])
    assert np.isnan(magnitudes(table, "g")[2:]).all()
