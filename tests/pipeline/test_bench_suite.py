"""``hpc-galaxy bench`` for real, with little to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpc_galaxy.bench.measuring import Log
from hpc_galaxy.bench.results import read_results
from hpc_galaxy.bench.suite import extract, ranks, run, split, train
from hpc_galaxy.bench.suite.ranks import measure_end_to_end
from hpc_galaxy.errors import LaunchError
from hpc_galaxy.world import World


def test_the_suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(extract, "NPIX", 512)
    monkeypatch.setattr(split, "BRICKS", 2)
    monkeypatch.setattr(train, "STEPS", 1)
    monkeypatch.setattr(ranks, "measure_end_to_end", lambda *arguments: chain_without_ranks(monkeypatch, *arguments))
    monkeypatch.setattr(run, "QUICK", 1)
    run.run_suite(tmp_path, True, World())

    results = read_results(tmp_path / "suite.jsonl")
    sides = {(one.question, one.side) for one in results.measurements}
    names = {question.name for question in run.QUESTIONS}
    assert sides == {(name, "ours") for name in names} | {(name, "limit") for name in names - {"end to end"}}
    assert all(one.rate > 0 for one in results.measurements)
    rows = [line.split("|")[1].strip() for line in (tmp_path / "table.md").read_text().splitlines() if line.startswith("|")]
    assert rows[2:] == [question.name for question in run.QUESTIONS]
    assert (tmp_path / "suite.png").read_bytes()[:4] == b"\x89PNG"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["suite.jsonl", "suite.png", "table.md"]
    assert "end to end:" in capsys.readouterr().out


def chain_without_ranks(monkeypatch: pytest.MonkeyPatch, log: Log, root: Path, repeats: int) -> None:
    """Measure the whole chain without running it, which the demo's test does."""
    started: list[str] = []

    def say(count: int, argv: list[str]) -> str:
        started.append(argv[2])
        return f"{argv[2]}: 1,234 cutouts in 5.0 s on {count} ranks\n"

    with monkeypatch.context() as patched:
        patched.setattr(ranks, "said_by_ranks", say)
        measure_end_to_end(log, root, repeats)
    assert started == list(ranks.STAGES) and log.measurements[-1].amount == 1234


def test_the_suite_is_for_one_process(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match="was started on 2 ranks, expected 1"):
        run.run_suite(tmp_path, True, World(rank=0, size=2))
