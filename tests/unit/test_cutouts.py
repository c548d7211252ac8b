"""Stamps, selection, matching, and the extraction as a whole."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from astropy.nddata import Cutout2D

from hpc_galaxy.bricks.catalog import CATALOG_DTYPE, read_catalog
from hpc_galaxy.bricks.layout import coadd_path, tractor_path
from hpc_galaxy.bricks.simcat import parameter_keys, read_injected
from hpc_galaxy.bricks.survey import make_survey
from hpc_galaxy.bricks.views import injected_views, list_bricks
from hpc_galaxy.config import Config, load_config
from hpc_galaxy.cutouts import stamps as stamps_module
from hpc_galaxy.cutouts.brick import input_trees
from hpc_galaxy.cutouts.extract import extract
from hpc_galaxy.cutouts.sources import fake_ids, isolated, match_injected
from hpc_galaxy.cutouts.stamps import boxes, cut_stamps, inside, on_edge
from hpc_galaxy.errors import StageError, StaleOutputError
from hpc_galaxy.injection.inject import inject
from hpc_galaxy.shards.cutout_file import cutout_path, open_cutouts
from hpc_galaxy.shards.schema import CHANNELS
from hpc_galaxy.world import World


def random_planes(shape: tuple[int, int]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {name: rng.random(shape, dtype=np.float32) for name in CHANNELS}


def test_stamps_are_those_of_astropy_inside_and_at_every_edge() -> None:
    planes = random_planes((150, 200))
    rng = np.random.default_rng(2)
    bx, by = rng.uniform(-0.5, 199.5, 300).astype("f4"), rng.uniform(-0.5, 149.5, 300).astype("f4")
    bx[:4], by[:4] = [10.5, 31.5, 32.0, 31.0], [100.0, 31.5, 32.0, 31.0]
    outlines = boxes(bx, by, 64)
    images, edge = cut_stamps(list(planes.values()), outlines), on_edge(outlines, (150, 200))
    assert images.shape == (300, 64, 64, 6)
    assert images.flags.c_contiguous
    for number, (x, y) in enumerate(zip(bx.astype(float), by.astype(float), strict=True)):
        for channel, name in enumerate(CHANNELS):
            reference = Cutout2D(planes[name], (x, y), 64, mode="partial", fill_value=0)
            np.testing.assert_array_equal(images[number, :, :, channel], reference.data)
        x0, y0 = reference.origin_original[0] - reference.origin_cutout[0], reference.origin_original[1] - reference.origin_cutout[1]
        assert edge[number] == (x0 < 0 or y0 < 0 or x0 + 64 > 200 or y0 + 64 > 150)
    assert 0 < edge.sum() < 300


def test_channels_do_not_alias_at_an_edge() -> None:
    planes = {name: np.full((100, 100), number + 1, np.float32) for number, name in enumerate(CHANNELS)}
    images = cut_stamps(list(planes.values()), boxes(np.array([2.0]), np.array([50.0]), 64))
    assert [set(np.unique(images[0, :, :, channel])) for channel in range(6)] == [{0.0, channel + 1.0} for channel in range(6)]


@pytest.mark.parametrize("size", [8, 32, 128])
def test_stamps_of_other_sizes_are_astropys_too(size: int) -> None:
    plane = random_planes((150, 200))["image_g"]
    for x, y in ((75.2, 80.7), (0.0, 149.4), (75.5, 80.5)):
        stamp = cut_stamps([plane], boxes(np.array([x]), np.array([y]), size))
        assert stamp.shape == (1, size, size, 1)
        np.testing.assert_array_equal(stamp[0, :, :, 0], Cutout2D(plane, (x, y), size, mode="partial", fill_value=0).data)


def hostile_planes(count: int) -> list[np.ndarray]:
    """Return planes of any bits at all, and some of what is special about floats."""
    rng = np.random.default_rng(count)
    planes = [rng.integers(-(2**31), 2**31, (70, 90), dtype=np.int32).view(np.float32) for _ in range(count)]
    for plane in planes:
        plane[rng.random(plane.shape) < 0.3] = np.nan
        plane[rng.random(plane.shape) < 0.3] = rng.choice(np.array([-np.inf, np.inf, -0.0, -1, 1e-45, -1e-45], np.float32))
        plane[40:] = -np.abs(rng.normal(size=(30, 90)))
    return planes


@pytest.mark.skipif(not stamps_module.COMPILED, reason="the package was installed without a C compiler")
@pytest.mark.parametrize("size", [2, 9, 64, 128])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 6, 7, 8, 10])
def test_without_a_compiler_the_stamps_are_the_same(size: int, channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    planes, rng = hostile_planes(channels), np.random.default_rng(7)
    outlines = boxes(rng.uniform(-200, 290, 40), rng.uniform(-200, 270, 40), size)
    clamped = [channel % 2 == 1 for channel in range(channels)]
    answers = []
    for compiled in (True, False):
        monkeypatch.setattr(stamps_module, "COMPILED", compiled)
        bad = np.full(channels, 5, np.int64)
        answers.append((cut_stamps(planes, outlines, clamped, bad), bad))
    (fast, fast_bad), (slow, slow_bad) = answers
    nans = np.isnan(slow)  # NaNs may differ in bits that mean nothing
    np.testing.assert_array_equal(np.isnan(fast), nans)
    np.testing.assert_array_equal(fast.view(np.int32)[~nans], slow.view(np.int32)[~nans])
    np.testing.assert_array_equal(fast_bad, slow_bad)
    assert size < 64 or (fast_bad > 5).all()
    assert not np.any(fast[..., 1::2] < 0)
    assert size < 64 or np.any(fast[..., ::2] < 0)


def test_planes_of_other_types_are_cut_too() -> None:
    plane = np.arange(10_000.0).reshape(100, 100)
    outlines = boxes(np.array([50.0, 3.0]), np.array([50.0, 99.0]), 16)
    expected = cut_stamps([plane.astype(np.float32)], outlines)
    for other in (plane, plane.astype(">f4"), np.asfortranarray(plane, np.float32)):
        np.testing.assert_array_equal(cut_stamps([other], outlines), expected)


def test_outlines_and_planes_that_do_not_fit_are_refused() -> None:
    plane, square = np.zeros((50, 50), np.float32), np.array([[0, 0, 8, 8]])
    for planes, outlines in (
        ([plane], np.array([[0, 0, 8, 9]])),
        ([plane], np.array([[0, 0, 8, 8], [0, 0, 9, 9]])),
        ([plane, plane[:-1]], square),
    ):
        with pytest.raises(ValueError, match="expected outlines of 8 x 8"):
            cut_stamps(planes, outlines)


@pytest.mark.skipif(not stamps_module.COMPILED, reason="the package was installed without a C compiler")
def test_compiled_code_refuses_what_does_not_fit() -> None:
    def call(**changes: object) -> None:
        plane = np.zeros((50, 40), np.float32)
        usual = {
            "planes": (plane, plane),
            "shape": (50, 40),
            "clamped": b"\0\1",
            "corners": np.zeros((3, 2), np.int64),
            "size": 8,
            "stamps": np.zeros((3, 8, 8, 2), np.float32),
            "bad": np.zeros(2, np.int64),
        }
        stamps_module._cut.cut(*(usual | changes).values())

    call()
    bytes_apart = np.zeros(3 * 8 * 8 * 2 * 4 + 1, np.uint8)[1:]
    for changes in (
        {"planes": ()},
        {"planes": (np.zeros(2000, np.float32),) * 65},
        {"planes": (np.zeros(2000, np.float32), np.zeros(1999, np.float32))},
        {"shape": (0, 0)},
        {"shape": (-50, -40)},
        {"shape": (2**62, 2**62)},
        {"clamped": b"\0"},
        {"corners": np.zeros((2, 2), np.int64)},
        {"corners": np.zeros(5, np.int64)},
        {"corners": np.full((3, 2), -(2**63), np.int64)},
        {"corners": np.full((3, 2), 2**63 - 1, np.int64)},
        {"size": 0},
        {"size": -8},
        {"size": 2**62},
        {"size": 9},
        {"stamps": np.zeros((2, 8, 8, 2), np.float32)},
        {"stamps": bytes_apart},
        {"bad": np.zeros(1, np.int64)},
    ):
        with pytest.raises(ValueError, match="cut was given"):
            call(**changes)


def test_inside_means_the_centre_lies_on_a_pixel() -> None:
    x = np.array([-0.6, -0.5, 0.0, 99.4, 99.6])
    assert inside(x, np.zeros(5), (10, 100)).tolist() == [False, True, True, True, False]


def positions(offsets_arcsec: list[float]) -> np.ndarray:
    table = np.zeros(len(offsets_arcsec), CATALOG_DTYPE)
    table["ra"], table["dec"] = 120.0, 6.0 + np.array(offsets_arcsec) / 3600
    return table


def test_isolated_drops_both_of_a_pair() -> None:
    assert isolated(positions([0, 0.5, 3, 10]), 1.0).tolist() == [False, False, True, True]
    assert isolated(positions([0]), 1.0).tolist() == [True]


def test_match_injected_finds_the_nearest_within_the_radius() -> None:
    catalog, injected = positions([0, 5, 20]), positions([20.4, 0.3, 50])
    match, best = match_injected(catalog, injected, 1.0)
    assert (match.tolist(), best.tolist()) == ([1, -1, 0], [True, True, True])
    assert match_injected(catalog, injected[:0], 1.0)[0].tolist() == [-1, -1, -1]


def test_two_sources_near_one_injected_position_are_not_both_it() -> None:
    match, best = match_injected(positions([-0.8, 0.7, 20]), positions([0, 20.1]), 1.0)
    assert match.tolist() == [0, 0, 1]
    assert best.tolist() == [False, True, True]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    root = tmp_path_factory.mktemp("extract")
    overrides = ["survey.bricks=2", "survey.npix=384", "injection.per_brick=30", "extract.selection='galaxies'", "seed=5"]
    paths = [f"paths.{name}='{root}/{name}'" for name in ("survey", "obiwan", "cutouts")]
    made = load_config(None, [*paths, *overrides])
    make_survey(made, World())
    inject(made, World())
    extract(made, World())
    return made


def test_ledger_adds_up_and_both_classes_are_there(config: Config) -> None:
    items = json.loads((config.paths.cutouts / "ledger.json").read_text())["items"]
    assert len(items) == 2
    for item in items:
        for label in ("real", "fake"):
            flow = dict(item[f"{label}_cut_flow"])
            assert flow.pop("catalog") - sum(flow.values()) == item[label] > 5


def test_fakes_are_the_injected_ones_and_reals_are_not(config: Config) -> None:
    brick = list_bricks(config.paths.survey)[0]
    tables = {}
    for label in ("real", "fake"):
        with open_cutouts(cutout_path(config.paths.cutouts, label, brick)) as cutouts:
            tables[label] = cutouts.sources()
            assert cutouts.images().shape == (len(cutouts), 64, 64, 6)
    assert set(tables["fake"]["label"]) == {1}
    assert set(tables["real"]["label"]) == {0}
    assert all(name.startswith(f"rs0-{brick}-".encode()) for name in tables["fake"]["id"])
    assert set(tables["real"]["rs"]) == {b"rs0"}  # both classes from the same coadds
    assert not set(tables["real"]["id"]) & set(tables["fake"]["id"])
    assert not tables["real"]["injected"].any()
    truth = read_injected(injected_views(config.paths.obiwan, brick)[0])
    keys = dict(zip(fake_ids(truth, brick, "rs0"), parameter_keys(truth).tolist(), strict=True))
    assert tables["fake"]["injected"].tolist() == [keys[name.decode()] for name in tables["fake"]["id"]]
    assert len(set(keys.values())) == len(keys) > 10
    catalog = read_catalog(tractor_path(config.paths.obiwan, brick, "rs0"))
    for table in tables.values():
        rows = [int(np.flatnonzero((catalog["bx"] == row["bx"]) & (catalog["by"] == row["by"]))[0]) for row in table]
        for band in "grz":
            np.testing.assert_array_equal(table[f"psfdepth_{band}"], catalog[f"psfdepth_{band}"][rows])
            assert (table[f"psfdepth_{band}"] > 0).all()


def test_extraction_continues_and_names_a_broken_brick(config: Config, tmp_path: Path) -> None:
    one, other = list_bricks(config.paths.survey)
    again = config.model_copy(update={"paths": config.paths.model_copy(update={"cutouts": tmp_path / "cutouts"})})
    path = coadd_path(config.paths.obiwan, one, "invvar", "r", "rs0")
    whole = path.read_bytes()
    try:
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(StageError, match=rf"1 of 2 bricks failed:\n.*legacysurvey-{one}-invvar-r"):
            extract(again, World())
    finally:
        path.write_bytes(whole)
    assert not cutout_path(tmp_path / "cutouts", "real", one).exists()
    done = cutout_path(tmp_path / "cutouts", "real", other)
    before = done.stat().st_mtime_ns
    extract(again, World())
    assert done.stat().st_mtime_ns == before
    assert cutout_path(tmp_path / "cutouts", "real", one).read_bytes() == cutout_path(config.paths.cutouts, "real", one).read_bytes()


def test_missing_catalog_of_a_realisation_is_a_clear_error(config: Config, tmp_path: Path) -> None:
    brick = list_bricks(config.paths.survey)[0]
    path = tractor_path(config.paths.obiwan, brick, "rs0")
    again = config.model_copy(update={"paths": config.paths.model_copy(update={"cutouts": tmp_path / "cutouts"})})
    hidden = path.rename(path.with_suffix(".hidden"))
    try:
        with pytest.raises(StageError, match=rf"1 of 2 bricks failed:\n.*rs0/tractor-{brick}\.fits: no such file"):
            extract(again, World())
    finally:
        hidden.rename(path)


def test_cutouts_of_other_inputs_are_not_mixed(config: Config) -> None:
    # The same [extract], but the fakes were injected anew with another setting.
    again = config.model_copy(update={"injection": config.injection.model_copy(update={"poisson": False})})
    inject(again, World(), overwrite=True)
    with pytest.raises(StaleOutputError, match="another configuration or from other inputs"):
        extract(again, World())
    inject(config, World(), overwrite=True)
    extract(config, World())


@pytest.mark.parametrize(
    ("classes", "real_from", "trees"),
    [
        (["real", "fake"], "injected", ["inject"]),
        (["real", "fake"], "survey", ["inject", "survey"]),
        (["real"], "survey", ["survey"]),
        (["real"], "injected", ["inject"]),
        (["fake"], "survey", ["inject"]),
        (["user"], "injected", ["survey"]),
        (["user", "fake"], "injected", ["inject", "survey"]),
    ],
)
def test_only_the_trees_that_are_needed_are_read(classes: list[str], real_from: str, trees: list[str]) -> None:
    assert list(input_trees(load_config(None, [f"extract.classes={classes}", f"extract.real_from='{real_from}'"]))) == trees


def test_real_galaxies_can_come_from_the_survey_itself(config: Config, tmp_path: Path) -> None:
    paths = config.paths.model_copy(update={"cutouts": tmp_path / "cutouts"})
    settings = config.extract.model_copy(update={"real_from": "survey"})
    extract(config.model_copy(update={"paths": paths, "extract": settings}), World())
    brick = list_bricks(config.paths.survey)[0]
    with (
        open_cutouts(cutout_path(tmp_path / "cutouts", "real", brick)) as own,
        open_cutouts(cutout_path(config.paths.cutouts, "real", brick)) as injected,
    ):
        assert set(own.sources()["rs"]) == {b""}
        assert set(injected.sources()["id"]) <= set(own.sources()["id"])  # a fake may have come too near to some


def test_the_first_bricks_can_be_tried(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = ["survey.bricks=3", "survey.npix=256", "extract.classes=['real']", "extract.real_from='survey'", "extract.selection='all'"]
    config = load_config(None, [*settings, f"paths.survey='{tmp_path}/survey'", f"paths.cutouts='{tmp_path}/cutouts'", "extract.bricks=2"])
    make_survey(config, World(), False)
    extract(config, World(), False)
    assert [path.stem for path in sorted((tmp_path / "cutouts" / "real").rglob("*.h5"))] == list_bricks(config.paths.survey)[:2]
    assert "extract: the first 2 of 3 bricks, by extract.bricks" in capsys.readouterr().out
