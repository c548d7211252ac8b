"""The stages before training write the same files from any number of ranks."""

from __future__ import annotations

import filecmp
import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest


def files(root: Path) -> set[Path]:
    # config.toml holds the paths of the run, which differ; .lock says who ran it.
    return {path.relative_to(root) for path in root.rglob("*") if path.is_file() and path.suffix != ".toml" and path.name != ".lock"}


@pytest.mark.parametrize("ranks", [2, 3])
def test_any_number_of_ranks_writes_the_same_bytes(
    one_rank: Path, run_stages: Callable[[Path, int], None], tmp_path: Path, ranks: int
) -> None:
    run_stages(tmp_path, ranks)
    names = files(one_rank)
    assert names == files(tmp_path)
    kinds = {"".join(name.suffixes[-2:]) for name in names}
    assert {".fits.fz", ".fits", ".fits.gz", ".h5", ".npy", ".json"} <= kinds
    journal = Path("shards/.journal-complete.jsonl")
    different = [name for name in names - {journal} if not filecmp.cmp(one_rank / name, tmp_path / name, shallow=False)]
    assert different == []
    assert entries(one_rank / journal) == entries(tmp_path / journal)


def entries(journal: Path) -> list[dict[str, Any]]:
    """Return a journal without what names its plan, into which the dates of the cutout files go: those of two runs differ."""
    found = [json.loads(line.split(" ", 1)[1]) for line in journal.read_text().splitlines()]
    assert found and all(entry.pop("plan") for entry in found)
    return found


def test_check_says_the_same_from_any_number_of_ranks(one_rank: Path, mpirun: Callable[..., CompletedProcess[str]], tmp_path: Path) -> None:
    broken = sorted((one_rank / "cutouts" / "real").rglob("*.h5"))[1]
    content = broken.read_bytes()
    try:
        broken.write_bytes(content[:-10])
        command = ["-m", "hpc_galaxy", "check", str(one_rank / "cutouts"), str(one_rank / "shards")]
        one, three = (mpirun(ranks, command) for ranks in (1, 3))
    finally:
        broken.write_bytes(content)
    assert one.returncode == three.returncode == 1
    assert one.stdout == three.stdout
    assert one.stdout.count("FAILED:") == 1
    assert str(broken) in one.stdout
    assert one.stdout.count("ok:") > 20
