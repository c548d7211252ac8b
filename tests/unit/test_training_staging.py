"""Copying the shards to each node: verified, whole or not at all, once, shared by the ranks of a node."""

from __future__ import annotations

import re
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
from patience import patience
from sample_shards import FLOAT, SMALL, save_manifest

from hpc_galaxy.errors import FormatError, HpcGalaxyError, OutputError
from hpc_galaxy.files import lock
from hpc_galaxy.ledger import LOCK
from hpc_galaxy.shards.manifest import SHARD_SIZE, Manifest, Shard
from hpc_galaxy.shards.numpy_shards import open_split, write_shard
from hpc_galaxy.training.data import staging
from hpc_galaxy.training.data.staging import stage
from hpc_galaxy.world import World

WANTED = ("train", "valid")


@dataclass(frozen=True)
class Source:
    directory: Path
    manifest: Manifest

    def stage(self, target: Path, world: World | None = None) -> Path:
        return stage(self.directory, self.manifest, WANTED, target, world or World())

    @property
    def files(self) -> set[str]:
        return {name for split in WANTED for shard in self.manifest.splits[split] for name in shard.files}


def make_source(directory: Path, seed: int = 1) -> Source:
    """Three shards for training, one each for the other splits."""
    rng, splits = np.random.default_rng(seed), {}
    for split, shards in (("train", 3), ("valid", 1), ("test", 1)):
        x = rng.normal(size=(shards, SHARD_SIZE, 8, 8, 2)).astype(np.float32)
        table = np.zeros(SHARD_SIZE, SMALL.example_dtype)
        splits[split] = [write_shard(directory, split, number, x[number], table) for number in range(shards)]
    return Source(directory, save_manifest(directory, splits, SMALL, FLOAT))


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return make_source(tmp_path / "shards")


def found(directory: Path) -> set[str]:
    return {path.name for path in directory.glob("*")} - {LOCK}


def test_whole_shards_are_there(source: Source, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    staged = source.stage(tmp_path / "node" / "deep")
    assert staged.parent == tmp_path / "node" / "deep"
    assert found(staged) == source.files | {"manifest.json"}
    for name in source.files:
        assert (staged / name).read_bytes() == (source.directory / name).read_bytes()
    for split, examples in (("train", 3 * SHARD_SIZE), ("valid", SHARD_SIZE), ("test", 0)):
        reader = open_split(staged, split)
        assert len(reader) == examples
        assert reader.stamps(np.arange(examples)).shape == (examples, 8, 8, 2)
    line = capsys.readouterr().out
    assert re.fullmatch(rf"training: 0\.00 GB copied to {staged} in \d+\.\d s; 4 shards are there on every node\n", line)


def test_what_is_there_is_not_copied_again(source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    staged = source.stage(tmp_path / "node")
    cut_off = staged / "ytrain_000001.npy"
    cut_off.write_bytes(cut_off.read_bytes()[:-1])
    gone = staged / "xvalid_000000.npy"
    gone.unlink()
    copied: list[str] = []
    copy = staging._copy
    monkeypatch.setattr(staging, "_copy", lambda source, *rest: copied.append(source.name) or copy(source, *rest))
    assert source.stage(tmp_path / "node") == staged
    assert sorted(copied) == sorted([*source.manifest.splits["train"][1].files, *source.manifest.splits["valid"][0].files])
    assert gone.read_bytes() == (source.directory / gone.name).read_bytes()
    assert cut_off.read_bytes() == (source.directory / cut_off.name).read_bytes()
    copied.clear()
    source.stage(tmp_path / "node")
    assert copied == []


def test_other_shards_go_elsewhere(source: Source, tmp_path: Path) -> None:
    other = make_source(tmp_path / "others", seed=2)
    assert found(other.directory) == found(source.directory)  # by names and sizes they are alike
    staged = [each.stage(tmp_path / "node") for each in (source, other)]
    assert staged[0] != staged[1]
    for each, where in zip((source, other), staged, strict=True):
        assert (where / "xtrain_000000.npy").read_bytes() == (each.directory / "xtrain_000000.npy").read_bytes()


def flip_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 4
    path.write_bytes(content)


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("harm", "problem"),
    [
        (flip_bit, "has 262272 bytes of checksum [0-9a-f]{32}, expected 262272 of [0-9a-f]{32}"),
        (shorten, "has 262271 bytes of checksum"),
        (Path.unlink, "cannot be read .No such file or directory."),
    ],
)
def test_a_damaged_shard_is_named_and_does_not_get_its_name(
    source: Source, tmp_path: Path, harm: Callable[[Path], None], problem: str
) -> None:
    harm(source.directory / "xtrain_000001.npy")
    with pytest.raises(FormatError, match=f"xtrain_000001.npy: {problem}"):
        source.stage(tmp_path / "node")
    (staged,) = (tmp_path / "node").iterdir()
    assert found(staged) == {name for name in source.files if name.endswith("train_000000.npy")}


def test_what_a_killed_job_has_left_is_removed(source: Source, tmp_path: Path) -> None:
    staged = source.stage(tmp_path / "node")
    left = staged / ".partial-4711-xtrain_000000.npy"
    left.write_bytes(b"half")
    with lock(staged / LOCK):  # another job is copying here
        source.stage(tmp_path / "node")
    assert left.exists()
    source.stage(tmp_path / "node")
    assert found(staged) == source.files | {"manifest.json"}


def test_too_little_space_is_said_before_anything_is_copied(source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage(NamedTuple):
        free: int

    needed = sum(sum(shard.bytes.values()) for split in WANTED for shard in source.manifest.splits[split])
    free = needed + staging.SPARE - 1
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(free))
    expected = rf"has {free / 1e9:.2f} GB free, expected {(free + 1) / 1e9:.2f} GB for the shards; choose another train.data.stage"
    with pytest.raises(OutputError, match=expected):
        source.stage(tmp_path / "node")
    (staged,) = (tmp_path / "node").iterdir()
    assert found(staged) == set()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(needed + staging.SPARE))
    source.stage(tmp_path / "node")
    # What is there needs no more space.
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0))
    source.stage(tmp_path / "node")


def test_a_place_that_cannot_be_written_is_named(source: Source, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"file/hpc_galaxy-\w+: cannot be written .*; choose another train.data.stage"):
        source.stage(tmp_path / "file")


class Ranks:
    """Barrier and allgather between threads, as an MPI communicator has them."""

    def __init__(self, size: int) -> None:
        self._barrier, self._values = threading.Barrier(size, timeout=patience(20)), [0] * size

    def of(self, rank: int) -> Any:
        ranks = self

        class Comm:
            def Ibarrier(self) -> Any:  # noqa: N802
                ranks._barrier.wait()
                return SimpleNamespace(Test=lambda: True)

            def allgather(self, value: int) -> list[int]:
                ranks._values[rank] = value
                ranks._barrier.wait()
                return list(ranks._values)

        return Comm()

    def abort(self) -> None:
        self._barrier.abort()


def on_two_nodes(source: Source, tmp_path: Path) -> list[Path | BaseException]:
    """What each of five ranks gets, three on one node and two on another; an error ends all, as the guard does."""
    ranks = Ranks(5)

    def run(rank: int) -> Path | BaseException:
        node, local, local_size = ("a", rank, 3) if rank < 3 else ("b", rank - 3, 2)
        try:
            return source.stage(tmp_path / node, World(rank, 5, local, local_size, comm=ranks.of(rank)))
        except (HpcGalaxyError, threading.BrokenBarrierError) as error:
            ranks.abort()
            return error

    with ThreadPoolExecutor(5) as threads:
        return list(threads.map(run, range(5)))


def test_the_ranks_of_a_node_share_the_work(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copied: list[tuple[str, str, int]] = []
    copy, look = staging._copy, staging._is_there

    def note(origin: Path, destination: Path, *rest: Any) -> None:
        copied.append((destination.parent.parent.name, origin.name, threading.get_ident()))
        copy(origin, destination, *rest)

    def look_slowly(staged: Path, shard: Shard) -> bool:
        if threading.current_thread().name.endswith(("_1", "_4")):
            time.sleep(0.05)
        return look(staged, shard)

    monkeypatch.setattr(staging, "_copy", note)
    monkeypatch.setattr(staging, "_is_there", look_slowly)
    staged = on_two_nodes(source, tmp_path)
    assert len(set(staged)) == 2
    for node, ranks in (("a", 3), ("b", 2)):
        here = [(name, thread) for where, name, thread in copied if where == node]
        assert sorted(name for name, _ in here) == sorted(source.files)  # each once
        assert len({thread for _, thread in here}) == ranks
        (directory,) = (tmp_path / node).iterdir()
        assert found(directory) == source.files | {"manifest.json"}
    assert capsys.readouterr().out.count("\n") == 1


def test_no_rank_goes_on_when_one_has_found_damage(source: Source, tmp_path: Path) -> None:
    flip_bit(source.directory / "xtrain_000002.npy")
    ends = on_two_nodes(source, tmp_path)
    assert sum(isinstance(end, FormatError) for end in ends) >= 1
    assert not any(isinstance(end, Path) for end in ends)
    assert not list(tmp_path.glob("[ab]/*/manifest.json"))
