"""The split: whole bricks, no shared sky, every example once, and statistics of the training pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hpc_galaxy.bricks.geometry import PIXEL_SCALE
from hpc_galaxy.config import Config, Split, load_config
from hpc_galaxy.errors import InputError
from hpc_galaxy.files import write_json
from hpc_galaxy.shards.check import check
from hpc_galaxy.shards.cutout_file import cutout_path, open_cutouts, write_cutouts
from hpc_galaxy.shards.numpy_shards import open_split
from hpc_galaxy.shards.schema import LABELS, SOURCE_DTYPE, STAMP_SHAPE
from hpc_galaxy.splits.assign import DROPPED, assign_examples, assign_groups, drop_overlaps, hash_uniform
from hpc_galaxy.splits.split import split
from hpc_galaxy.splits.statistics import finish, moments, scales, typical_invvar
from hpc_galaxy.world import World

THIRDS = Split(train=0.34, valid=0.33, test=0.33)


def sources(bricks: int, each: int, label: int = 0) -> np.ndarray:
    """Return sources of bricks a degree apart."""
    table = np.zeros(bricks * each, SOURCE_DTYPE)
    number = np.arange(len(table))
    table["id"] = [f"{label}-{n}".encode() for n in number]
    table["brick"] = [f"{n // each:04d}p060".encode() for n in number]
    table["label"] = label
    table["ra"], table["dec"] = number // each, (number % each) * 0.01
    return table


def both(bricks: int, real: int, fake: int) -> np.ndarray:
    return np.concatenate([sources(bricks, real, 0), sources(bricks, fake, 1)])


def test_hash_is_the_same_everywhere_and_uniform() -> None:
    # The first 16 digits of: printf '1:group:1211p060' | sha256sum
    assert hash_uniform(1, "group:1211p060") == 0x0458B78540A29E00 / 2**64
    values = np.array([hash_uniform(1, str(number)) for number in range(4000)])
    assert np.histogram(values, 10, (0, 1))[0] == pytest.approx(np.full(10, 400), abs=80)


def test_fractions_of_many_bricks_are_those_asked_for() -> None:
    groups = assign_groups([f"{number:04d}p060" for number in range(5000)], 1, Split())
    shares = np.bincount(list(groups.values()), minlength=3) / 5000
    assert shares == pytest.approx([0.8, 0.1, 0.1], abs=0.015)


def test_adding_bricks_moves_nobody() -> None:
    names = [f"{number:04d}p060" for number in range(50)]
    small, large = assign_groups(names[:20], 3, THIRDS), assign_groups(names, 3, THIRDS)
    assert small == {name: large[name] for name in small}


def test_whole_bricks_go_to_one_side() -> None:
    table = both(30, 5, 5)
    side, _ = assign_examples(table, 1, THIRDS)
    for brick in np.unique(table["brick"]):
        assert len(set(side[table["brick"] == brick])) == 1


def test_classes_are_balanced_in_each_split() -> None:
    table = both(30, 9, 4)
    side, dropped = assign_examples(table, 1, THIRDS)
    for number in range(3):
        counts = [int(((side == number) & (table["label"] == label)).sum()) for label in (0, 1)]
        assert counts[0] == counts[1] > 0
    assert dropped == {"overlap": 0, "balance": 150}


def test_no_test_stamp_shares_a_pixel_with_training() -> None:
    step = PIXEL_SCALE / 3600
    table = sources(2, 3)
    table["ra"] = 100.0
    table["dec"] = np.array([0, 10, 20, 20 + 63, 20 + 91, 300]) * step  # the second brick begins 63 pixels from the first
    side = np.array([0, 0, 0, 2, 2, 2])
    drop_overlaps(table, side)
    assert side.tolist() == [0, 0, 0, DROPPED, 2, 2]


def test_neighbouring_bricks_on_two_sides_lose_their_shared_strip() -> None:
    table = both(60, 5, 5)
    # All bricks side by side, 300 pixels wide, every source 60 pixels from the next: only the strips at the borders are shared.
    table["ra"] = 100.0
    number = np.array([int(name[:4]) for name in table["brick"]])
    table["dec"] = (number * 300 + np.tile(np.arange(5) * 60, 120)) * PIXEL_SCALE / 3600
    side, dropped = assign_examples(table, 1, THIRDS.model_copy(update={"balance": False}))
    assert 10 < dropped["overlap"] < 200
    kept = np.flatnonzero(side != DROPPED)
    apart = np.abs(table["dec"][kept][:, None] - table["dec"][kept]) * 3600 / PIXEL_SCALE
    assert (side[kept][:, None] == side[kept])[apart < 64].all()


def test_too_few_bricks_are_refused_with_the_numbers() -> None:
    with pytest.raises(InputError, match=r"got \{'real': 0, 'fake': 0\} of 8 sources in 1 bricks, expected some of each class; use"):
        assign_examples(both(1, 4, 4), 1, Split())


def cutouts(root: Path, bricks: int, each: int) -> Config:
    """Write cutout files of a made-up extraction."""
    rng = np.random.default_rng(4)
    items = []
    for number in range(bricks):
        item: dict[str, object] = {"brick": f"{number:04d}p060"}
        for label, value in LABELS.items():
            table = sources(bricks, each, value)
            table = table[table["brick"] == item["brick"].encode()]
            images = rng.normal(0, 0.01, (each, *STAMP_SHAPE)).astype(np.float32)
            images[..., 3:] = 1e4
            images[..., 0, 0, :] = value
            write_cutouts(cutout_path(root / "cutouts", label, str(item["brick"])), images, table, {})
            item[label] = each
        items.append(item)
    write_json(root / "cutouts" / "stage.json", {"stage": "extract", "fingerprint": "x"})
    write_json(root / "cutouts" / "ledger.json", {"items": items})
    overrides = ["split.train=0.5", "split.valid=0.25", "split.test=0.25"]
    return load_config(None, [f"paths.cutouts='{root}/cutouts'", f"paths.shards='{root}/shards'", *overrides])


def test_every_example_once_with_its_own_pixels_and_label(tmp_path: Path) -> None:
    config = cutouts(tmp_path, 8, 6)
    split(config, World())
    check([tmp_path / "shards"])
    readers = [open_split(tmp_path / "shards", name) for name in ("train", "valid", "test")]
    ids = np.concatenate([reader.table["id"] for reader in readers])
    assert sorted(ids) == sorted(both(8, 6, 6)["id"])
    for reader in readers:
        x = reader.stamps(np.arange(len(reader)))
        assert (x[:, 0, 0, 0] == reader.labels).all()
    train = readers[0]
    assert len(set(train.labels[:8])) == 2  # shuffled
    x = train.stamps(np.arange(len(train))).astype(np.float64)
    statistics = train.manifest.statistics
    assert statistics.scale == pytest.approx([0.01] * 3 + [1e4] * 3)
    transformed = np.arcsinh(x / np.array(statistics.scale))
    assert statistics.mean == pytest.approx(transformed.mean(axis=(0, 1, 2)), abs=1e-5)
    assert statistics.std[:3] == pytest.approx(transformed.std(axis=(0, 1, 2))[:3], rel=1e-4)


@pytest.mark.parametrize("each", [64, 65])
def test_multiples_of_the_shard_size_make_no_empty_shard(tmp_path: Path, each: int) -> None:
    # 8 bricks x 64 x 2 classes = 1024 examples; all in train: exactly two shards, or two and a rest.
    config = cutouts(tmp_path, 8, each)
    config = config.model_copy(update={"split": Split(train=1.0, valid=0.0, test=0.0)})
    split(config, World())
    sizes = [shard.examples for shard in open_split(tmp_path / "shards", "train").shards]
    assert sizes == ([512, 512] if each == 64 else [512, 512, 16])


def test_an_interrupted_split_continues_to_the_same_bytes(tmp_path: Path) -> None:
    config = cutouts(tmp_path, 8, 6)
    split(config, World())
    shards = tmp_path / "shards"
    before = {path.name: path.read_bytes() for path in shards.iterdir() if not path.name.startswith(".")}
    for name in ("manifest.json", "ledger.json", "xtest_000000.npy"):
        (shards / name).unlink()
    kept = (shards / "xtrain_000000.npy").stat().st_mtime_ns
    split(config, World())
    assert {path.name: path.read_bytes() for path in shards.iterdir() if not path.name.startswith(".")} == before
    assert (shards / "xtrain_000000.npy").stat().st_mtime_ns == kept


def test_incomplete_extraction_is_refused(tmp_path: Path) -> None:
    config = cutouts(tmp_path, 8, 2)
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
    config = cutouts(tmp_path, 8, 3)
    path = cutout_path(tmp_path / "cutouts", "fake", "0001p060")
    with open_cutouts(path) as file:
        images, table = file.images(), file.sources()
    table["id"][1] = b"1-0"
    write_cutouts(path, images, table, {})
    with pytest.raises(InputError, match=r"0000p060\.h5: id 1-0 is also in .*0001p060\.h5, expected each id once"):
        split(config, World())


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
