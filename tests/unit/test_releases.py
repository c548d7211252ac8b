"""Catalogs of every data release end up in one common table."""

from __future__ import annotations

import gzip
from pathlib import Path

import fitsio
import numpy as np
import pytest
from astropy.io import fits
from releases import BANDS, BRICK, BRICKID, COUNT, RELEASE_NUMBER, RELEASES, TYPES, WISE, tractor_table, value, write_table

from hpc_galaxy.bricks.catalog import PER_BAND, catalog_dtype, read_catalog
from hpc_galaxy.errors import InputError

SHAPE_R = {
    "DR3": [0, 0.45, 0.5, 0.9, 0.6, 1.2],
    "DR5": [0, 0.3, 0.5, 0.9, 0.6, 1.2],
    "DR8": [0, 0.3, 0.5, 0.9, 0.6, 1.2],
    "DR9": [0, 0.3, 0.5, 0.9, 0.7, 0],
    "DR10": [0, 0.3, 0.5, 0.9, 0.7, 0],
}
SERSIC = {name: [0, 1, 1, 4, 1, 4] if name in ("DR3", "DR5", "DR8") else [0, 1, 1, 4, 2.5, 0] for name in RELEASES}
SHAPE_E1 = {name: [0, 0, 0.1, 0.2, 0.1, 0.2] if name in ("DR3", "DR5", "DR8") else [0, 0, 0.1, 0.2, 0.3, 0] for name in RELEASES}


def write(folder: Path, table: np.ndarray, upper: bool = False, suffix: str = ".fits") -> Path:
    return write_table(folder / f"tractor-{BRICK}{suffix}", table, upper)


@pytest.mark.parametrize("upper", [False, True], ids=["lower case", "upper case"])
@pytest.mark.parametrize("release", RELEASES)
def test_every_release_is_mapped_to_the_common_table(release: str, upper: bool, tmp_path: Path) -> None:
    bands = tuple(BANDS[release])
    path = write(tmp_path, tractor_table(release), upper)
    assert ("RA" if upper else "ra") in fitsio.FITS(str(path))[1].get_colnames()
    catalog = read_catalog(path, bands)
    assert catalog.dtype == catalog_dtype(bands)
    assert catalog["release"].tolist() == [RELEASE_NUMBER.get(release, 3000)] * COUNT
    assert (catalog["brickid"] == BRICKID).all()
    assert catalog["objid"].tolist() == [0, 1, 2, 3, 4, 5]
    assert catalog["brick_primary"].tolist() == [True, False, True, True, True, True]
    assert catalog["type"].tolist() == [kind.strip().encode() for kind in TYPES[release]]
    np.testing.assert_array_equal(catalog["ra"], 121.1 + np.arange(6) / 1000)
    np.testing.assert_array_equal(catalog["by"], 1700 + np.arange(6))
    for band in bands:
        for name in (*PER_BAND, "allmask"):
            np.testing.assert_allclose(catalog[f"{name}_{band}"], value(name, band), rtol=1e-6, err_msg=f"{name}_{band}")
    assert catalog["shape_r"] == pytest.approx(SHAPE_R[release])
    assert catalog["sersic"] == pytest.approx(SERSIC[release])
    assert catalog["shape_e1"] == pytest.approx(SHAPE_E1[release])
    assert catalog["shape_e2"] == pytest.approx([0, 0, -0.1, -0.2, -0.1, -0.2] if SERSIC[release][5] else [0, 0, -0.1, -0.2, 0, 0])


@pytest.mark.parametrize("release", RELEASES)
def test_a_catalog_without_depths_is_read_and_they_are_not_known(release: str, tmp_path: Path) -> None:
    table, bands = tractor_table(release), tuple(BANDS[release])
    depths = [name for name in table.dtype.names or () if name.split("_")[0] == "psfdepth" or name == "decam_depth"]
    assert len(depths) == {"DR3": 1, "DR5": 6, "DR10": 4}.get(release, 3)
    path = write(tmp_path, table[[name for name in table.dtype.names or () if name not in depths]])
    catalog = read_catalog(path, bands)
    for band in bands:
        assert np.isnan(catalog[f"psfdepth_{band}"]).all()
        np.testing.assert_allclose(catalog[f"psfsize_{band}"], value("psfsize", band), rtol=1e-6)
    # By name: a condition on NaN would keep nothing, and nobody would know why.
    with pytest.raises(InputError, match=rf"tractor-{BRICK}\.fits: has no column '(decam_depth|psfdepth_g)', expected it: 'psfdepth_g' is"):
        read_catalog(path, bands, ["psfdepth_g"])
    read_catalog(path, ("r",), ["flux_r"])
    assert read_catalog(write(tmp_path, table), bands, ["psfdepth_g"]).dtype == catalog_dtype(bands)


def test_a_depth_may_be_there_in_one_band_alone(tmp_path: Path) -> None:
    table = tractor_table("DR9")
    catalog = read_catalog(write(tmp_path, table[[name for name in table.dtype.names or () if name != "psfdepth_r"]]), extra=["psfdepth_g"])
    assert [bool(np.isnan(catalog[f"psfdepth_{band}"]).all()) for band in "grz"] == [False, True, False]


def test_maskbits_are_those_of_the_release_and_0_where_it_has_none(tmp_path: Path) -> None:
    bits = {release: read_catalog(write(tmp_path, tractor_table(release)))["maskbits"].tolist() for release in RELEASES}
    assert bits["DR3"] == bits["DR5"] == [0] * 6
    assert bits["DR8"] == bits["DR9"] == [0, 2, 0, 4096, 0, 4096]
    assert bits["DR10"] == [0, 2, 0, 4096, 0, 32768]  # beyond 16 bits


def test_infrared_columns_are_never_taken_for_bands(tmp_path: Path) -> None:
    for release in RELEASES:
        catalog = read_catalog(write(tmp_path, tractor_table(release)), tuple(BANDS[release]))
        assert not any((catalog[name] == WISE).any() for name in catalog.dtype.names or () if name[-2:-1] == "_")
    lacking = tractor_table("DR9")[[name for name in tractor_table("DR9").dtype.names or () if not name.endswith("_z")]]
    with pytest.raises(InputError, match="has no columns of band z"):
        read_catalog(write(tmp_path, lacking))


@pytest.mark.parametrize("release", ["DR3", "DR5", "DR8", "DR9"])
def test_a_band_that_a_release_lacks_is_named_with_the_file(release: str, tmp_path: Path) -> None:
    # DR3 and DR5 do have columns of i, which hold zeros.
    path = write(tmp_path, tractor_table(release))
    with pytest.raises(InputError, match=rf"tractor-{BRICK}\.fits: has no columns of band i, DR.* with the bands g, r, z; take"):
        read_catalog(path, ("g", "r", "i", "z"))


def test_bands_are_read_in_the_order_asked_for(tmp_path: Path) -> None:
    catalog = read_catalog(write(tmp_path, tractor_table("DR10")), ("z", "i"))
    assert [name for name in catalog.dtype.names or () if name.startswith("flux_ivar")] == ["flux_ivar_z", "flux_ivar_i"]
    assert "flux_g" not in (catalog.dtype.names or ())


@pytest.mark.parametrize("kind", ["S3", "S4", "S12"])
def test_types_of_any_width_are_stripped_of_their_padding(kind: str, tmp_path: Path) -> None:
    table = tractor_table("DR9")
    wide = table.astype([(name, kind if name == "type" else table.dtype[name]) for name in table.dtype.names or ()])
    wide["type"] = np.char.ljust(np.array(TYPES["DR9"]), int(kind[1:])).astype("S")
    assert read_catalog(write(tmp_path, wide))["type"].tolist() == [kind.encode() for kind in TYPES["DR9"]]


def test_types_are_stripped_whether_bytes_or_text() -> None:
    from hpc_galaxy.bricks.catalog import _stripped

    for given in (np.array(["REX ", " PSF", "DUP"]), np.array([b"REX ", b" PSF", b"DUP\0"])):
        assert _stripped(given).tolist() == [b"REX", b"PSF", b"DUP"]


def test_duplicates_stay_in_the_table(tmp_path: Path) -> None:
    assert read_catalog(write(tmp_path, tractor_table("DR8")))["type"].tolist().count(b"DUP") == 1
    assert read_catalog(write(tmp_path, tractor_table("DR10")))["type"].tolist().count(b"DUP") == 1


def test_brick_primary_as_a_letter_is_understood(tmp_path: Path) -> None:
    table = tractor_table("DR3")
    letters = table.astype([(name, "S1" if name == "brick_primary" else table.dtype[name]) for name in table.dtype.names or ()])
    letters["brick_primary"] = [b"T", b"F", b"T", b"T", b"T", b"T"]
    assert read_catalog(write(tmp_path, letters))["brick_primary"].tolist() == [True, False, True, True, True, True]


@pytest.mark.parametrize("release", RELEASES)
def test_an_empty_catalog_is_an_empty_table(release: str, tmp_path: Path) -> None:
    catalog = read_catalog(write(tmp_path, tractor_table(release, 0)), extra=["ebv"])
    assert len(catalog) == 0
    assert catalog.dtype.names == (*(catalog_dtype().names or ()), "ebv")


def test_catalogs_are_found_under_every_suffix(tmp_path: Path) -> None:
    path = write(tmp_path, tractor_table("DR9"))
    expected = read_catalog(path)
    other = path.rename(path.with_name(f"tractor-{BRICK}.fits.fz"))  # some files of that name are not compressed
    np.testing.assert_array_equal(read_catalog(path), expected)
    path.with_name(f"tractor-{BRICK}.fits.gz").write_bytes(gzip.compress(other.read_bytes()))
    other.unlink()
    np.testing.assert_array_equal(read_catalog(path), expected)


def test_a_table_behind_an_image_is_found_by_content(tmp_path: Path) -> None:
    path = tmp_path / f"tractor-{BRICK}.fits"
    fitsio.write(str(path), np.zeros((2, 2), np.float32))
    fitsio.write(str(path), np.zeros((3, 3), np.float32))
    fitsio.write(str(path), tractor_table("DR9"))
    assert len(read_catalog(path)) == COUNT


def test_extra_columns_are_appended_under_the_names_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path, tractor_table("DR9"), upper=True)
    catalog = read_catalog(path, ("r",), ["ebv", "dchisq", "Flux_W1", "flux_r", "ebv"])
    assert catalog.dtype.names == (*(catalog_dtype(("r",)).names or ()), "ebv", "dchisq", "Flux_W1")
    assert catalog["Flux_W1"].tolist() == [WISE] * COUNT
    assert catalog["dchisq"].shape == (COUNT, 5)
    assert all(catalog.dtype[name].isnative for name in catalog.dtype.names or ())


def test_an_extra_column_that_is_not_there_is_an_error_that_names_the_nearest(tmp_path: Path) -> None:
    path = write(tmp_path, tractor_table("DR9"))
    with pytest.raises(InputError, match="has no column 'fracflux_q'; the nearest names are fracflux_"):
        read_catalog(path, extra=["fracflux_q"])
    with pytest.raises(InputError, match="has no column 'xyzzy'; the nearest names are not there either"):
        read_catalog(path, extra=["xyzzy"])


def test_missing_columns_and_arrays_of_another_length_are_named(tmp_path: Path) -> None:
    table = tractor_table("DR8")
    names = [name for name in table.dtype.names or () if name not in ("allmask_r", "bx")]
    with pytest.raises(InputError, match="lacks the columns bx, expected a Tractor catalog of DR3, DR5, DR8, DR9 or DR10"):
        read_catalog(write(tmp_path, table[names]))
    with pytest.raises(InputError, match="lacks the columns allmask_r, expected"):
        read_catalog(write(tmp_path, table[[*names, "bx"]]))
    table = tractor_table("DR3")
    short = [(name, "f4", 5) if name == "decam_flux" else (name, table.dtype[name]) for name in table.dtype.names or ()]
    with pytest.raises(InputError, match="decam_flux has 5 values a row, expected 6, the bands ugrizY"):
        read_catalog(write(tmp_path, np.zeros(2, short)))


def test_columns_of_another_kind_are_refused(tmp_path: Path) -> None:
    table = tractor_table("DR9")
    for name, kind in (("ra", "S8"), ("flux_r", "S8"), ("shape_r", "S8"), ("dec", "(2,)f8")):
        other = np.zeros(2, [(column, kind if column == name else table.dtype[column]) for column in table.dtype.names or ()])
        if kind == "S8":
            other[name] = b"text"
        with pytest.raises(InputError, match="has a column of another kind than a Tractor catalog"):
            read_catalog(write(tmp_path, other))


def test_files_that_are_no_catalogs_are_refused(tmp_path: Path) -> None:
    path = tmp_path / f"tractor-{BRICK}.fits"
    with pytest.raises(InputError, match="no such file"):
        read_catalog(path)
    fitsio.write(str(path), np.zeros((2, 2), np.float32))
    with pytest.raises(InputError, match="has no FITS table"):
        read_catalog(path)
    whole = write(tmp_path, tractor_table("DR9", 200)).read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:4000], b"SIMPLE", b""):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"not a readable FITS table|has no FITS table"):
            read_catalog(path)


def test_a_compressed_table_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, tractor_table("DR9"))
    with fits.open(path, mode="update") as hdus:
        hdus[1].header["ZTABLE"] = True
    with pytest.raises(InputError, match="is a compressed table, expected a plain one; run 'funpack' on it"):
        read_catalog(path)
