"""A split that is interrupted, at any place and in either layout, is continued to the bytes of an undisturbed one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sample_survey import THIRDS, TINY, bricks, content, mark, readers, survey, survey_config, write_survey

from hpc_galaxy.shards.check import check
from hpc_galaxy.shards.cutout_file import cutout_path, open_cutouts, write_cutouts
from hpc_galaxy.shards.manifest import SPLITS
from hpc_galaxy.shards.schema import StampFormat
from hpc_galaxy.splits import outputs
from hpc_galaxy.splits.split import split
from hpc_galaxy.world import World


class InterruptedSplitError(Exception):
    pass


def failing_write(after: int) -> Callable[..., Any]:
    """Return a `write_shard` that fails when it has written `after` shards."""
    real, count = outputs.write_shard, 0

    def write(*arguments: Any) -> Any:
        nonlocal count
        if count == after:
            raise InterruptedSplitError
        count += 1
        return real(*arguments)

    return write


@pytest.mark.parametrize("overrides", [(), ("split.storage='float16'",)])
def test_an_interrupted_split_continues_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], overrides: tuple[str, ...]
) -> None:
    config = survey(tmp_path, 12, 100, *overrides)
    split(config, World())
    undisturbed = content(tmp_path)
    shutil.rmtree(tmp_path / "shards")
    with monkeypatch.context() as patch:
        patch.setattr(outputs, "write_shard", failing_write(3))
        with pytest.raises(InterruptedSplitError):
            split(config, World())
    journal = tmp_path / "shards" / ".journal-000000.jsonl"
    with open(journal, "a") as file:
        file.write('{"plan": "half a li')
    assert not (tmp_path / "shards" / "manifest.json").exists()
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "shards").glob("x*.npy")}
    assert len(kept) == 3
    (tmp_path / "shards" / "xtrain_000001.npy").write_bytes(b"torn")  # not of the size that was written down
    split(config, World())
    assert "split: 2 of 6 files are there already" in capsys.readouterr().out
    assert content(tmp_path) == undisturbed
    untouched = [name for name, time in kept.items() if (tmp_path / "shards" / name).stat().st_mtime_ns == time]
    assert sorted(untouched) == ["xtrain_000000.npy", "xtrain_000002.npy"]
    assert not journal.exists()
    capsys.readouterr()
    split(config, World())
    assert "split: 6 of 6 files are there already" in capsys.readouterr().out
    assert content(tmp_path) == undisturbed


def test_what_followed_another_plan_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = survey(tmp_path, 12, 100)
    with monkeypatch.context() as patch:
        patch.setattr(outputs, "write_shard", failing_write(4))
        with pytest.raises(InterruptedSplitError):
            split(config, World())
    # The cutouts were made again, with fewer sources; an extraction's fingerprint knows only what it was asked for.
    write_survey(tmp_path, bricks(12, 20, 20))
    split(config, World())
    write_survey(tmp_path, bricks(12, 25, 25))
    with monkeypatch.context() as patch:
        patch.setattr(outputs, "write_shard", failing_write(1))
        with pytest.raises(InterruptedSplitError):
            split(config, World())
    assert not (tmp_path / "shards" / "manifest.json").exists()  # that of a complete split vouches for nothing that is made anew
    write_survey(tmp_path, bricks(12, 20, 20))
    split(config, World())
    check([tmp_path / "shards"])
    assert sum(len(part) for part in readers(tmp_path)) == 480
    names = {name for part in readers(tmp_path) for shard in part.shards for name in shard.files}
    assert {path.name for path in (tmp_path / "shards").glob("*.npy")} == names


def test_cutouts_that_were_made_again_are_repackaged_again(tmp_path: Path) -> None:
    config = survey(tmp_path, 12, 9)
    split(config, World())
    path = cutout_path(tmp_path / "cutouts", "fake", "0003p060")
    with open_cutouts(path) as file:
        images, table = file.images(), file.sources()
    images[:, 3, 3, 0] = 0.5  # the same galaxies, so the same plan, and other pixels
    write_cutouts(path, images, table, {}, TINY)
    split(config, World())
    check([tmp_path / "shards"])
    for reader in readers(tmp_path):
        changed = (reader.table["brick"] == b"0003p060") & (reader.labels == 1)
        assert ((reader.stamps(np.arange(len(reader)))[:, 3, 3, 0] == 0.5) == changed).all()


def test_the_files_of_2018_are_written_and_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stamps = StampFormat()
    write_survey(tmp_path, bricks(6, 7, 7, stamps), stamps)
    config = survey_config(tmp_path, *THIRDS, "split.layout='obiwan'", "seed=3")
    split(config, World())
    undisturbed = content(tmp_path)
    lists = {name: (tmp_path / "shards" / f"bricks_{name}.txt").read_text().split() for name in SPLITS}
    assert sorted(brick for names in lists.values() for brick in names) == [f"{number:04d}p060" for number in range(6)]
    for name, names in lists.items():
        for brick in names:
            folder = tmp_path / "shards" / "testtrain" / brick[:3] / brick
            assert sorted(path.name for path in folder.iterdir()) == [f"x{name}_1.npy", f"y{name}_1.npy"]
            x, y = np.load(folder / f"x{name}_1.npy"), np.load(folder / f"y{name}_1.npy")
            assert x.shape == (14, 64, 64, 6) and y.dtype == np.float64 and y.sum() == 7
            assert (x[:, 0, 0, 0] == y).all()
            tables = bricks(6, 7, 7, stamps)[brick]
            assert sorted(x[:, 1, 0, 0]) == sorted(mark(np.concatenate([table["id"] for table in tables])))  # axes (x, y)
            assert (x[..., 1::2] == 1e4).all()
    shutil.rmtree(tmp_path / "shards")
    real, done = outputs.write_obiwan, []

    def fails_at_the_third(*arguments: Any) -> None:
        done.append(arguments[2])
        if len(done) == 3:
            raise InterruptedSplitError
        real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(outputs, "write_obiwan", fails_at_the_third)
        with pytest.raises(InterruptedSplitError):
            split(config, World())
    split(config, World())
    assert content(tmp_path) == undisturbed
