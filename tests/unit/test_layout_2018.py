"""The files of 2018: a group and two datasets a galaxy, read and written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from hpc_galaxy.config import Config, load_config
from hpc_galaxy.errors import ConfigError, FormatError, InputError, OutputError, StageError
from hpc_galaxy.files import write_json
from hpc_galaxy.shards.check import check
from hpc_galaxy.shards.layout_2018 import create_2018, open_2018, path_2018
from hpc_galaxy.shards.layouts import create_stamps, existing_path, open_stamps, stamps_path
from hpc_galaxy.shards.numpy_shards import open_split
from hpc_galaxy.shards.schema import DEFAULT, LABELS, SOURCE_DTYPE, STAMP_SHAPE, StampFormat
from hpc_galaxy.splits.split import split
from hpc_galaxy.world import World

BRICK = "1211p060"


def from_2018(path: Path, stamps: dict[str, np.ndarray]) -> None:
    """Write a file as 2018's programs did: `stamps` of shape (64, 64, 6), axes (y, x, channel), by the groups' names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, stamp in stamps.items():
            for kind, channels in (("img", stamp[..., :3]), ("ivar", stamp[..., 3:])):
                # h5py chose the chunks, and the bytes may have stood as they do in FITS.
                dtype = ">f4" if kind == "ivar" else "<f4"
                file.create_dataset(f"{name}/{kind}", data=np.swapaxes(channels, 0, 1), chunks=True, dtype=dtype)


def random_stamps(count: int, seed: int = 1) -> np.ndarray:
    stamps = np.random.default_rng(seed).normal(size=(count, *STAMP_SHAPE)).astype(np.float32)
    stamps[..., 3:] = np.abs(stamps[..., 3:]) + 1
    return stamps


def sources(count: int, brick: str = BRICK, label: str = "fake") -> np.ndarray:
    table = np.zeros(count, SOURCE_DTYPE)
    table["id"] = [f"rs0-{brick}-{number}".encode() for number in range(count)]
    table["brick"], table["label"], table["type"] = brick.encode(), LABELS[label], b"EXP"
    table["ra"], table["dec"], table["mag_r"], table["bx"], table["by"] = 121.1, 6.01, 22.5, 100, 100
    table["psfdepth_g"] = 500
    if label == "fake":
        table["injected"] = 2**63 + 1000 * int(brick[:4]) + np.arange(count, dtype=np.uint64)
    return table


def write(root: Path, count: int = 12, brick: str = BRICK, label: str = "fake") -> Path:
    path = path_2018(root, label, brick)
    with create_2018(path) as writer:
        writer.append(random_stamps(count)[:5], sources(count, brick, label)[:5])
        writer.append(random_stamps(count)[5:], sources(count, brick, label)[5:])
        writer.attributes.update(brick=brick, label=label, cut_flow={"catalog": count + 3, "primary": 3})
        assert len(writer) == count
    return path


def test_files_of_2018_are_read_with_what_is_known_of_them(tmp_path: Path) -> None:
    stamps = random_stamps(3)
    path = path_2018(tmp_path, "real", BRICK)
    assert path.relative_to(tmp_path).as_posix() == "real/hdf5/121/1211p060/img_ivar_grz.hdf5"
    from_2018(path, {"10": stamps[1], "9": stamps[0], "2147483647": stamps[2]})
    with open_stamps(path) as file:
        assert (len(file), file.stamps, file.attributes) == (3, DEFAULT, {})
        np.testing.assert_array_equal(file.images(), stamps)  # in the order of the numbers
        np.testing.assert_array_equal(file.images(np.array([0, 2])), stamps[[0, 2]])
        table = file.sources()
    assert table["id"].tolist() == [b"real-1211p060-9", b"real-1211p060-10", b"real-1211p060-2147483647"]
    assert set(table["brick"]) == {BRICK.encode()}
    assert set(table["label"]) == {0}
    assert np.isnan(table["ra"]).all() and np.isnan(table["mag_g"]).all() and np.isnan(table["psfdepth_r"]).all()
    assert not table["injected"].any()
    assert not table["edge"].any()


def test_axes_of_2018_are_x_y_band(tmp_path: Path) -> None:
    path = write(tmp_path, 1)
    with h5py.File(path) as file:
        assert list(file) == ["0"]
        img, ivar = file["0/img"][()], file["0/ivar"][()]
    assert (img.shape, img.dtype.str, ivar.shape) == ((64, 64, 3), "<f4", (64, 64, 3))
    stamp = random_stamps(1)[0]
    assert img[5, 40, 1] == stamp[40, 5, 1]
    assert ivar[5, 40, 2] == stamp[40, 5, 5]


def test_what_this_package_writes_it_reads_back_whole(tmp_path: Path) -> None:
    path = write(tmp_path)
    with open_2018(path) as file:
        np.testing.assert_array_equal(file.images(), random_stamps(12))
        np.testing.assert_array_equal(file.sources(), sources(12))
        assert file.attributes["cut_flow"] == '{"catalog": 15, "primary": 3}'
    with h5py.File(path) as raw:
        assert sorted(raw, key=int) == [str(number) for number in range(12)]
        assert raw["3"].attrs["source"]["ra"] == 121.1  # for other programs
        assert raw["3"].attrs["source"]["injected"] == 2**63 + 1211003
    check([tmp_path])


def test_the_same_content_makes_the_same_bytes(tmp_path: Path) -> None:
    one, other = write(tmp_path / "a"), write(tmp_path / "b")
    assert one.read_bytes() == other.read_bytes()


def test_what_2018_has_no_place_for_is_refused(tmp_path: Path) -> None:
    for stamps, how, problem in (
        (StampFormat(("g", "r")), {}, r"extract\.bands: is \['g', 'r'\], expected \['g', 'r', 'z'\] in the layout '2018'"),
        (StampFormat(planes=("image",)), {}, r"extract\.planes"),
        (StampFormat(size=32), {}, r"extract\.size: is 32, expected 64"),
        (DEFAULT, {"compression": "bitshuffle"}, r"extract\.compression"),
        (DEFAULT, {"mantissa_bits": 9}, r"extract\.mantissa_bits"),
    ):
        with pytest.raises(ConfigError, match=problem), create_stamps("2018", tmp_path / "x.hdf5", stamps, **how):
            pass
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyError), create_2018(tmp_path / "x.hdf5") as writer:
        writer.append(random_stamps(2), sources(2))
        raise KeyError("something")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError), create_2018(tmp_path / "file" / "x.hdf5"):
        pass


def test_either_layout_is_found_and_opened(tmp_path: Path) -> None:
    for layout, brick in (("brick", "0001p000"), ("2018", "0002p000")):
        path = stamps_path(layout, tmp_path, "real", brick)
        with create_stamps(layout, path, DEFAULT) as writer:
            writer.append(random_stamps(2), sources(2, brick, "real"))
        assert existing_path(tmp_path, "real", brick) == path
        with open_stamps(path) as file:
            np.testing.assert_array_equal(file.images(), random_stamps(2))
            assert file.sources()["brick"][1] == brick.encode()
    with pytest.raises(InputError, match="no such file, though the ledger lists it"):
        existing_path(tmp_path, "fake", "0001p000")


def replace(name: str, value: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file[name]
        if value is not None:
            file[name] = value

    return change


def external(file: h5py.File) -> None:
    del file["3/img"]
    file.create_dataset("3/img", (64, 64, 3), "<f4", external=[("secret", 0, h5py.h5f.UNLIMITED)])


def stored(**how: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file["3/img"]
        file.create_dataset("3/img", (64, 64, 3), "<f4", **how)

    return change


def older_source(file: h5py.File) -> None:
    """Leave out the columns that came with version 3 of the cutout file."""
    source = file["3"].attrs["source"]
    names = [name for name in source.dtype.names if name != "injected" and not name.startswith("psfdepth")]
    file["3"].attrs.create("source", np.array(source)[names], dtype=np.dtype([(name, source.dtype[name]) for name in names]))


def odd_source(file: h5py.File) -> None:
    del file["3"].attrs["source"]
    file["3"].attrs["source"] = "nothing"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (replace("3/img", np.zeros((65, 65, 3), "f4")), r"shape of '3/img' is \(65, 65, 3\), expected \(64, 64, 3\)"),
        (replace("3/ivar", None), "link of '3/ivar' is None, expected HardLink"),
        (replace("3/ivar", np.zeros((64, 64, 3))), "dtype of '3/ivar' is"),
        (replace("3/ivar", h5py.SoftLink("/2/ivar")), "link of '3/ivar' is SoftLink"),
        (replace("3", h5py.ExternalLink("other.hdf5", "/3")), "link of '3' is ExternalLink"),
        (replace("3", np.zeros(3)), "kind of '3' is Dataset, expected Group"),
        (stored(data=np.ones((64, 64, 3)), compression="gzip"), r"filters of '3/img' is \[1\], expected \[\]"),
        (stored(chunks=(32, 32, 3)), "number of chunks of '3/img' is 0, expected 4"),
        (external, "external storage of '3/img'"),
        (odd_source, "columns of 'source' of group '3' is"),
        (older_source, "columns of 'source' of group '3' is"),
        (lambda file: file.create_group("galaxy"), "name of a group is 'galaxy', expected 'a number'"),
        (lambda file: file.create_dataset("4/more/img", data=3), None),
    ],
)
def test_bad_groups_are_named(tmp_path: Path, change: Callable[[h5py.File], None], problem: str | None) -> None:
    path = write(tmp_path)
    with h5py.File(path, "r+") as file:
        change(file)

    def read() -> None:
        with open_2018(path) as file:
            file.images()
            file.sources()

    if problem is None:
        read()
        return
    with pytest.raises(FormatError, match=problem):
        read()
    with pytest.raises(StageError):
        check([tmp_path])


def test_a_file_in_the_wrong_place_is_refused(tmp_path: Path) -> None:
    from_2018(tmp_path / "stars" / "hdf5" / "121" / BRICK / "img_ivar_grz.hdf5", {"1": random_stamps(1)[0]})
    with open_2018(tmp_path / "stars" / "hdf5" / "121" / BRICK / "img_ivar_grz.hdf5") as file, pytest.raises(FormatError, match="'stars'"):
        file.sources()
    long = path_2018(tmp_path, "real", "1211p060-long")
    from_2018(long, {"1": random_stamps(1)[0]})
    with open_2018(long) as file, pytest.raises(FormatError, match="brick's name"):
        file.sources()


# The splitter


def directory_of_2018(root: Path, bricks: int = 12, each: int = 3) -> Config:
    """Make 2018's two trees, as links, with a file of edge stamps that must not be read."""
    for number, label in enumerate(LABELS):
        tree = root / f"tree-{label}"
        for brick in range(bricks):
            path = path_2018(tree.parent, tree.name, f"{brick:04d}p060")
            stamps = random_stamps(each, seed=100 * number + brick)
            from_2018(path, {str(7 * galaxy): stamp for galaxy, stamp in enumerate(stamps)})
            with h5py.File(path.with_name("img_ivar_grz_onedge.hdf5"), "w") as file:
                file["5/img"] = np.zeros((65, 65, 3), "f4")
        (root / "cutouts").mkdir(exist_ok=True)
        (root / "cutouts" / label).symlink_to(tree)
    overrides = ["split.train=0.5", "split.valid=0.25", "split.test=0.25", "split.match='none'", "seed=3"]
    return load_config(None, [f"paths.cutouts='{root}/cutouts'", f"paths.shards='{root}/shards'", *overrides])


def test_files_of_2018_are_split_and_what_is_not_known_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = directory_of_2018(tmp_path)
    check([config.paths.cutouts])
    assert capsys.readouterr().out.count("ok: ") == 24
    split(config, World())
    out = capsys.readouterr().out
    assert "has the layout of 2018: 24 files; 24 with stamps at an edge are not read" in out
    assert "WARNING: 72 of 72 sources have no position" in out
    readers = [open_split(config.paths.shards, name) for name in ("train", "valid", "test")]
    assert readers[0].manifest.report["without_position"] == 72
    ids = np.concatenate([reader.table["id"] for reader in readers])
    assert len(set(ids)) == len(ids) == 72
    for reader in readers:
        for row, stamp in zip(reader.table, reader.stamps(np.arange(len(reader))), strict=True):
            label, brick, group = row["id"].decode().split("-")
            assert row["label"] == LABELS[label]
            np.testing.assert_array_equal(stamp, random_stamps(3, seed=100 * LABELS[label] + int(brick[:4]))[int(group) // 7])
    check([config.paths.shards])


def test_what_was_never_measured_cannot_be_matched(tmp_path: Path) -> None:
    config = directory_of_2018(tmp_path)
    config = config.model_copy(update={"split": config.split.model_copy(update={"match": "nearest"})})
    with pytest.raises(InputError, match=r"none of 36 real sources has a value of mag_g, .*; set split.match = 'none', or leave"):
        split(config, World())


def test_a_class_without_files_is_refused(tmp_path: Path) -> None:
    config = directory_of_2018(tmp_path)
    for path in (tmp_path / "tree-fake").rglob("img_ivar_grz.hdf5"):
        path.unlink()
    with pytest.raises(InputError, match=r"fake: has no hdf5/\*/\*/img_ivar_grz\.hdf5"):
        split(config, World())


def test_an_extraction_in_the_2018_layout_is_split_with_positions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    items = []
    for number in range(12):
        brick = f"{number:04d}p060"
        for label in LABELS:
            table = sources(3, brick, label)
            table["id"] = [f"{label}-{brick}-{row}".encode() for row in range(3)]
            table["ra"] = number
            with create_2018(path_2018(tmp_path / "cutouts", label, brick)) as writer:
                writer.append(random_stamps(3), table)
                writer.attributes.update(brick=brick, label=label, fingerprint="x")
        items.append({"brick": brick, "real": 3, "fake": 3})
    write_json(tmp_path / "cutouts" / "stage.json", {"stage": "extract", "fingerprint": "x"})
    write_json(tmp_path / "cutouts" / "ledger.json", {"items": items})
    check([tmp_path / "cutouts"])
    overrides = ["split.train=0.5", "split.valid=0.25", "split.test=0.25", "split.match='none'", "seed=3"]
    split(load_config(None, [f"paths.cutouts='{tmp_path}/cutouts'", f"paths.shards='{tmp_path}/shards'", *overrides]), World())
    assert "have no position" not in capsys.readouterr().out
    assert open_split(tmp_path / "shards", "train").manifest.report["without_position"] == 0
