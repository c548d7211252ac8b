"""The bricks of a tree and their files are found in every layout."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import galsim
import numpy as np
import pytest
from releases import BRICK, tractor_table, write_coadds, write_legacysim, write_obiwan, write_survey, write_table

from hpc_galaxy.bricks.catalog import read_catalog
from hpc_galaxy.bricks.galaxies import GALAXY_DTYPE
from hpc_galaxy.bricks.geometry import brick_wcs
from hpc_galaxy.bricks.layout import find, lookup
from hpc_galaxy.bricks.simcat import read_injected, simcat_table
from hpc_galaxy.bricks.views import View, injected_views, list_bricks, list_injected_bricks, survey_views
from hpc_galaxy.cutouts.sources import fake_ids, real_ids
from hpc_galaxy.errors import InputError

OTHER = "1211p062"
PLANES, BANDS = ("image", "invvar"), ("g", "r", "z")


def names(root: Path, view: View) -> list[str]:
    return [str(path.relative_to(root)) for path in view.files(("image",), ("g", "z"))]


def test_the_surveys_own_layout(tmp_path: Path) -> None:
    write_survey(tmp_path, "DR10")
    assert list_bricks(tmp_path) == [BRICK]
    (view,) = survey_views(tmp_path, BRICK)
    assert (view.brick, view.rs, view.injected, view.root) == (BRICK, "", None, tmp_path)
    assert names(tmp_path, view) == [
        f"tractor/121/tractor-{BRICK}.fits",
        f"coadd/121/{BRICK}/legacysurvey-{BRICK}-image-g.fits.fz",
        f"coadd/121/{BRICK}/legacysurvey-{BRICK}-image-z.fits.fz",
    ]
    with pytest.raises(InputError, match="belongs to the survey's own bricks"):
        read_injected(view)


def test_a_brick_of_north_and_south_has_two_views_and_ids_that_differ(tmp_path: Path) -> None:
    write_survey(tmp_path / "north")
    write_survey(tmp_path / "south")
    write_survey(tmp_path / "south", brick=OTHER)
    table = tractor_table("DR9")
    table["release"] = 9011
    write_table(tmp_path / "north" / "tractor" / "121" / f"tractor-{BRICK}.fits", table)
    assert list_bricks(tmp_path) == [BRICK, OTHER]
    north, south = survey_views(tmp_path, BRICK)
    assert (north.rs, south.rs) == ("", "")
    assert names(tmp_path, north)[0] == f"north/tractor/121/tractor-{BRICK}.fits"
    assert south.coadd("image", "r").relative_to(tmp_path).parts[0] == "south"
    ids = [identifier for view in (north, south) for identifier in real_ids(read_catalog(view.catalog))]
    assert len(set(ids)) == len(ids) == 12
    assert len(survey_views(tmp_path, OTHER)) == 1


def test_obiwans_four_kinds_of_runs_and_nothing_else(tmp_path: Path) -> None:
    runs = ["rs0", "rs2", "rs10", "skip_rs0", "more_rs0", "more_skip_rs0"]
    for rs in reversed(runs):
        write_obiwan(tmp_path, rs, [1, 2, 3], [1, 3])
    folder = tmp_path / "obiwan" / "121" / BRICK
    for stray in ("foo_rs", "rs", "rs1_old", "skip_more_rs1", "xrs3", "logs"):
        (folder / stray).mkdir()
    (folder / "rs7").write_text("a file, not a folder")
    assert list_injected_bricks(tmp_path) == [BRICK]
    views = injected_views(tmp_path, BRICK)
    assert [view.rs for view in views] == runs  # 2 before 10
    assert names(tmp_path, views[5]) == [
        f"tractor/121/{BRICK}/more_skip_rs0/tractor-{BRICK}.fits",
        f"obiwan/121/{BRICK}/more_skip_rs0/simcat-elg-{BRICK}.fits",
        f"obiwan/121/{BRICK}/more_skip_rs0/sim_ids_added.fits",
        f"coadd/121/{BRICK}/more_skip_rs0/legacysurvey-{BRICK}-image-g.fits.fz",
        f"coadd/121/{BRICK}/more_skip_rs0/legacysurvey-{BRICK}-image-z.fits.fz",
    ]
    # The trees of obiwan hold no catalogs of the survey's own.
    with pytest.raises(InputError, match=r"holds no tractor-<brick>\.fits"):
        list_bricks(tmp_path)


def test_what_obiwan_did_not_inject_is_left_out(tmp_path: Path) -> None:
    write_obiwan(tmp_path, "rs0", [5, 3, 9], [9, 5])
    injected = read_injected(injected_views(tmp_path, BRICK)[0])
    assert injected["id"].tolist() == [5, 9]
    assert injected["x"].tolist() == [1801, 1801]  # as in the file, 1-indexed
    assert all(injected.dtype[name].isnative for name in injected.dtype.names or ())
    write_obiwan(tmp_path, "rs0", [5, 3, 9], [])
    assert len(read_injected(injected_views(tmp_path, BRICK)[0])) == 0


def test_ids_that_recur_in_other_realisations_stay_unique(tmp_path: Path) -> None:
    for rs in ("rs0", "skip_rs0", "more_rs0", "more_skip_rs0", "rs500"):
        write_obiwan(tmp_path, rs, [7, 8], [7, 8])
        write_obiwan(tmp_path, rs, [7, 8], [7], OTHER)
    ids = []
    for brick in list_injected_bricks(tmp_path):
        for view in injected_views(tmp_path, brick):
            ids += fake_ids(read_injected(view), view.brick, view.rs)
    assert len(ids) == 15
    assert len(set(ids)) == 15
    assert {f"more_skip_rs0-{BRICK}-7", f"rs0-{OTHER}-7"} <= set(ids)


def test_an_id_twice_in_one_realisation_is_refused(tmp_path: Path) -> None:
    write_obiwan(tmp_path, "rs0", [7, 8, 7], [7, 8])
    with pytest.raises(InputError, match=rf"simcat-elg-{BRICK}\.fits: has id 7 more than once"):
        read_injected(injected_views(tmp_path, BRICK)[0])


def test_legacysims_layout(tmp_path: Path) -> None:
    runs = ["file0_rs0_skip0", "file0_rs2_skip0", "file0_rs10_skip0", "file0_rs10_skip1", "file1_rs0_skip0"]
    for rs in reversed(runs):
        write_legacysim(tmp_path, rs, [1, 2, 3, 4], [False, True, False, False])
    write_legacysim(tmp_path, "file1_rs0_skip0", [1], [False], OTHER)
    for stray in ("file0_rs1", "file0_rs1_skip0_bad", "merged"):
        (tmp_path / stray / "sim").mkdir(parents=True)
    assert list_injected_bricks(tmp_path) == [BRICK, OTHER]
    views = injected_views(tmp_path, BRICK)
    assert [view.rs for view in views] == runs
    assert [view.rs for view in injected_views(tmp_path, OTHER)] == ["file1_rs0_skip0"]
    assert {view.root for view in views} == {tmp_path}
    assert names(tmp_path, views[1]) == [
        f"file0_rs2_skip0/tractor/121/tractor-{BRICK}.fits",
        f"file0_rs2_skip0/sim/121/injected-{BRICK}.fits",
        f"file0_rs2_skip0/coadd/121/{BRICK}/legacysurvey-{BRICK}-image-g.fits.fz",
        f"file0_rs2_skip0/coadd/121/{BRICK}/legacysurvey-{BRICK}-image-z.fits.fz",
    ]


def test_what_collided_in_legacysim_is_left_out(tmp_path: Path) -> None:
    write_legacysim(tmp_path, "file0_rs0_skip0", [4, 5, 6], [False, True, False])
    injected = read_injected(injected_views(tmp_path, BRICK)[0])
    assert injected["id"].tolist() == [4, 6]
    assert injected["bx"].tolist() == [1800, 1800]


def test_a_missing_band_is_reported_and_w1_is_not_taken_for_one(tmp_path: Path) -> None:
    write_survey(tmp_path)
    (view,) = survey_views(tmp_path, BRICK)
    assert len(view.files(PLANES, BANDS)) == 7
    with pytest.raises(InputError, match=rf"legacysurvey-{BRICK}-image-i\.fits\.fz: no such file"):
        view.files(PLANES, ("g", "r", "i", "z"))
    view.coadd("invvar", "r").unlink()
    with pytest.raises(InputError, match=rf"legacysurvey-{BRICK}-invvar-r\.fits\.fz: no such file"):
        view.files(PLANES, BANDS)


def test_files_are_found_under_every_suffix(tmp_path: Path) -> None:
    write_obiwan(tmp_path, "rs0", [1], [1])
    for path in list(tmp_path.rglob("*.fits*")):
        stem = path.name.removesuffix(".fz").removesuffix(".fits")
        path.rename(path.with_name(stem + (".fits" if path.suffix == ".fz" else ".fits.fz")))
    (view,) = injected_views(tmp_path, BRICK)
    assert [path.name.partition(".")[2] for path in view.files(("image",), BANDS)] == ["fits.fz"] * 3 + ["fits"] * 3
    assert view.catalog.exists()
    assert read_injected(view)["id"].tolist() == [1]


@pytest.mark.parametrize("suffix", [".fits", ".fits.gz", ".fits.fz"])
def test_bricks_are_listed_by_catalogs_of_every_suffix_and_by_nothing_else(suffix: str, tmp_path: Path) -> None:
    folder = tmp_path / "tractor" / "121"
    folder.mkdir(parents=True)
    for name in (f"tractor-{BRICK}{suffix}", f".partial-12-tractor-{OTHER}{suffix}", f"brick-{OTHER}.sha256sum", "tractor-x.fits"):
        (folder / name).touch()
    (tmp_path / "tractor" / "122").mkdir()
    (tmp_path / "tractor" / "122" / f"tractor-{OTHER}{suffix}").touch()  # nobody would find it there
    (tmp_path / "tractor" / "README").touch()
    assert list_bricks(tmp_path) == [BRICK]


def test_a_view_whose_catalog_or_coadds_are_missing_is_there_to_be_reported(tmp_path: Path) -> None:
    write_coadds(tmp_path / "south" / "coadd" / "121" / BRICK)
    write_survey(tmp_path / "north")
    north, south = survey_views(tmp_path, BRICK)
    assert len(north.files(PLANES, BANDS)) == 7
    with pytest.raises(InputError, match=rf"south/tractor/121/tractor-{BRICK}\.fits: no such file"):
        south.files(PLANES, BANDS)
    (tmp_path / "obiwan" / "121" / BRICK / "rs3").mkdir(parents=True)
    with pytest.raises(InputError, match=rf"tractor/121/{BRICK}/rs3/tractor-{BRICK}\.fits: no such file"):
        injected_views(tmp_path, BRICK)[0].files(PLANES, BANDS)


def test_trees_without_bricks_and_bricks_without_views_are_refused(tmp_path: Path) -> None:
    (tmp_path / "tractor").write_text("a file, not a folder")
    for root in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(InputError, match=r"tractor: holds no tractor-<brick>\.fits"):
            list_bricks(root)
    with pytest.raises(InputError, match=r"holds no obiwan/<AAA>/<brick>/ or file<F>_rs<R>_skip<S>/sim"):
        list_injected_bricks(tmp_path)
    with pytest.raises(InputError, match=rf"tractor-{BRICK}\.fits: no such file, nor one in north or south"):
        survey_views(tmp_path, BRICK)
    with pytest.raises(InputError, match=r"holds no folder rs\*, skip_rs\*, more_rs\* or more_skip_rs\*"):
        injected_views(tmp_path, BRICK)


def test_injected_tables_that_lack_columns_or_files_are_named(tmp_path: Path) -> None:
    write_obiwan(tmp_path, "rs0", [1], [1])
    (view,) = injected_views(tmp_path, BRICK)
    assert view.added is not None
    write_table(view.added, np.zeros(1, [("number", "i4")]))
    with pytest.raises(InputError, match=r"rs0/sim_ids_added\.fits: lacks the columns id"):
        read_injected(view)
    view.added.unlink()
    with pytest.raises(InputError, match=r"rs0/sim_ids_added\.fits: no such file"):
        read_injected(view)
    write_legacysim(tmp_path / "legacysim", "file0_rs0_skip0", [1], [False])
    (view,) = injected_views(tmp_path / "legacysim", BRICK)
    assert view.injected is not None
    write_table(view.injected, np.zeros(1, [("id", "i4"), ("ra", "f8"), ("dec", "f8")]))
    with pytest.raises(InputError, match=rf"injected-{BRICK}\.fits: lacks the columns collided"):
        read_injected(view)
    for kind in ("S1", "(2,)i4"):
        write_table(view.injected, np.zeros(1, [("id", "i4"), ("ra", "f8"), ("dec", "f8"), ("collided", kind)]))
        with pytest.raises(InputError, match=rf"injected-{BRICK}\.fits: column collided holds .* expected one number a row"):
            read_injected(view)


def test_distortions_in_simcat_are_galsims() -> None:
    rng = np.random.default_rng(1)
    fakes = np.zeros(50, GALAXY_DTYPE)
    fakes["g1"], fakes["g2"] = rng.uniform(-0.6, 0.6, (2, 50))
    table = simcat_table(fakes, brick_wcs(121.1, 6.0, 100), {"g": 1.0, "r": 1.0, "z": 1.0})
    shears = [galsim.Shear(g1=row["g1"], g2=row["g2"]) for row in fakes]
    np.testing.assert_allclose(table["e1"], [shear.e1 for shear in shears], rtol=1e-12)
    np.testing.assert_allclose(table["e2"], [shear.e2 for shear in shears], rtol=1e-12)


def test_reading_what_was_injected_does_not_wait_for_galsim() -> None:
    program = "import sys, hpc_galaxy.bricks.simcat, hpc_galaxy.bricks.catalog; sys.exit('galsim' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_what_cannot_be_looked_up_is_not_called_missing(tmp_path: Path) -> None:
    unreachable = tmp_path / ("x" * 300) / "tractor.fits"  # longer than a name may be; a folder without permission acts alike
    for reach in (lookup, find):
        with pytest.raises(InputError, match=r"cannot be looked up \(File name too long\)"):
            reach(unreachable)
    with pytest.raises(InputError, match=r"cannot be listed \(File name too long\)"):
        list_bricks(unreachable.parent)
    assert lookup(tmp_path / "tractor.fits") is None
