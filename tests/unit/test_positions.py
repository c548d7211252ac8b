"""A user's own positions: read from three formats, sorted into bricks, found on coadds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import fitsio
import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from hpc_galaxy.bricks.geometry import Brick, brick_wcs, grid_brick
from hpc_galaxy.bricks.images import wcs_header, write_plane
from hpc_galaxy.bricks.layout import coadd_path
from hpc_galaxy.bricks.positions import POSITION_DTYPE, group_by_brick, pixel_positions, read_positions
from hpc_galaxy.errors import InputError


def write_csv(folder: Path, *rows: str, header: str = "id,ra,dec") -> Path:
    path = folder / "positions.csv"
    path.write_text("\n".join([header, *rows, ""]))
    return path


def test_csv_ecsv_and_fits_say_the_same(tmp_path: Path) -> None:
    ids, ra, dec = ["a", "b-2", "J0 +1"], [0.0, 359.99999999999, 121.1], [-6.5, 90.0, -90.0]
    table = Table({"DEC": dec, "mag": [20.0, 21.0, 22.0], "Id": ids, "RA": ra})
    table["mag"].unit = "mag"
    for name, kind in (("t.csv", "ascii.csv"), ("t.ecsv", "ascii.ecsv"), ("t.fits", "fits"), ("t.fits.gz", "fits")):
        path = tmp_path / name
        table.write(path, format=kind)
        positions = read_positions(path)
        assert positions.dtype == POSITION_DTYPE
        assert positions["id"].tolist() == [identifier.encode() for identifier in ids]
        assert positions["ra"].tolist() == ra
        assert positions["dec"].tolist() == dec


def test_numbers_are_ids_too_and_keep_their_zeros(tmp_path: Path) -> None:
    assert read_positions(write_csv(tmp_path, "007,1,2", "7,1,2", "1e3,3e2,-4.5"))["id"].tolist() == [b"007", b"7", b"1e3"]
    assert read_positions(write_csv(tmp_path, '"x,1",1,2'))["id"].tolist() == [b"x,1"]
    path = tmp_path / "positions.fits"
    Table({"id": np.array([12, 34], ">i8"), "ra": np.array([1, 2], ">f4"), "dec": [3, 4]}).write(path)
    positions = read_positions(path)
    assert positions["id"].tolist() == [b"12", b"34"]
    assert positions["ra"].tolist() == [1, 2]


def test_a_spreadsheets_mark_of_utf8_is_not_part_of_a_name(tmp_path: Path) -> None:
    path = write_csv(tmp_path, "a,1,2")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_positions(path)["id"].tolist() == [b"a"]


def test_a_catalog_of_the_survey_with_an_id_is_a_table_of_positions(tmp_path: Path) -> None:
    path = tmp_path / "positions.fits"
    table = np.zeros(2, [("ID", "S6"), ("RA", "f8"), ("DEC", "f8"), ("flux_g", "f4"), ("nanomaggies", "i2", 3)])
    table["ID"] = [b"a  ", b"b     "]
    fitsio.write(str(path), np.zeros((2, 2)))
    fitsio.write(str(path), table, units=["", "deg", "deg", "nanomaggy", "furlong"])
    fitsio.write(str(path), table[:1])
    assert read_positions(path)["id"].tolist() == [b"a", b"b"]


def test_an_empty_table_has_no_positions(tmp_path: Path) -> None:
    assert len(read_positions(write_csv(tmp_path))) == 0
    path = tmp_path / "positions.fits"
    fitsio.write(str(path), np.zeros(0, [("id", "S6"), ("ra", "f8"), ("dec", "f8")]))
    assert len(read_positions(path)) == 0


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        (["a,1,2", "b,360,2"], r"row 2 has the ra 360\.0, expected 0 <= ra < 360"),
        (["a,-0.001,2"], r"row 1 has the ra -0\.001, expected 0 <= ra < 360"),
        (["a,nan,2"], r"row 1 has the ra nan, expected 0 <= ra < 360"),
        (["a,1,2", "b,1,2", "c,1,90.1"], r"row 3 has the dec 90\.1, expected -90 <= dec <= 90"),
        (["a,1,-inf"], r"row 1 has the dec -inf, expected -90 <= dec <= 90"),
        (["a,1,2", "b,12:30:00,2"], r"row 2 has the ra '12:30:00', expected a number"),
        (["a,1,2", "b,,2"], r"row 2 has the ra '', expected a number"),
        (["a,1,2", "b,1,2", "a,3,4"], r"rows 1 and 3 have the same id 'a'"),
        (["a,1,2", " ,1,2"], r"row 2 has the id '', expected 1 to 48 printable ASCII characters"),
        (["é,1,2"], r"row 1 has the id 'é', expected 1 to 48 printable ASCII"),
        (["a\tb,1,2"], r"row 1 has the id 'a\\tb', expected 1 to 48 printable ASCII"),
        (["x" * 49 + ",1,2"], r"row 1 has the id 'x{49}', expected 1 to 48"),
        (["a,1"], r"row 1 has the dec '', expected a number"),
        (["a,1,2,3"], r"not a readable table"),
    ],
)
def test_bad_rows_are_named_by_their_number(rows: list[str], problem: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=problem):
        read_positions(write_csv(tmp_path, *rows))


def test_an_id_of_48_bytes_is_held_whole(tmp_path: Path) -> None:
    assert read_positions(write_csv(tmp_path, "x" * 48 + ",1,2"))["id"].tolist() == [b"x" * 48]


def test_columns_have_to_be_there_once(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has 0 columns 'id', expected 1; its columns are name, ra, dec"):
        read_positions(write_csv(tmp_path, "a,1,2", header="name,ra,dec"))
    with pytest.raises(InputError, match="has 2 columns 'ra', expected 1; its columns are id, ra, RA, dec"):
        read_positions(write_csv(tmp_path, "a,1,2,3", header="id,ra,RA,dec"))


def test_several_values_a_row_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "positions.fits"
    fitsio.write(str(path), np.zeros(2, [("id", "S1"), ("ra", "f8", 3), ("dec", "f8")]))
    with pytest.raises(InputError, match=r"has ra of shape \(3,\) in each row, expected one value"):
        read_positions(path)


def test_hours_and_unset_values_are_not_taken_for_degrees(tmp_path: Path) -> None:
    table = Table({"id": ["a", "b"], "ra": [1.0, 2.0], "dec": [1.0, 2.0]}, masked=True)
    path = tmp_path / "positions.ecsv"
    table["ra"].unit, table["dec"].unit = "hourangle", "deg"
    table.write(path)
    with pytest.raises(InputError, match="has ra in hourangle, expected deg"):
        read_positions(path)
    table["ra"].unit = "deg"
    table["dec"].mask = [False, True]
    table.write(path, overwrite=True)
    with pytest.raises(InputError, match="row 2 has no dec"):
        read_positions(path)


def test_files_that_are_no_tables_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no such file; set paths\.positions to a table with the columns id, ra, dec"):
        read_positions(tmp_path / "positions.fits")
    for name, content in (
        ("positions.fits", b"not FITS"),
        ("positions.fits", b""),
        ("positions.ecsv", b"# %ECSV 1.0\n# ---\n# datatype: [{"),
        ("positions.ecsv", b"id,ra,dec\na,1,2\n"),
        ("positions.csv", b"\xff\xfe\x00\x01,\xe9"),
        ("positions.csv", b""),
        ("positions.txt", b"id ra dec\na 1 2\n"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=r"not a readable (FITS )?table|has 0 columns 'id'"):
            read_positions(tmp_path / name)
    fitsio.write(str(tmp_path / "image.fits"), np.zeros((2, 2)))
    with pytest.raises(InputError, match="has no FITS table, expected one"):
        read_positions(tmp_path / "image.fits")


@pytest.mark.filterwarnings("ignore")  # of astropy's, about what is mended or doubtful
def test_damaged_tables_are_refused_or_read_and_nothing_else_happens(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    table = Table({"id": ["a", "b"], "ra": [1.0, 2.0], "dec": [3.0, 4.0]})
    for name, kind in (("t.fits", "fits"), ("t.ecsv", "ascii.ecsv"), ("t.csv", "ascii.csv")):
        path = tmp_path / name
        table.write(path, format=kind)
        whole, refused = np.fromfile(path, np.uint8), 0
        for _ in range(150):
            damaged = whole.copy()
            damaged[rng.integers(0, len(whole), 20)] = rng.choice([0, 32, 48, 65, 255], 20)
            damaged.tofile(path)
            try:
                read_positions(path)
            except InputError:
                refused += 1
        assert refused > 50


def at(points: list[tuple[float, float]]) -> np.ndarray:
    positions = np.zeros(len(points), POSITION_DTYPE)
    positions["ra"], positions["dec"] = np.array(points).reshape(-1, 2).T
    return positions


def test_positions_go_to_the_cell_they_lie_in_with_half_open_edges() -> None:
    west, east, north = grid_brick(384, 480), grid_brick(384, 481), grid_brick(385, 480)
    bricks = {brick.name: brick for brick in (north, east, west)}
    low = (west.ra1, west.dec1)  # the corner belongs to the cell
    shared = (east.ra1, (west.dec1 + west.dec2) / 2)  # the edge belongs to the eastern cell
    above = (north.ra, north.dec1)  # and to the northern one
    outside = [(west.ra1 - 1e-9, west.dec), (east.ra2, east.dec), (west.ra, west.dec1 - 1e-9), (10.0, -80.0), (359.0, 89.0)]
    assert group_by_brick(at(outside), bricks) == {}
    groups = group_by_brick(at([*outside, above, shared, low, (west.ra, west.dec)]), bricks)
    assert list(groups) == sorted(bricks)
    assert {name: rows.tolist() for name, rows in groups.items()} == {north.name: [5], east.name: [6], west.name: [7, 8]}


def test_a_gap_between_cells_belongs_to_neither() -> None:
    bricks = {brick.name: brick for brick in (grid_brick(384, 480), grid_brick(384, 482), grid_brick(386, 480))}
    between = grid_brick(384, 481), grid_brick(385, 480), grid_brick(384, 484)
    assert group_by_brick(at([(brick.ra, brick.dec) for brick in between]), bricks) == {}
    assert group_by_brick(at([]), bricks) == {}
    assert group_by_brick(at([(1.0, 2.0)]), {}) == {}


def test_grouping_agrees_with_a_search_through_all_bricks() -> None:
    rng = np.random.default_rng(1)
    cells = [grid_brick(row, column) for row in range(350, 370) for column in range(0, 1400, 7)]
    bricks: dict[str, Brick] = {f"{brick.row}-{brick.column}": brick for brick in cells}  # on all sky names would recur
    shrunk = {name: brick.dec1 + rng.choice([0, 0.05]) for name, brick in bricks.items()}  # a row need not be straight
    bricks = {name: replace(brick, name=name, dec1=shrunk[name], dec2=shrunk[name] + 0.2) for name, brick in bricks.items()}
    positions = at(list(zip(rng.uniform(0, 360, 3000), rng.uniform(-4, 3, 3000), strict=True)))
    groups = group_by_brick(positions, bricks)
    slow = {
        name: np.flatnonzero(
            (positions["ra"] >= b.ra1) & (positions["ra"] < b.ra2) & (positions["dec"] >= b.dec1) & (positions["dec"] < b.dec2)
        ).tolist()
        for name, b in bricks.items()
    }
    assert {name: rows.tolist() for name, rows in groups.items()} == {name: rows for name, rows in sorted(slow.items()) if rows}
    assert 200 < sum(map(len, groups.values())) < 3000


def test_pixel_positions_are_those_of_the_header(tmp_path: Path) -> None:
    brick, wcs = "1211p060", brick_wcs(121.1, 6.0, 150)
    wcs.wcs.crpix = [40.5, 90.0]
    write_plane(tmp_path, brick, "image", "g", np.zeros((150, 150), np.float32), wcs_header(wcs, brick, "image", "g"))
    path = coadd_path(tmp_path, brick, "image", "g")
    plain = tmp_path / "plain.fits.fz"  # not compressed in spite of its name
    with fits.open(path) as hdus:
        fits.writeto(plain, hdus[1].data, hdus[1].header)
    for coadd in (path, plain):
        bx, by = pixel_positions(coadd, np.array([121.1, 121.1 - 10 * 0.262 / 3600 / np.cos(np.radians(6.0))]), np.array([6.0, 6.0]))
        assert bx == pytest.approx([39.5, 49.5], abs=1e-3)
        assert by == pytest.approx([89.0, 89.0], abs=1e-3)
    bx, by = pixel_positions(path, np.array([]), np.array([]))
    assert bx.shape == by.shape == (0,)


def test_coadds_without_a_projection_are_refused(tmp_path: Path) -> None:
    path, here = tmp_path / "coadd.fits", (np.array([1.0]), np.array([2.0]))
    with pytest.raises(InputError, match="not a readable FITS file"):
        pixel_positions(path, *here)
    for header in ({}, dict.fromkeys(["CTYPE1", "CTYPE2", "CRVAL1", "CRVAL2", "CRPIX1", "CRPIX2", "CD1_1", "CD1_2", "CD2_1", "CD2_2"], 1)):
        fitsio.write(str(path), np.zeros((4, 4), np.float32), header=header, clobber=True)
        with pytest.raises(InputError, match="has no projection of the sky in its header"):
            pixel_positions(path, *here)
    fitsio.write(str(path), np.zeros(4, np.float32), clobber=True)
    with pytest.raises(InputError, match="it has no two-dimensional image"):
        pixel_positions(path, *here)
