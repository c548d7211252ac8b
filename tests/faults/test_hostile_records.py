"""What stages leave for one another, replaced: cut short, somebody else's, or made to lead elsewhere. Each is named, or made again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sample_survey import content, survey

from hpc_galaxy.config import Config
from hpc_galaxy.errors import FormatError, HpcGalaxyError, InputError, OutputError
from hpc_galaxy.shards.check import check
from hpc_galaxy.shards.manifest import load_manifest
from hpc_galaxy.shards.numpy_shards import open_split
from hpc_galaxy.splits.audit.audit import audit
from hpc_galaxy.splits.split import split
from hpc_galaxy.training.data.staging import stage
from hpc_galaxy.world import World

# No file of this package holds any of these.
FOREIGN = {
    "empty": b"",
    "a list": b"[]",
    "a number": b"3",
    "null": b"null",
    "an empty object": b"{}",
    "nested without end": b"[" * 200_000,
    "a pickle": b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94.",
    "fields of other types": b'{"stage": 3, "fingerprint": [], "items": "abc", "splits": 1, "version": {}}',
}


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """A small extraction and its shards."""
    made = survey(tmp_path, 8, 6)
    split(made, World())
    return made


@pytest.fixture
def replaced(config: Config) -> Callable[[Path], Iterator[str]]:
    """``for name in replaced(path)`` puts each foreign content, and a directory, in the place of a file; then puts it back."""

    def each(path: Path) -> Iterator[str]:
        before = path.read_bytes()
        for name, foreign in FOREIGN.items():
            path.write_bytes(foreign)
            yield name
        path.unlink()
        path.mkdir()
        yield "a directory"
        path.rmdir()
        path.write_bytes(before)

    return each


def refused(path: Path, work: Callable[[], object]) -> str:
    """Return the message with which it is refused: one that names the file."""
    with pytest.raises(HpcGalaxyError) as failure:
        work()
    assert str(path) in str(failure.value)
    return str(failure.value)


def test_a_foreign_marker_or_ledger_is_named(config: Config, replaced: Callable[[Path], Iterator[str]]) -> None:
    for record in (config.paths.cutouts / "stage.json", config.paths.cutouts / "ledger.json", config.paths.shards / "stage.json"):
        for _ in replaced(record):
            refused(record, lambda: split(config, World()))
            if record.parent == config.paths.cutouts:
                with pytest.raises(HpcGalaxyError):  # one line a problem, no traceback
                    check([record.parent], World())
    split(config, World())


def test_a_foreign_manifest_is_named(config: Config, replaced: Callable[[Path], Iterator[str]]) -> None:
    manifest = config.paths.shards / "manifest.json"
    for _ in replaced(manifest):
        refused(manifest, lambda: load_manifest(manifest.parent))
        refused(manifest, lambda: audit(manifest.parent, World(), 1))


def test_a_foreign_receipt_is_made_again(config: Config, replaced: Callable[[Path], Iterator[str]]) -> None:
    before = content(config.paths.shards.parent)
    receipt = config.paths.shards / "ledger.json"
    for name in replaced(receipt):
        if name == "a directory":
            with pytest.raises(OutputError, match=r"ledger\.json: cannot be removed \(Is a directory\)"):
                split(config, World())
        else:
            split(config, World())
            assert content(config.paths.shards.parent) == before


@pytest.mark.parametrize("brick", ["../../../etc/passwd", "/etc/passwd", "..", "", 3, None, "a\0b"])
def test_a_ledger_leads_nowhere_else(config: Config, brick: object) -> None:
    path = config.paths.cutouts / "ledger.json"
    path.write_text(json.dumps({"items": [{"brick": brick, "real": 3, "fake": 3}]}))
    with pytest.raises(InputError, match=r"its ledger lists .*, expected a brick's name"):
        split(config, World())
    with pytest.raises(HpcGalaxyError):
        check([config.paths.cutouts], World())


def renamed(manifest: dict[str, Any], name: str) -> dict[str, Any]:
    """Return a manifest whose first training shard lies at `name`."""
    first, *rest = manifest["splits"]["train"]
    names = {old: name if old == first["x"] else old for old in first["bytes"]}
    moved = first | {"x": name} | {table: {names[old]: first[table][old] for old in names} for table in ("bytes", "xxh128")}
    return manifest | {"splits": manifest["splits"] | {"train": [moved, *rest]}}


def test_a_manifest_leads_nowhere_else(config: Config, tmp_path: Path) -> None:
    """Read, it would show other files; staged on a node, it would write them."""
    shards = config.paths.shards
    good = json.loads((shards / "manifest.json").read_text())
    secret = tmp_path / "secret.npy"
    shutil.copy(shards / good["splits"]["train"][0]["x"], secret)
    for name in ("../secret.npy", str(secret), "..", ".hidden.npy", "x\0.npy", "sub/x.npy", "passwd"):
        (shards / "manifest.json").write_text(json.dumps(renamed(good, name)))
        with pytest.raises(FormatError, match=r"'splits\.train\.0': .* is not the name of a shard's file"):
            open_split(shards, "train").stamps(np.array([0]))
        with pytest.raises(FormatError, match="is not the name of a shard's file"):
            stage(shards, load_manifest(shards), ["train"], tmp_path / "node", World())
    assert not (tmp_path / "node").exists()


def test_a_damaged_journal_costs_its_own_shards_alone(config: Config, capsys: pytest.CaptureFixture[str]) -> None:
    """Sums over pixels go from the journal into the manifest: no changed digit may."""
    root = config.paths.shards.parent
    before = content(root)
    (journal,) = config.paths.shards.glob(".journal-*.jsonl")
    lines = journal.read_text().splitlines()
    digit = next(place for place in range(lines[1].index('"moments"'), len(lines[1])) if lines[1][place] in "123456789")
    changed = lines[1][:digit] + str((int(lines[1][digit]) + 1) % 10) + lines[1][digit + 1 :]
    foreign = ["[]", "null", '{"plan": "x"}', "[" * 100_000, lines[2][17:], "\x80"]
    journal.write_text("\n".join([lines[0], changed, *lines[2:], *foreign]))
    capsys.readouterr()
    split(config, World())
    assert f"split: {len(lines) - 1} of {len(lines)} files are there already" in capsys.readouterr().out
    assert content(root) == before
