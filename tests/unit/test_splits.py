"""The split: whole sky groups, no shared sky, every example once with its own pixels, the same bytes after an interruption."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from sample_survey import THIRDS, TINY, bricks, make_sources, mark, readers, stamps_of, survey, survey_config, write_survey

from hpc_galaxy.config import Config
from hpc_galaxy.errors import FormatError, HpcGalaxyError, InputError, OutputError
from hpc_galaxy.files import write_json
from hpc_galaxy.shards.check import check
from hpc_galaxy.shards.cutout_file import cutout_path, open_cutouts, write_cutouts
from hpc_galaxy.shards.manifest import SPLITS
from hpc_galaxy.shards.schema import STAMP_SHAPE, StampFormat
from hpc_galaxy.splits import plan
from hpc_galaxy.splits.split import cutout_files, split
from hpc_galaxy.splits.statistics import finish, moments, scales, typical_invvar
from hpc_galaxy.world import World

ALL_IN_TRAIN = ("split.train=1", "split.valid=0", "split.test=0")


def test_every_example_once_with_its_own_pixels_label_and_group(tmp_path: Path) -> None:
    split(survey(tmp_path, 12, 9), World())
    check([tmp_path / "shards"])
    parts = readers(tmp_path)
    ids = np.concatenate([part.table["id"] for part in parts])
    assert sorted(ids) == sorted(
        table["id"].tolist().__getitem__(k) for pair in bricks(12, 9, 9).values() for table in pair for k in range(9)
    )
    groups = [set(part.table["group"].tolist()) for part in parts]
    assert all(groups) and not groups[0] & groups[1] and not groups[2] & (groups[0] | groups[1])
    for part in parts:
        x = part.stamps(np.arange(len(part)))
        assert (x[:, 0, 0, 0] == part.labels).all() and (part.labels == part.table["label"]).all()
        assert (x[:, 0, 1, 0] == mark(part.table["id"])).all()
        assert (part.table["group"] == part.table["brick"]).all()
    assert len(set(parts[0].labels[:12])) == 2  # shuffled
    assert len(set(parts[0].table["brick"][:12])) > 3


def test_the_manifest_says_what_was_done(tmp_path: Path) -> None:
    config = survey(tmp_path, 12, 9)
    split(config, World())
    manifest = readers(tmp_path)[0].manifest
    report = manifest.report
    assert (manifest.seed, manifest.channels, manifest.fingerprint) == (1, ["image_g", "invvar_g"], manifest.fingerprint)
    assert report["sources"] == 216 == sum(report[name]["examples"] for name in SPLITS)
    assert report["groups"] == {"kind": "brick", "guard_arcsec": 0.0, "count": 12}
    assert report["dropped"] == {"overlap": 0, "repeat": 0, "balance": 0}
    for name in SPLITS:
        part = report[name]
        assert part["real"] == part["fake"] == 9 * part["groups"] == part["examples"] / 2
        assert part["share"] == pytest.approx(part["groups"] / 12, abs=1e-4)
    facts = manifest.provenance
    assert facts["real"] == facts["fake"] | {}
    assert facts["real"]["compression"] == ["none"] and facts["real"]["mantissa_bits"] == [23] and facts["real"]["layout"] == ["brick"]
    assert facts["fake"]["release"] == [[9010]] and facts["fake"]["where"] == [None]


def test_statistics_are_those_of_the_training_pixels(tmp_path: Path) -> None:
    split(survey(tmp_path, 12, 40), World())
    train = readers(tmp_path)[0]
    x = train.stamps(np.arange(len(train))).astype(np.float64)
    statistics = train.manifest.statistics
    assert statistics.scale == pytest.approx([0.01, 1e4])
    transformed = np.arcsinh(x / np.array(statistics.scale))
    assert statistics.mean == pytest.approx(transformed.mean(axis=(0, 1, 2)), rel=1e-6, abs=1e-6)
    assert statistics.std[:1] == pytest.approx(transformed.std(axis=(0, 1, 2))[:1], rel=1e-6)


@pytest.mark.parametrize("each", [1, 255, 256, 257, 511, 512, 513])
def test_any_number_of_examples_makes_full_shards_and_a_rest(tmp_path: Path, each: int) -> None:
    write_survey(tmp_path, bricks(2, each, each))
    split(survey_config(tmp_path, *ALL_IN_TRAIN), World())
    sizes = [shard.examples for shard in readers(tmp_path)[0].shards]
    full, rest = divmod(4 * each, 512)
    assert sizes == [512] * full + [rest] * (rest > 0)
    assert not list((tmp_path / "shards").glob("*valid*"))
    check([tmp_path / "shards"])


def test_the_larger_class_is_cut_down_only_where_that_is_asked_for(tmp_path: Path) -> None:
    write_survey(tmp_path, bricks(12, 9, 4))
    split(survey_config(tmp_path, *THIRDS), World())
    report = readers(tmp_path)[0].manifest.report
    assert all(report[name]["real"] == report[name]["fake"] == 4 * report[name]["groups"] for name in SPLITS)
    assert report["dropped"]["balance"] == 60
    split(survey_config(tmp_path, *THIRDS, "split.balance=false"), World(), overwrite=True)
    assert readers(tmp_path)[0].manifest.report["dropped"]["balance"] == 0
    assert sum(len(part) for part in readers(tmp_path)) == 156


def test_blocks_mix_their_bricks_and_leave_one_short_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "BLOCK_BRICKS", 4)
    write_survey(tmp_path, bricks(12, 100, 100))
    split(survey_config(tmp_path, *ALL_IN_TRAIN), World())
    check([tmp_path / "shards"])
    train = readers(tmp_path)[0]
    assert [shard.examples for shard in train.shards] == [512] * 4 + [352]
    assert sorted(mark(train.table["id"])) == sorted(train.stamps(np.arange(len(train)))[:, 0, 1, 0])
    assert len(np.unique(train.table["id"])) == 2400
    # A block of 4 bricks has 800 examples: one full shard of 4 bricks, and 288 left over, which are shuffled with those of other blocks.
    mixed = [len(np.unique(train.table["brick"][start : start + 512])) for start in range(0, 2400, 512)]
    assert mixed == [4, 4, 4, 12, 12]


def test_stamps_at_half_the_space(tmp_path: Path) -> None:
    config = survey(tmp_path, 12, 30, "split.storage='float16'")
    split(config, World())
    check([tmp_path / "shards"])
    train = readers(tmp_path)[0]
    storage, x = train.manifest.storage, train.stamps(np.arange(len(train)))
    with open(tmp_path / "shards" / "xtrain_000000.npy", "rb") as file:
        assert np.lib.format.read_magic(file) == (1, 0) and np.lib.format.read_array_header_1_0(file)[2] == np.dtype("<f2")
    assert storage.dtype == "<f2" and storage.scale == [2.0**-7, 2.0**13] and storage.error["clipped"] == 0
    assert x.dtype == np.float32 and (x[..., 1] == 1e4).all()
    originals = {identifier: image for table, images in stored(tmp_path) for identifier, image in zip(table["id"], images, strict=True)}
    error = np.abs(x - np.stack([originals[identifier] for identifier in train.table["id"]]))[..., 0] * 100
    # The marks are up to 511 / 0.01 sigma: half of float16's last bit is 12.5 sigma there.
    assert 0 < error.max() <= storage.error["rounding_max_sigma"] * 1.001 < 12.6
    assert 0 < storage.error["rounding_rms_sigma"] < 0.1 * storage.error["rounding_max_sigma"]
    assert np.median(error) < 1e-3


def stored(root: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    found = []
    for path in sorted((root / "cutouts").rglob("*.h5")):
        with open_cutouts(path) as file:
            found.append((file.sources(), file.images()))
    return found


def test_tiles_are_groups_for_a_survey_of_few_bricks(tmp_path: Path) -> None:
    write_survey(tmp_path, bricks(2, 400, 400))
    with pytest.raises(InputError, match=r"split 'valid': got \{'real': 0, 'fake': 0\} of 1600 sources, in 0 of 2 bricks") as refused:
        split(survey_config(tmp_path, *THIRDS), World())
    assert "set split.groups = 'tile' and split.tile_arcmin = 1.3, use more bricks, a larger split.valid, or another seed" in str(
        refused.value
    )
    split(survey_config(tmp_path, *THIRDS, "split.groups='tile'", "split.tile_arcmin=1.3"), World(), overwrite=True)
    check([tmp_path / "shards"])
    report = readers(tmp_path)[0].manifest.report
    assert report["groups"]["kind"] == "tile" and report["groups"]["tile_arcmin"] == 1.3 and 50 < report["groups"]["count"] < 80
    assert 20 < report["dropped"]["overlap"] < 400
    assert all(part.table["group"][0].startswith(b"t") for part in readers(tmp_path))


def test_repeats_of_an_injected_galaxy_are_on_one_side(tmp_path: Path) -> None:
    made = bricks(12, 20, 20)
    for _, fake in made.values():
        fake["injected"] = np.arange(20) + 1  # the same twenty galaxies in every brick
        fake["injected"][10:] = 0  # of which half are not known
    write_survey(tmp_path, made)
    split(survey_config(tmp_path, *THIRDS, "split.balance=false"), World())
    tables = [part.table[part.table["label"] == 1] for part in readers(tmp_path)]
    keys = [set(table["injected"].tolist()) - {0} for table in tables]
    assert not keys[0] & keys[1] and not keys[2] & (keys[0] | keys[1])
    assert set.union(*keys) == set(range(1, 11))
    assert readers(tmp_path)[0].manifest.report["dropped"]["repeat"] == 240 - sum(len(table) for table in tables) > 20


def test_neighbouring_bricks_on_two_sides_share_no_sky(tmp_path: Path) -> None:
    made = bricks(12, 60, 60)
    for number, tables in enumerate(made.values()):
        for table in tables:
            table["ra"] = 20 + 0.08 * number + (table["ra"] - number)  # neighbours share a fifth of their sky
    write_survey(tmp_path, made)
    split(survey_config(tmp_path, *THIRDS), World())
    assert readers(tmp_path)[0].manifest.report["dropped"]["overlap"] > 30
    positions = [np.stack([part.table["ra"] * np.cos(np.radians(6)), part.table["dec"]], axis=1) for part in readers(tmp_path)]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        apart = np.linalg.norm(positions[one][:, None] - positions[other], axis=2).min() * 3600
        assert apart > 8 * 2**0.5 * 0.262


def test_incomplete_extraction_is_refused(tmp_path: Path) -> None:
    config = survey(tmp_path, 8, 2)
    ledger = tmp_path / "cutouts" / "ledger.json"
    write_json(ledger, {"items": [{"brick": "0000p060", "error": "it broke"}]})
    with pytest.raises(InputError, match="1 of 1 bricks failed, first: it broke"):
        split(config, World())
    write_json(ledger, {"items": [{"brick": "0000p060", "real": 2}]})
    with pytest.raises(InputError, match="has no fake galaxies"):
        split(config, World())
    ledger.unlink()
    with pytest.raises(InputError, match="did not finish here"):
        split(config, World())


def test_a_galaxy_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    made = bricks(8, 3, 3)
    made["0001p060"][1]["id"][1] = made["0000p060"][1]["id"][2]
    write_survey(tmp_path, made)
    message = r"fake/000/0000p060\.h5: id rs0-0000p060-2 is also in .*fake/000/0001p060\.h5, expected each id once \(1 such\)"
    with pytest.raises(InputError, match=message):
        split(survey_config(tmp_path, *THIRDS), World())


def test_files_of_different_stamps_are_refused(tmp_path: Path) -> None:
    config = survey(tmp_path, 8, 3)
    other = StampFormat(("r",), ("image", "invvar"), 8)
    table = make_sources(np.random.default_rng(1), "0003p060", 1, 3, other)
    write_cutouts(cutout_path(tmp_path / "cutouts", "fake", "0003p060"), stamps_of(table, other), table, {}, other)
    with pytest.raises(
        InputError, match=r"fake/000/0003p060\.h5: has stamps .* of image_r, invvar_r, expected .* of image_g, invvar_g as in"
    ):
        split(config, World())


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_pixels_that_are_no_numbers_are_refused(tmp_path: Path, value: float) -> None:
    config = survey(tmp_path, 8, 3)
    path = cutout_path(tmp_path / "cutouts", "fake", "0003p060")
    with open_cutouts(path) as file:
        images, table = file.images(), file.sources()
    images[1, 3, 3, 1] = value
    write_cutouts(path, images, table, {}, TINY)
    with pytest.raises(FormatError, match=r"fake/000/0003p060\.h5: row 1 \(id rs0-0003p060-1\) has pixels that are no numbers"):
        split(config, World())
    assert not (tmp_path / "shards" / "manifest.json").exists()


def test_too_little_space_is_known_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = survey(tmp_path, 12, 100)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1_000_000))
    each = 8 * 8 * 2 * 4 + 1 + TINY.example_dtype.itemsize
    with pytest.raises(OutputError, match=rf"needs {2400 * each / 1e9:.2f} GB, the file system has 0.00 GB free; free some, set"):
        split(config, World())
    assert not list((tmp_path / "shards").glob("*.npy"))


def test_a_missing_file_of_the_ledger_is_named(tmp_path: Path) -> None:
    config = survey(tmp_path, 8, 2)
    cutout_path(tmp_path / "cutouts", "real", "0002p060").unlink()
    with pytest.raises(HpcGalaxyError, match=r"real/000/0002p060\.h5: no such file, though the ledger lists it"):
        cutout_files(config, World())


def test_another_seed_makes_another_split(tmp_path: Path) -> None:
    config = survey(tmp_path, 12, 9)
    split(config, World())
    first = readers(tmp_path)[0].table["id"].tolist()
    split(config.model_copy(update={"seed": 2}), World(), overwrite=True)
    assert readers(tmp_path)[0].table["id"].tolist() != first
    assert json.loads((tmp_path / "shards" / "manifest.json").read_text())["seed"] == 2


def test_statistics_ignore_pixels_without_data_and_constant_planes() -> None:
    images = np.zeros((4, *STAMP_SHAPE), np.float32)
    images[..., 3:] = [4.0, 25.0, 100.0]
    images[:, :40, :, 3:] = 0
    assert typical_invvar(images) == [4.0, 25.0, 100.0]
    scale = scales([typical_invvar(images)])
    assert scale == pytest.approx([0.5, 0.2, 0.1, 4, 25, 100])
    images[..., 3:] = [4.0, 25.0, 100.0]
    assert finish(scale, [moments(images, scale)]).std == [1.0] * 6
    with pytest.raises(InputError, match="band g: no training stamp has a pixel with data"):
        scales([typical_invvar(np.zeros((1, *STAMP_SHAPE), np.float32))])


def skewed(root: Path, fainter: float, *overrides: str) -> Config:
    """Write a survey of 60 bricks whose fakes are `fainter` magnitudes fainter than the reals, and a third of them more."""
    made = bricks(60, 60, 80)
    for _, fake in made.values():
        fake["mag_g"] += fainter
    write_survey(root, made)
    return survey_config(root, "split.match='nearest'", "split.train=0.6", "split.valid=0.2", "split.test=0.2", *overrides)


def test_matching_takes_away_what_a_table_can_tell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    split(skewed(tmp_path, 0.5), World())
    check([tmp_path / "shards"])
    report = readers(tmp_path)[0].manifest.report
    matching = report["matching"]
    assert matching["columns"]["mag_g"]["smd_before"] == pytest.approx(0.5, abs=0.06)
    assert abs(matching["columns"]["mag_g"]["smd_after"]) < 0.1
    assert matching["tabular_auc_before"]["interval"][0] > 0.58
    low, high = matching["tabular_auc_after"]["interval"]
    assert low < 0.5 < high < 0.56
    assert all(report[name]["real"] == report[name]["fake"] > 0 for name in SPLITS)
    assert sum(report[name]["fake"] for name in SPLITS) == matching["pairs"] > 2000
    assert report["dropped"]["match"] == 60 * 140 - 2 * matching["pairs"]
    out = capsys.readouterr().out
    assert "tabular AUC before 0.6" in out and f"after {matching['tabular_auc_after']['auc']:.3f} [" in out
    assert (tmp_path / "shards" / "matching.png").stat().st_size > 20_000
    # The same without matching: the table tells.
    split(skewed(tmp_path / "unmatched", 0.5, "split.match='none'"), World())
    manifest = readers(tmp_path / "unmatched")[0].manifest
    assert "matching" not in manifest.report
    assert "the classes are not matched (split.match is 'none')" in capsys.readouterr().out
