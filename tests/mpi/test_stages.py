"""The stages before training write the same files from any number of ranks."""

from __future__ import annotations

import filecmp
import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np


def files(root: Path) -> set[Path]:
    # config.toml holds the paths of the run, which differ; .lock says who ran it.
    return {path.relative_to(root) for path in root.rglob("*") if path.is_file() and path.suffix != ".toml" and path.name != ".lock"}


def test_any_number_of_ranks_writes_the_same_bytes(one_rank: Path, run_stages: Callable[[Path, int], None], tmp_path: Path) -> None:
    """Three as one; that two do as well, and any that continue what others began, is tested with the faults and with those killed."""
    run_stages(tmp_path, 3)
    names = files(one_rank)
    assert names == files(tmp_path)
    kinds = {"".join(name.suffixes[-2:]) for name in names}
    assert {".fits.fz", ".fits", ".fits.gz", ".h5", ".npy", ".json"} <= kinds
    journals = {Path(folder) / ".journal-complete.jsonl" for folder in ("shards", "shuffled")}
    different = [name for name in names - journals if not filecmp.cmp(one_rank / name, tmp_path / name, shallow=False)]
    assert different == []
    for journal in journals:
        assert entries(one_rank / journal) == entries(tmp_path / journal)
    # A control's labels as well: the files of a brick are those of several ranks.
    labels = [np.load(tmp_path / folder / "ytrain_000000.npy") for folder in ("shards", "shuffled")]
    assert {*labels[0].tolist()} == {*labels[1].tolist()} == {0, 1}


def entries(journal: Path) -> list[dict[str, Any]]:
    """Return a journal without what names its plan, into which the dates of the cutout files go: those of two runs differ."""
    found = [json.loads(line.split(" ", 1)[1]) for line in journal.read_text().splitlines()]
    assert found and all(entry.pop("plan") for entry in found)
    return found


def verdicts(done: CompletedProcess[str]) -> list[str]:
    """Return what `check` has found, without how far it was after some seconds."""
    return [line for line in done.stdout.splitlines() if not line.startswith("check: ")]


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
    assert verdicts(one) == verdicts(three)
    assert one.stdout.count("FAILED:") == 1
    assert str(broken) in one.stdout
    assert one.stdout.count("ok:") > 20
