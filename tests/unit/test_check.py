"""The checker of both formats."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sample_shards import SMALL, make_shards, save_manifest

from hpc_galaxy.errors import InputError, StageError
from hpc_galaxy.files import write_json
from hpc_galaxy.shards.check import check
from hpc_galaxy.shards.cutout_file import cutout_path, write_cutouts
from hpc_galaxy.shards.manifest import Shard, load_manifest
from hpc_galaxy.shards.numpy_shards import write_shard
from hpc_galaxy.shards.schema import SOURCE_DTYPE, STAMP_SHAPE
from hpc_galaxy.shards.storage import Storage, encode
from hpc_galaxy.world import World

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    make_shards(tmp_path, train=520, valid=0, test=3)
    return tmp_path


def failures(paths: list[Path], capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Check; return what was said to be wrong, without the paths' folders."""
    capsys.readouterr()
    with pytest.raises(StageError):
        check(paths, World())
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("FAILED: ")]
    return [line.removeprefix("FAILED: ").removeprefix(f"{paths[0]}").lstrip("/: ") for line in lines]


def test_check_passes_good_files_and_names_every_problem(shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(GOLDEN / "cutouts_v3.h5", shards / "good.h5")
    shutil.copy(GOLDEN / "cutouts_v3_bitshuffle.h5", shards / "also_good.h5")
    (shards / ".partial-7-x.h5").write_text("a killed job was here")
    check([shards], World())
    out = capsys.readouterr().out
    assert "520 train, 0 valid, 3 test" in out
    assert out.count("ok: ") == 3
    (shards / "bad.h5").write_bytes((shards / "good.h5").read_bytes()[:5000])
    for name in ("xtest_000000.npy", "ytrain_000001.npy"):
        content = bytearray((shards / name).read_bytes())
        content[-1] ^= 1
        (shards / name).write_bytes(content)
    with pytest.raises(StageError, match="2 of 4 failed"):
        check([shards])
    out = capsys.readouterr().out
    assert "ok: " in out
    assert "bad.h5: not a readable HDF5 file" in out
    assert "xtest_000000.npy: XXH128 is" in out
    assert "ytrain_000001.npy: XXH128 is" in out
    assert "xtrain_000001.npy: labels differ from those in its table" in out
    (shards / "xtrain_000000.npy").unlink()
    assert any("xtrain_000000.npy: cannot be read (No such file" in line for line in failures([shards], capsys))
    with pytest.raises(InputError, match=r"no \.h5 file, no img_ivar_grz\.hdf5 and no manifest\.json here"):
        check([shards / "nowhere"])


def test_check_finds_a_galaxy_that_is_in_two_splits(shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = json.loads((shards / "manifest.json").read_text())
    manifest["splits"]["valid"] = manifest["splits"]["test"]
    write_json(shards / "manifest.json", manifest)
    assert failures([shards], capsys) == [
        "manifest.json: id test-0 occurs 2 times (3 such), expected each in one split, once",
        "manifest.json: group 2000p050 is in valid and test (3 such), expected each in one split",
    ]
    (shards / "manifest.json").write_text("{}")
    assert failures([shards], capsys)[0].startswith("manifest.json: 'version' is None, expected 3")


Spoil = Callable[[np.ndarray, np.ndarray], Any]


def write_small(root: Path, spoil: Spoil, half: bool = False) -> None:
    """Write shards of small stamps, 4 in train and 4 in test, each in a group of its own."""
    rng = np.random.default_rng(1)
    x, table = rng.uniform(size=(8, *SMALL.shape)).astype(np.float32), np.zeros(8, SMALL.example_dtype)
    table["id"], table["group"], table["label"] = [f"a{number}" for number in range(8)], np.arange(8), [0, 1] * 4
    spoil(x, table)
    storage = Storage(dtype="<f2", scale=[1.0, 1.0]) if half else Storage()
    stored = encode(x, storage.scale, SMALL)[0] if storage.scale else x
    splits: dict[str, list[Shard]] = {}
    for split, rows in (("train", slice(0, 4)), ("test", slice(4, 8))):
        splits[split] = [write_shard(root, split, 0, stored[rows], table[rows])]
    save_manifest(root, splits, SMALL, storage)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize(
    ("spoil", "problems"),
    [
        (lambda x, t: None, []),
        (lambda x, t: t["id"].__setitem__(5, b"a1"), ["id a1 occurs 2 times (1 such), expected each in one split, once"]),
        (lambda x, t: t["id"].__setitem__(2, b"a1"), ["id a1 occurs 2 times (1 such), expected each in one split, once"]),
        (lambda x, t: t["group"].__setitem__(5, b"1"), ["group 1 is in train and test (1 such), expected each in one split"]),
        (lambda x, t: t["group"].__setitem__(2, b"1"), []),
        (lambda x, t: t["group"].__setitem__([2, 6, 7], b""), [f"{n} sources have no group, expected 0" for n in ("1 train", "2 test")]),
        (lambda x, t: t["label"].__setitem__(5, 255), ["xtest_000000.npy: has labels [255], expected 0 and 1"]),
        (lambda x, t: x.__setitem__((5, 3, 3, 0), np.nan), ["xtest_000000.npy: has 1 pixels that are no numbers, expected 0"]),
        (lambda x, t: x.__setitem__((5, 3, slice(3), 1), np.inf), ["xtest_000000.npy: has 3 pixels that are no numbers, expected 0"]),
    ],
)  # fmt: skip
def test_check_names_what_is_wrong_with_shards(
    tmp_path: Path, spoil: Spoil, problems: list[str], half: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    write_small(tmp_path, spoil, half)
    if problems:
        assert failures([tmp_path], capsys) == [f"manifest.json: {problem}" for problem in problems]
    else:
        check([tmp_path])


def test_check_compares_files_with_the_manifest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_small(tmp_path, lambda x, t: None)
    good = json.loads((tmp_path / "manifest.json").read_text())
    right = {"train": {"examples": 4, "groups": 5, "real": 2, "fake": 2, "share": 0.5}, "sources": 9}
    write_json(tmp_path / "manifest.json", good | {"report": right})
    check([tmp_path])
    wrong = {"train": {"examples": 5, "real": 2, "fake": 3}, "test": {"real": 1}, "valid": []}
    write_json(tmp_path / "manifest.json", good | {"report": wrong})
    assert failures([tmp_path], capsys) == [
        "manifest.json: 'report.train.examples' is 5, expected 4, as in the tables",
        "manifest.json: 'report.train.fake' is 3, expected 2, as in the tables",
        "manifest.json: 'report.test.real' is 1, expected 2, as in the tables",
    ]
    write_json(tmp_path / "manifest.json", good)
    with open(tmp_path / "xtest_000000.npy", "ab") as file:
        file.write(b"!")
    size = load_manifest(tmp_path).splits["test"][0].bytes["xtest_000000.npy"]
    assert failures([tmp_path], capsys) == [f"manifest.json: xtest_000000.npy: has {size + 1} bytes, expected {size}"]


def stamps(count: int = 4) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Return what a good cutout file holds."""
    images = np.random.default_rng(1).normal(size=(count, *STAMP_SHAPE)).astype(np.float32)
    images[..., 3:] = 1
    table = np.zeros(count, SOURCE_DTYPE)
    table["id"] = [f"9010-1-{number}".encode() for number in range(count)]
    table["brick"], table["bx"], table["by"] = b"1211p060", 100, 100
    table["bx"][1], table["edge"][1], images[1, :, :5] = 27.0, True, 0
    return images, table, {"brick": "1211p060", "label": "real", "fingerprint": "abc", "cut_flow": {"catalog": 9, "primary": 5}}


Change = Callable[[np.ndarray, np.ndarray, dict[str, Any]], Any]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda x, t, a: x.__setitem__((0, 3, 3, 3), np.nan), "'images' has 1 pixels that are no numbers, expected 0"),
        (lambda x, t, a: x.__setitem__((0, 3, 3, 0), np.inf), "'images' has 1 pixels that are no numbers, expected 0"),
        (lambda x, t, a: x.__setitem__((2, 3, slice(3), 5), -1), "'images' has 3 pixels of inverse variance below 0, expected 0"),
        (lambda x, t, a: t["id"].__setitem__(2, t["id"][0]), "id 9010-1-0 occurs 2 times (1 such), expected each once"),
        (lambda x, t, a: t["id"].__setitem__(2, b""), "a source has no id"),
        (lambda x, t, a: t["label"].__setitem__(2, 1), "1 sources have another label than the file's attribute, 0"),
        (lambda x, t, a: t["brick"].__setitem__(2, b"1212p060"), "1 sources have another brick than the file's attribute, b'1211p060'"),
        (lambda x, t, a: a.pop("label"), "attribute 'label' is None, expected text"),
        (lambda x, t, a: a.update(label="star"), "attribute 'label' is 'star', expected one of real, fake, user"),
        (lambda x, t, a: a.update(label="fake"), "attribute 'label' is 'fake', expected 'real' as in its path"),
        (lambda x, t, a: a.update(brick="1212p060"), "attribute 'brick' is '1212p060', expected '1211p060' as in its path"),
        (lambda x, t, a: t["edge"].__setitem__(1, False), "1 stamps begin below pixel 0 and are not flagged 'edge'"),
        (lambda x, t, a: t["edge"].__setitem__(2, True), "1 stamps are flagged 'edge' and have data on all four borders, first: stamp 2"),
        (
            lambda x, t, a: a.update(cut_flow={"catalog": 9, "primary": 4}),
            "has 4 cutouts, expected 5, which is what its cut flow leaves of 9",
        ),
        (lambda x, t, a: a.update(cut_flow="many"), "attribute 'cut_flow' is no JSON object of numbers"),
        (lambda x, t, a: a.update(mantissa_bits="all"), "attribute 'mantissa_bits' is 'all', expected 1 to 23"),
        (lambda x, t, a: a.update(mantissa_bits=20), "'images' has 43011 pixels with more bits than 'mantissa_bits', expected 0"),
    ],
)
def test_check_names_what_is_wrong_with_cutouts(tmp_path: Path, change: Change, problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = cutout_path(tmp_path, "real", "1211p060")
    write_cutouts(path, *stamps())
    check([path], World())
    images, table, attributes = stamps()
    change(images, table, attributes)
    write_cutouts(path, images, table, attributes)
    found = failures([path], capsys)
    if "mantissa_bits" in problem and "pixels" in problem:
        assert [line.split(" pixels ")[-1] for line in found if "pixels" in line] == ["with more bits than 'mantissa_bits', expected 0"]
        assert any("'rounding_rms_sigma' is None, expected a number from 0" in line for line in found)
    else:
        assert problem in found


def test_check_names_several_problems_of_one_file_and_each_broken_stamp(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, table, attributes = stamps(40)
    images[0, 3, 3, 3], table["label"][1] = np.nan, 1
    write_cutouts(tmp_path / "x.h5", images, table, attributes | {"cut_flow": {}})
    content = bytearray((tmp_path / "x.h5").read_bytes())
    for row in (7, 30):
        content[content.index(images[row].tobytes()) + 99] ^= 1
    (tmp_path / "x.h5").write_bytes(content)
    found = failures([tmp_path], capsys)
    assert [line.split(" (")[0] for line in found] == [
        "x.h5: stamp 7: 'images' cannot be read",
        "x.h5: stamp 30: 'images' cannot be read",
        "x.h5: 'images' has 1 pixels that are no numbers, expected 0",
        "x.h5: 1 sources have another label than the file's attribute, 0",
    ]


def extraction(root: Path, bricks: int = 3) -> Path:
    """Make the output directory of an extraction of one class."""
    items = []
    for number in range(bricks):
        images, table, attributes = stamps()
        brick = f"{number:04d}p060"
        table["brick"] = brick.encode()
        table["id"] = [f"9010-{number}-{row}".encode() for row in range(len(table))]
        write_cutouts(cutout_path(root, "real", brick), images, table, attributes | {"brick": brick})
        items.append({"brick": brick, "real": 4})
    write_json(root / "stage.json", {"stage": "extract", "fingerprint": "abc"})
    write_json(root / "ledger.json", {"items": items})
    return root


def test_check_compares_an_extraction_with_its_ledger(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = extraction(tmp_path / "cutouts")
    check([root], World())
    assert "3 bricks in the ledger" in capsys.readouterr().out
    check([root / "ledger.json"], World())

    shutil.copytree(root / "real" / "000", root / "real" / "009")
    images, table, attributes = stamps(3)
    table["brick"] = b"0001p060"
    write_cutouts(cutout_path(root, "real", "0001p060"), images, table, attributes | {"brick": "0001p060", "cut_flow": {}})
    cutout_path(root, "real", "0000p060").unlink()
    found = failures([root], capsys)
    assert "real/000/0000p060.h5: no such file, though the ledger lists it" in found
    assert "real/009/0001p060.h5 is not in the ledger" in found
    assert "real/000/0001p060.h5: has count 3, expected 4, cutouts as its directory's ledger says" in found


def test_check_says_when_an_extraction_is_not_finished_or_failed_or_of_another_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = extraction(tmp_path)
    ledger = json.loads((root / "ledger.json").read_text())
    write_json(root / "ledger.json", {"items": [*ledger["items"], {"brick": "0009p060", "error": "it broke"}]})
    assert failures([root], capsys) == ["brick 0009p060 failed: it broke"]
    (root / "ledger.json").write_text('{"items": [3]}')
    assert failures([root], capsys) == ["stage.json or ledger.json is not as 'hpc-galaxy extract' writes it"]
    (root / "ledger.json").unlink()
    assert failures([root], capsys) == ["has no ledger.json: 'hpc-galaxy extract' did not finish here, run it again"]
    write_json(root / "ledger.json", ledger)
    write_json(root / "stage.json", {"stage": "extract", "fingerprint": "other"})
    found = failures([root], capsys)
    assert len(found) == 3
    assert found[0] == "real/000/0000p060.h5: has fingerprint 'abc', expected 'other', the fingerprint of its directory's stage"


def test_check_reads_every_file_once_whatever_the_paths(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = extraction(tmp_path)
    one = cutout_path(root, "real", "0000p060")
    (root / "loop").symlink_to(root)
    check([one, root, root, one], World())
    out = capsys.readouterr().out.splitlines()
    assert len(out) == 4
    assert out[0] == f"ok: {one}: 4 cutouts"
    assert out[2:] == [f"ok: {cutout_path(root, 'real', f'000{number}p060')}: 4 cutouts" for number in (1, 2)]


def test_a_disk_that_fails_is_a_problem_of_its_file_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.h5", "b.h5"):
        write_cutouts(tmp_path / name, np.zeros((1, *STAMP_SHAPE), np.float32), np.zeros(1, SOURCE_DTYPE), {})

    def failing(path: Path, details: dict[str, object]) -> tuple[str, list[str]]:
        if path.name == "a.h5":
            raise OSError(errno.EIO, "Input/output error", str(path))
        return "1 cutouts", []

    monkeypatch.setattr("hpc_galaxy.shards.check.check_stamps", failing)
    with pytest.raises(StageError, match="1 of 2 failed"):
        check([tmp_path])
    said = capsys.readouterr().out
    assert f"FAILED: {tmp_path / 'a.h5'}: cannot be read (Input/output error)" in said
    assert f"ok: {tmp_path / 'b.h5'}: 1 cutouts" in said
