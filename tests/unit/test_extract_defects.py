"""Defects of 2018 on purpose, and the control of places on the sky: which stamps are cut, and what their tables say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hpc_galaxy.bricks.catalog import read_catalog
from hpc_galaxy.bricks.galaxies import sky_ellipticity
from hpc_galaxy.bricks.images import read_planes
from hpc_galaxy.bricks.layout import tractor_path
from hpc_galaxy.bricks.positions import pixel_positions, sky_positions
from hpc_galaxy.bricks.simcat import catalog_columns, parameter_keys, read_injected
from hpc_galaxy.bricks.survey import make_survey
from hpc_galaxy.bricks.views import injected_views, list_bricks, survey_views
from hpc_galaxy.config import Config, load_config
from hpc_galaxy.cutouts.extract import extract
from hpc_galaxy.cutouts.stamps import boxes, cut_stamps, inside
from hpc_galaxy.errors import InputError
from hpc_galaxy.files import read_json
from hpc_galaxy.injection.inject import inject
from hpc_galaxy.shards.check import check
from hpc_galaxy.shards.cutout_file import cutout_path, open_cutouts
from hpc_galaxy.shards.schema import CHANNELS
from hpc_galaxy.splits.audit.audit import run_audit
from hpc_galaxy.splits.audit.measure import centroids, positions
from hpc_galaxy.splits.split import split
from hpc_galaxy.world import World

SETTINGS = ["survey.bricks=6", "survey.npix=256", "injection.per_brick=25", "injection.realisations=2", "extract.selection='galaxies'"]
UNKNOWN = ("psfsize", "psfdepth", "flux_ivar")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("defects")
    config = configure(root, root)
    make_survey(config, World())
    inject(config, World())
    return root


def configure(made: Path, root: Path, *settings: str) -> Config:
    paths = [f"paths.survey='{made}/survey'", f"paths.obiwan='{made}/obiwan'", f"paths.cutouts='{root}/cutouts'"]
    return load_config(None, [*SETTINGS, *paths, f"paths.shards='{root}/shards'", *settings])


def cut(config: Config, label: str) -> tuple[np.ndarray, np.ndarray]:
    """All stamps of a class, and their tables."""
    tables, images = [], []
    for brick in list_bricks(config.paths.survey):
        with open_cutouts(cutout_path(config.paths.cutouts, label, brick)) as cutouts:
            tables.append(cutouts.sources())
            images.append(cutouts.images())
    return np.concatenate(images), np.concatenate(tables)


def extracted(made: Path, root: Path, *settings: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    config = configure(made, root, *settings)
    extract(config, World())
    return {label: cut(config, label) for label in ("real", "fake")}


def test_one_pixel_moves_the_stamps_and_not_the_tables(made: Path, tmp_path: Path) -> None:
    honest = extracted(made, tmp_path / "honest")
    moved = extracted(made, tmp_path / "moved", "extract.defects=['one_pixel']")
    for label in ("real", "fake"):
        images, table = moved[label]
        assert len(table) == len(honest[label][1]) > 20
        for name in ("id", "bx", "by", "mag_r"):
            np.testing.assert_array_equal(table[name], honest[label][1][name])
        # A table that counts from 1 has x + 1; both are truncated.
        one = label == "fake"
        first = [np.trunc(table[name].astype(float) + one) - 32 for name in ("bx", "by")]
        at = [first[axis] - np.ceil(table[name] - 32) for axis, name in enumerate(("bx", "by"))]
        inner = ~table["edge"] & ~honest[label][1]["edge"]
        assert inner.sum() > 5
        for row in np.flatnonzero(inner):
            dx, dy = int(at[0][row]), int(at[1][row])
            expected, found = honest[label][0][row], images[row]
            np.testing.assert_array_equal(
                found[max(0, -dy) : 64 - dy, max(0, -dx) : 64 - dx],
                expected[max(0, dy) :, max(0, dx) :][: 64 + min(dy, 0), : 64 + min(dx, 0)],
            )
        assert {(int(x), int(y)) for x, y in zip(*at, strict=True)} == ({(0, 0)} if one else {(-1, -1)})


def test_the_centroids_of_the_classes_are_a_pixel_apart(made: Path, tmp_path: Path) -> None:
    for settings, expected in (((), 0.0), (("extract.defects=['one_pixel']",), 1.0)):
        offset = {}
        for label, (images, table) in extracted(made, tmp_path / str(expected), *settings).items():
            x, y, snr = centroids(images[..., :3], positions(table, 64), [0.004, 0.006, 0.015])
            bright = snr > 20
            assert bright.sum() > 10
            offset[label] = np.array([np.median(x[bright]), np.median(y[bright])])
        np.testing.assert_allclose(offset["real"] - offset["fake"], expected, atol=0.15)


def test_truth_positions_cut_all_that_was_injected(made: Path, tmp_path: Path) -> None:
    honest = extracted(made, tmp_path / "honest")
    found = extracted(made, tmp_path / "truth", "extract.defects=['truth_positions']", "extract.where.bright='mag_r < 21'")
    few = extracted(made, tmp_path / "few", "extract.where.bright='mag_r < 21'")
    assert found["real"][1].tobytes() == few["real"][1].tobytes() and len(few["fake"][1]) < len(honest["fake"][1])
    table = found["fake"][1]
    assert set(honest["fake"][1]["id"].tolist()) < set(table["id"].tolist())
    expected = 0
    for brick in list_bricks(made / "survey"):
        for view in injected_views(made / "obiwan", brick):
            truth = read_injected(view)
            rows = table[(table["brick"] == brick.encode()) & (table["rs"] == view.rs.encode())]
            expected += len(truth)
            assert len(rows) == len(truth)  # all are drawn on the coadd
            for axis, name in (("x", "bx"), ("y", "by")):
                np.testing.assert_allclose(rows[name], truth[axis] - 1, atol=1e-3)
            for name in ("ra", "dec"):
                np.testing.assert_array_equal(rows[name], truth[name])
            np.testing.assert_array_equal(rows["injected"], parameter_keys(truth))
            np.testing.assert_allclose(rows["mag_r"], 22.5 - 2.5 * np.log10(truth["rflux"] / truth["mw_transmission_r"]), rtol=1e-6)
            np.testing.assert_allclose(rows["sersic"], truth["n"], rtol=1e-6)
    assert len(table) == expected
    for name in UNKNOWN:
        assert np.isnan(table[f"{name}_r"]).all()
    assert (table["label"] == 1).all() and not np.isnan(table["shape_r"]).any()


def test_truth_has_the_shapes_that_a_catalog_would_have() -> None:
    """Shears of the truth table, obiwan's distortions, and back."""
    shear = np.zeros(3, [("g1", "f8"), ("g2", "f8")])
    shear["g1"], shear["g2"] = [0, 0.3, -0.2], [0, 0.1, 0.5]
    size = np.hypot(shear["g1"], shear["g2"])
    table = np.zeros(3, [(name, "f8") for name in ("gflux", "n", "rhalf", "e1", "e2", "mw_transmission_g")])
    table["n"], table["gflux"], table["rhalf"], table["mw_transmission_g"] = 1, 5, 0.5, 0.9
    table["e1"], table["e2"] = (2 / (1 + size**2) * shear[name] for name in ("g1", "g2"))
    known = catalog_columns(table, ("g", "r"))
    assert known.keys() == {"flux_g", "mw_transmission_g", "sersic", "shape_r", "shape_e1", "shape_e2"}
    for name, expected in zip(("shape_e1", "shape_e2"), sky_ellipticity(shear), strict=True):
        np.testing.assert_allclose(known[name], expected, atol=1e-12)
    # Tractor's axis ratio is (1 - e) / (1 + e); the geometric mean of the axes is the circularised radius.
    np.testing.assert_allclose(known["shape_r"] * np.sqrt((1 - size) / (1 + size)), 0.5, rtol=1e-12)


def test_legacysims_truth_has_a_catalog_s_names() -> None:
    names = ("flux_g", "mw_transmission_g", "sersic", "shape_r", "shape_e1", "shape_e2")
    table = np.ones(2, [(name, "f4") for name in (*names, "bx")])
    assert catalog_columns(table, ("g",)).keys() == set(names)
    assert catalog_columns(table[["bx"]], ("g",)) == {}


def test_stars_stay_in_both_classes(made: Path, tmp_path: Path) -> None:
    honest = extracted(made, tmp_path / "honest")
    for selection in ('"galaxies"', '["primary", "not_star"]'):
        found = extracted(made, tmp_path / selection[:5], "extract.defects=['stars']", f"extract.selection={selection}")
        assert b"PSF" not in honest["real"][1]["type"]
        stars = (found["real"][1]["type"] == b"PSF").sum()
        catalogs = [read_catalog(tractor_path(made / "obiwan", brick, "rs0")) for brick in list_bricks(made / "survey")]
        assert 0 < stars <= sum((catalog["type"] == b"PSF").sum() for catalog in catalogs)


def test_all_defects_together(made: Path, tmp_path: Path) -> None:
    every = "extract.defects=['one_pixel', 'truth_positions', 'stars']"
    both, alone = extracted(made, tmp_path / "all", every), extracted(made, tmp_path / "one", "extract.defects=['truth_positions']")
    np.testing.assert_array_equal(both["fake"][1]["id"], alone["fake"][1]["id"])
    assert b"PSF" in both["real"][1]["type"]
    config = configure(
        made, tmp_path / "all", every, "split.match='none'", "split.train=0.4", "split.valid=0.3", "split.test=0.3", "seed=3"
    )
    split(config, World())
    check([tmp_path / "all" / "shards"])
    run_audit(tmp_path / "all" / "shards", World(), 1, tmp_path)
    results = {one["name"]: one["result"] for one in read_json(tmp_path / "audit.json", "")["checks"]}
    # The truth is of no release; and of a hundred stamps a class a pixel is three standard errors.
    assert results["provenance"] == "warn" and {results["centroid x"], results["centroid y"]} <= {"warn", "fail"}


def test_sky_is_cut_where_nothing_was_injected(made: Path, tmp_path: Path) -> None:
    found = extracted(made, tmp_path, "extract.control='sky'")
    ids = {label: table["id"].tolist() for label, (_, table) in found.items()}
    assert len(ids["real"]) == len(ids["fake"]) == len({*ids["real"], *ids["fake"]}) / 2
    for brick in list_bricks(made / "survey"):
        own = survey_views(made / "survey", brick)[0]
        planes = read_planes(made / "survey", brick)
        expected = []
        for view in injected_views(made / "obiwan", brick):
            truth = read_injected(view)
            bx, by = pixel_positions(own.coadd("image", "g"), truth["ra"], truth["dec"])
            expected.append(np.stack([bx, by], axis=1)[inside(bx, by, (256, 256))])
        places = np.concatenate(expected)
        for label, (images, table) in found.items():
            mine = table["brick"] == brick.encode()
            rows = table[mine]
            assert (rows["rs"] == b"").all() and len(rows) == len(places) and not rows["injected"].any()
            if label == "fake":
                np.testing.assert_allclose(np.stack([rows["bx"], rows["by"]], axis=1), places, atol=1e-3)
            stamps = cut_stamps([planes[name] for name in CHANNELS], boxes(rows["bx"], rows["by"], 64))
            np.testing.assert_array_equal(images[mine], stamps)
            bx, by = pixel_positions(own.coadd("image", "g"), rows["ra"], rows["dec"])
            np.testing.assert_allclose([bx, by], [rows["bx"], rows["by"]], atol=1e-3)
    for _, table in found.values():
        assert all(np.isnan(table[name]).all() for name in ("mag_r", "shape_r", "sersic", "psfsize_g", "flux_z"))
    spread = np.concatenate([found["real"][1][name] for name in ("bx", "by")])
    assert spread.min() < 20 and spread.max() > 235 and abs(spread.mean() - 127.5) < 5 * 74 / len(spread) ** 0.5


def test_sky_depends_on_the_seed_and_is_split_and_audited(made: Path, tmp_path: Path) -> None:
    thirds = ("split.match='none'", "split.train=0.4", "split.valid=0.3", "split.test=0.3", "extract.control='sky'")
    one, same, other = (extracted(made, tmp_path / name, *thirds, f"seed={seed}") for name, seed in (("a", 3), ("b", 3), ("c", 2)))
    np.testing.assert_array_equal(one["real"][1]["bx"], same["real"][1]["bx"])
    assert not np.isin(one["real"][1]["bx"], other["real"][1]["bx"]).any()
    np.testing.assert_array_equal(one["fake"][1]["bx"], other["fake"][1]["bx"])
    config = configure(made, tmp_path / "a", *thirds, "seed=3")
    split(config, World())
    check([config.paths.cutouts, config.paths.shards])
    run_audit(config.paths.shards, World(), 1, tmp_path)
    found = {one["name"]: (one["result"], one["found"]) for one in read_json(tmp_path / "audit.json", "")["checks"]}
    assert found["control"] == ("warn", "a negative control: sky")
    for name in ("provenance", "coadds", "injected galaxies", "duplicate ids", "shared pixels", "edges", "no data", "no light"):
        assert found[name][0] == "pass", (name, found[name])
    with pytest.raises(InputError, match=r"set split\.match"):
        split(configure(made, tmp_path / "a", *thirds[1:], "split.match='nearest'", "seed=3"), World(), overwrite=True)


def test_positions_on_the_sky_and_back(made: Path) -> None:
    coadd = survey_views(made / "survey", list_bricks(made / "survey")[0])[0].coadd("image", "r")
    bx, by = np.array([0, 10.25, 300.0]), np.array([-3, 100.5, 255.0])
    np.testing.assert_allclose(pixel_positions(coadd, *sky_positions(coadd, bx, by)), [bx, by], atol=1e-6)
    assert [len(part) for part in sky_positions(coadd, bx[:0], by[:0])] == [0, 0]
