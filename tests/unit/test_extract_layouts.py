"""Extraction from every release and layout, from the files to the stamps."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fitsio
import h5py
import numpy as np
import pytest
import releases
from releases import BRICK

from hpc_galaxy.bricks.geometry import brick_wcs
from hpc_galaxy.bricks.images import wcs_header
from hpc_galaxy.config import load_config
from hpc_galaxy.cutouts.extract import extract
from hpc_galaxy.errors import ConfigError, StageError
from hpc_galaxy.shards.cutout_file import CutoutFile, cutout_path, open_cutouts
from hpc_galaxy.shards.layouts import open_stamps
from hpc_galaxy.world import World

NPIX = 200
X = np.array([60, 90, 120, 150, 70, 130]) + 0.25
Y = np.array([60, 60, 60, 60, 120, 120]) - 0.25
WCS = brick_wcs(121.1, 6.0, NPIX)


def pixels(plane: str, band: str, offset: float = 0) -> np.ndarray:
    """Return a plane whose every pixel tells plane, band and place."""
    y, x = np.mgrid[:NPIX, :NPIX]
    return (x + 1000 * y + 1e6 * "griz".index(band) + (4e6 if plane == "invvar" else 0) + offset).astype(np.float32)


def write_coadds(
    folder: Path, bands: str, offset: float = 0, suffix: str = ".fits.fz", planes: Sequence[str] = ("image", "invvar")
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for plane in planes:
        for band in bands:
            path = folder / f"legacysurvey-{BRICK}-{plane}-{band}{suffix}"
            fitsio.write(str(path), pixels(plane, band, offset), header=wcs_header(WCS, BRICK, plane, band), clobber=True)


def catalog(name: str, rows: int = releases.COUNT, **columns: Any) -> np.ndarray:
    """Return a release's catalog with sources where the tests want them."""
    table = releases.tractor_table(name, rows)
    table["bx"], table["by"] = X[:rows], Y[:rows]
    table["ra"], table["dec"] = WCS.all_pix2world(X[:rows], Y[:rows], 0)
    for column, value in columns.items():
        table[column] = value
    return table


def write_survey(root: Path, name: str, bands: str, suffix: str = ".fits.fz", **columns: Any) -> None:
    releases.write_table(root / "tractor" / BRICK[:3] / f"tractor-{BRICK}.fits", catalog(name, **columns))
    write_coadds(root / "coadd" / BRICK[:3] / BRICK, bands, suffix=suffix)


def run(root: Path, *overrides: str) -> None:
    paths = [f"paths.{name}='{root}/{name}'" for name in ("survey", "obiwan", "cutouts")] + [f"paths.positions='{root}/positions.csv'"]
    extract(load_config(None, [*paths, *(f"extract.{override}" for override in overrides)]), World())


REAL = ("classes=['real']", "real_from='survey'", "selection='all'")


def expected(cutouts: CutoutFile, row: np.void, offset: float = 0) -> np.ndarray:
    """Return the stamp of a row of the source table, made from the formula."""
    size = cutouts.stamps.size
    x0, y0 = (int(np.ceil(float(row[axis]) - size / 2)) for axis in ("bx", "by"))
    planes = [pixels(plane, band, offset) for plane in cutouts.stamps.planes for band in cutouts.stamps.bands]
    return np.stack(planes, axis=-1)[y0 : y0 + size, x0 : x0 + size]


@pytest.mark.parametrize(
    ("release", "bands", "suffix"),
    [
        ("DR3", "grz", ".fits"),
        ("DR5", "grz", ".fits.gz"),
        ("DR8", "grz", ".fits.fz"),
        ("DR9", "grz", ".fits.fz"),
        ("DR10", "griz", ".fits.fz"),
    ],
)
def test_every_release_gives_the_pixels_around_its_positions(tmp_path: Path, release: str, bands: str, suffix: str) -> None:
    write_survey(tmp_path / "survey", release, bands, suffix)
    run(tmp_path, *REAL, f"bands={list(bands)}", "size=32")
    with open_cutouts(cutout_path(tmp_path / "cutouts", "real", BRICK)) as cutouts:
        table, images = cutouts.sources(), cutouts.images()
        assert images.shape == (6, 32, 32, 2 * len(bands))
        for row, stamp in zip(table, images, strict=True):
            np.testing.assert_array_equal(stamp, expected(cutouts, row))
        assert json.loads(cutouts.attributes["release"]) == [releases.RELEASE_NUMBER.get(release, 3000)]
        inputs = json.loads(cutouts.attributes["inputs"])
    assert len(inputs) == 1 + 2 * len(bands)
    for entry in inputs:
        path = tmp_path / "survey" / entry["path"]
        assert path.stat().st_size == entry["bytes"]
        assert len(entry.get("sha256", "")) == 64 or entry["datasum"] > 0


def test_planes_and_bands_are_chosen(tmp_path: Path) -> None:
    write_survey(tmp_path / "survey", "DR9", "grz")
    run(tmp_path, *REAL, "bands=['z','r']", "planes=['image']", "size=16")
    with open_cutouts(cutout_path(tmp_path / "cutouts", "real", BRICK)) as cutouts:
        assert cutouts.stamps.channels == ("image_z", "image_r")
        np.testing.assert_array_equal(cutouts.images()[0], expected(cutouts, cutouts.sources()[0]))
        assert "mag_z" in cutouts.sources().dtype.names and "mag_g" not in cutouts.sources().dtype.names


def test_a_band_that_a_release_lacks_is_named(tmp_path: Path) -> None:
    write_survey(tmp_path / "survey", "DR9", "grz")
    with pytest.raises(StageError, match=rf"legacysurvey-{BRICK}-image-i\.fits\.fz: no such file"):
        run(tmp_path, *REAL, "bands=['g','i']")


def test_north_and_south_of_one_brick_share_a_file_and_no_id(tmp_path: Path) -> None:
    write_survey(tmp_path / "survey" / "north", "DR9", "grz", release=9011)
    write_survey(tmp_path / "survey" / "south", "DR9", "grz", release=9010)
    run(tmp_path, *REAL, "size=16")
    with open_cutouts(cutout_path(tmp_path / "cutouts", "real", BRICK)) as cutouts:
        table = cutouts.sources()
        assert json.loads(cutouts.attributes["release"]) == [9010, 9011]
        assert {entry["path"].split("/")[0] for entry in json.loads(cutouts.attributes["inputs"])} == {"north", "south"}
    assert len(set(table["id"])) == len(table) == 12


def write_obiwan(root: Path, rs: str, injected: list[int], added: list[int], offset: float) -> None:
    """Write a realisation in which the catalog's rows `injected` are simcat rows with ids 10, 11, ..., of which `added` were injected."""
    releases.write_obiwan(root, rs, [10 + number for number in injected], [10 + number for number in added])
    folder = Path(BRICK[:3]) / BRICK / rs
    path = root / "obiwan" / folder / f"simcat-elg-{BRICK}.fits"
    simcat = fitsio.read(str(path))
    simcat["ra"], simcat["dec"] = WCS.all_pix2world(X[injected], Y[injected], 0)
    releases.write_table(path, simcat)
    releases.write_table(root / "tractor" / folder / f"tractor-{BRICK}.fits", catalog("DR5"))
    write_coadds(root / "coadd" / folder, "grz", offset)


def test_all_kinds_of_obiwan_realisations_make_fakes_with_ids_of_their_own(tmp_path: Path) -> None:
    kinds = ("rs0", "skip_rs0", "more_rs0", "more_skip_rs0")
    for number, rs in enumerate(kinds):
        write_obiwan(tmp_path / "obiwan", rs, [0, 1, 2], [0, 2], 0.125 * number)
    run(tmp_path, "selection='all'", "size=16")
    with open_cutouts(cutout_path(tmp_path / "cutouts", "fake", BRICK)) as cutouts:
        table, images = cutouts.sources(), cutouts.images()
        for row, stamp in zip(table, images, strict=True):
            np.testing.assert_array_equal(stamp, expected(cutouts, row, 0.125 * kinds.index(row["rs"].decode())))
        assert len(json.loads(cutouts.attributes["inputs"])) == 4 * (3 + 6)
    assert sorted(table["id"].tolist()) == sorted(f"{rs}-{BRICK}-{number}".encode() for rs in kinds for number in (10, 12))
    # An id is one galaxy in all realisations, under other dust and turned.
    keys = [set(table["injected"][np.char.endswith(table["id"], str(number).encode())].tolist()) for number in (10, 12)]
    assert [len(found) for found in keys] == [1, 1]
    assert keys[0] != keys[1] and 0 not in keys[0] | keys[1]
    with open_cutouts(cutout_path(tmp_path / "cutouts", "real", BRICK)) as cutouts:
        # Row 1 is in the simcat and was not injected: what the catalog has there is real. The first realisation's are enough.
        assert sorted(cutouts.sources()["id"].tolist()) == [f"5000-{releases.BRICKID}-{row}".encode() for row in (1, 3, 4, 5)]
        assert set(cutouts.sources()["rs"]) == {b"rs0"}
        assert set(cutouts.sources()["injected"]) == {0}


def test_legacysim_is_read_and_what_collided_is_not_fake(tmp_path: Path) -> None:
    for rs in ("file0_rs0_skip0", "file0_rs10_skip0"):
        releases.write_legacysim(tmp_path / "obiwan", rs, [0, 1], [False, True])
        path = tmp_path / "obiwan" / rs / "sim" / BRICK[:3] / f"injected-{BRICK}.fits"
        injected = fitsio.read(str(path))
        injected["ra"], injected["dec"] = WCS.all_pix2world(X[:2], Y[:2], 0)
        releases.write_table(path, injected)
        releases.write_table(tmp_path / "obiwan" / rs / "tractor" / BRICK[:3] / f"tractor-{BRICK}.fits", catalog("DR9"))
        write_coadds(tmp_path / "obiwan" / rs / "coadd" / BRICK[:3] / BRICK, "grz")
    run(tmp_path, "selection='all'", "size=16")
    with open_cutouts(cutout_path(tmp_path / "cutouts", "fake", BRICK)) as cutouts:
        assert cutouts.sources()["id"].tolist() == [f"{rs}-{BRICK}-0".encode() for rs in ("file0_rs0_skip0", "file0_rs10_skip0")]
    with open_cutouts(cutout_path(tmp_path / "cutouts", "real", BRICK)) as cutouts:
        assert f"9010-{releases.BRICKID}-1".encode() in cutouts.sources()["id"].tolist()


def write_bricks(root: Path) -> None:
    floats = [(name, "f8") for name in ("RA", "DEC", "RA1", "RA2", "DEC1", "DEC2")]
    bricks = np.zeros(1, [("BRICKNAME", "S8"), *[(name, "i4") for name in ("BRICKID", "BRICKROW", "BRICKCOL")], *floats])
    bricks["BRICKNAME"], bricks["RA1"], bricks["RA2"], bricks["DEC1"], bricks["DEC2"] = BRICK, 121.0, 121.25, 5.875, 6.125
    fitsio.write(str(root / "survey-bricks.fits.gz"), bricks)


def test_a_position_at_the_seam_of_north_and_south_is_cut_once(tmp_path: Path) -> None:
    for region in ("north", "south"):
        write_survey(tmp_path / "survey" / region, "DR9", "grz")
    write_bricks(tmp_path / "survey")
    (tmp_path / "positions.csv").write_text("id,ra,dec\n1,121.1,6.0\n")
    run(tmp_path, "classes=['user']", "size=16")
    with open_cutouts(cutout_path(tmp_path / "cutouts", "user", BRICK)) as cutouts:
        assert len(cutouts) == 1


def test_a_negative_inverse_variance_is_no_data(tmp_path: Path) -> None:
    write_survey(tmp_path / "survey", "DR9", "grz")
    path = tmp_path / "survey" / "coadd" / BRICK[:3] / BRICK / f"legacysurvey-{BRICK}-invvar-r.fits.fz"
    negative = pixels("invvar", "r")
    negative[60, 60] = -0.5
    fitsio.write(str(path), negative, clobber=True)
    run(tmp_path, *REAL, "size=16")
    with open_cutouts(cutout_path(tmp_path / "cutouts", "real", BRICK)) as cutouts:
        stamp = cutouts.images()[0]
    row, column = (60 - int(np.ceil(place - 8)) for place in (Y[0], X[0]))
    assert stamp[row, column, cutouts.stamps.channels.index("invvar_r")] == 0
    assert (np.delete(stamp[..., 3:].reshape(-1), (row * 16 + column) * 3 + 1) > 0).all()


def test_ones_own_positions_are_cut_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_survey(tmp_path / "survey", "DR9", "grz")
    write_bricks(tmp_path / "survey")
    ra, dec = WCS.all_pix2world([50.0, 100.3, 5000], [60.0, 99.6, 60], 0)
    rows = [f"{name},{x:.9f},{y:.9f}" for name, x, y in zip(["007", "host of SN", "outside"], [*ra[:2], 122], [*dec[:2], 6], strict=True)]
    (tmp_path / "positions.csv").write_text("\n".join(["ID,RA,Dec", *rows]) + "\n")
    run(tmp_path, "classes=['user']", "size=32")
    assert "extract: 1 of 3 positions lie in no brick of" in capsys.readouterr().out
    with open_cutouts(cutout_path(tmp_path / "cutouts", "user", BRICK)) as cutouts:
        table, images = cutouts.sources(), cutouts.images()
        assert table["id"].tolist() == [b"007", b"host of SN"]
        assert set(table["label"]) == {255}
        assert table["bx"] == pytest.approx([50.0, 100.3], abs=1e-3)
        for row, stamp in zip(table, images, strict=True):
            np.testing.assert_array_equal(stamp, expected(cutouts, row))
        assert np.isnan(table["mag_r"]).all() and np.isnan(table["psfdepth_z"]).all()
        assert set(table["injected"]) == {0}


def test_the_cut_flow_is_printed_and_stored_and_conditions_of_ones_own_are_in_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_survey(tmp_path / "survey", "DR9", "grz")
    run(
        tmp_path, "classes=['real']", "real_from='survey'", "selection=['not_duplicate']", "where.nearby='bx < 100 and ebv >= 0'", "size=16"
    )
    assert "extract: real: 6 in the catalogs, 3 cut out (not_duplicate -1, nearby -2)" in capsys.readouterr().out
    with open_cutouts(cutout_path(tmp_path / "cutouts", "real", BRICK)) as cutouts:
        flow = json.loads(cutouts.attributes["cut_flow"])
        assert (flow["catalog"], flow["not_duplicate"], flow["nearby"], len(cutouts)) == (6, 1, 2, 3)
        assert json.loads(cutouts.attributes["where"]) == {"nearby": "bx < 100 and ebv >= 0"}


def test_a_condition_on_the_depth_needs_a_depth(tmp_path: Path) -> None:
    condition = "where.deep='22.5 - 2.5 * log10(5 / sqrt(psfdepth_g)) > 23.125'"
    write_survey(tmp_path / "new" / "survey", "DR9", "grz", psfdepth_g=[80, 79, 81, np.nan, 100, 0.1])
    run(tmp_path / "new", *REAL, condition, "size=16")
    with open_cutouts(cutout_path(tmp_path / "new" / "cutouts", "real", BRICK)) as cutouts:
        assert cutouts.sources()["psfdepth_g"].tolist() == [80, 81, 100]
    table = catalog("DR9")
    for folder in ("old", "plain"):
        write_survey(tmp_path / folder / "survey", "DR9", "grz")
        path = tmp_path / folder / "survey" / "tractor" / BRICK[:3] / f"tractor-{BRICK}.fits"
        releases.write_table(path, table[[name for name in table.dtype.names or () if name != "psfdepth_g"]])
    with pytest.raises(StageError, match=rf"tractor-{BRICK}\.fits: has no column 'psfdepth_g', expected it"):
        run(tmp_path / "old", *REAL, condition, "size=16")
    run(tmp_path / "plain", *REAL, "size=16")
    with open_cutouts(cutout_path(tmp_path / "plain" / "cutouts", "real", BRICK)) as cutouts:
        assert np.isnan(cutouts.sources()["psfdepth_g"]).all()
        assert (cutouts.sources()["psfdepth_r"] > 80).all()


def test_a_wrong_cut_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown cut 'primry', the nearest is 'primary'"):
        run(tmp_path, *REAL[:2], "selection=['primry']")
    with pytest.raises(ConfigError, match="nearby"):
        run(tmp_path, *REAL, "where.nearby='__import__(1)'")


def test_masked_sources_are_removed_and_a_release_without_masks_is_refused(tmp_path: Path) -> None:
    write_survey(tmp_path / "new" / "survey", "DR9", "grz", maskbits=[0, 2, 1 << 11, 0, 4, 0], allmask_r=[0, 0, 0, 1, 0, 0])
    run(tmp_path / "new", *REAL, "maskbits=['BRIGHT','MEDIUM']", "allmask=['r']", "size=16")
    with open_cutouts(cutout_path(tmp_path / "new" / "cutouts", "real", BRICK)) as cutouts:
        assert cutouts.sources()["maskbits"].tolist() == [0, 4, 0]
    write_survey(tmp_path / "old" / "survey", "DR5", "grz")
    with pytest.raises(StageError, match="is of release 5000, which has no maskbits, expected 8000 or later"):
        run(tmp_path / "old", *REAL, "maskbits=['BRIGHT']")


def test_coadds_without_a_catalog_are_said_to_be_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_survey(tmp_path / "survey", "DR9", "grz")
    (tmp_path / "survey" / "coadd" / "130" / "1301p060").mkdir(parents=True)
    run(tmp_path, *REAL, "size=16")
    assert "extract: 1 bricks have coadds and no catalog, and are left out; the first is 1301p060" in capsys.readouterr().out


def test_the_2018_layout_is_written_on_request_and_read_back(tmp_path: Path) -> None:
    write_survey(tmp_path / "survey", "DR9", "grz")
    run(tmp_path, *REAL, "layout='2018'")
    path = tmp_path / "cutouts" / "real" / "hdf5" / BRICK[:3] / BRICK / "img_ivar_grz.hdf5"
    with h5py.File(path) as file:  # as 2018's scripts read it: axes (x, y, band)
        assert file["0/img"].shape == file["0/ivar"].shape == (64, 64, 3)
        np.testing.assert_array_equal(file["0/img"][:, :, 1].T, pixels("image", "r")[28:92, 29:93])
    with open_stamps(path) as cutouts:
        for row, stamp in zip(cutouts.sources(), cutouts.images(), strict=True):
            np.testing.assert_array_equal(stamp, expected(cutouts, row))
    before = path.stat().st_mtime_ns
    run(tmp_path, *REAL, "layout='2018'")
    assert path.stat().st_mtime_ns == before
    with pytest.raises(ConfigError, match="2018"):
        run(tmp_path / "other", *REAL, "layout='2018'", "size=32")


def test_neighbours_are_left_out_of_both_classes_and_counted(tmp_path: Path) -> None:
    write_survey(tmp_path / "survey", "DR9", "grz")
    path = tmp_path / "survey" / "tractor" / BRICK[:3] / f"tractor-{BRICK}.fits"
    table = catalog("DR9")
    table["ra"][1], table["dec"][1] = table["ra"][0], table["dec"][0] + 0.9 / 3600
    releases.write_table(path, table)
    run(tmp_path, *REAL, "size=16")
    with open_cutouts(cutout_path(tmp_path / "cutouts", "real", BRICK)) as cutouts:
        assert [name.split(b"-")[-1] for name in cutouts.sources()["id"].tolist()] == [b"2", b"3", b"4", b"5"]
        assert json.loads(cutouts.attributes["cut_flow"])["isolated"] == 2
