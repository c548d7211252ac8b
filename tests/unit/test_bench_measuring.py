"""What all benchmarks share: timing in turn, JSON lines, and what has changed from one run to another."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hpc_galaxy.bench.environment import describe, kind, sentence
from hpc_galaxy.bench.measuring import Log, Measurement, interleaved, with_unit
from hpc_galaxy.bench.results import Results, compare, find_changes, read_results
from hpc_galaxy.errors import InputError, StageError

SECONDS = {"limit": [1.0, 1.1, 0.9], "ours": [2.0, 2.1, 1.9]}


def test_sides_take_turns_and_warm_up_untimed() -> None:
    done: list[str] = []
    sides = {name: (lambda name=name: done.append(name)) for name in "ab"}
    seconds = interleaved(sides, 2, lambda: done.append("-"), warm_up=1)
    assert "".join(done) == "-a-b" * 3
    assert {name: len(values) for name, values in seconds.items()} == {"a": 2, "b": 2}
    assert min(min(values) for values in seconds.values()) >= 0


def test_a_log_is_read_as_it_was_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Log(tmp_path / "a.jsonl") as log:
        found = log.table("extract", "cutouts", SECONDS, {"limit": 100, "ours": 200})
        log.ratio("extract_over_limit", 1.0, "<= 1.5")
    results = read_results(tmp_path / "a.jsonl")
    assert results.measurements == log.measurements == list(found.values())
    assert results.environment == log.environment
    assert found["ours"].rate == 100 and found["ours"].over(found["limit"]) == pytest.approx([1.0, 2.2 / 2.1, 1.8 / 1.9])
    said = capsys.readouterr().out
    assert "RATIO extract_over_limit 1 target <= 1.5\n" in said
    assert "  ours       2.000 [1.900, 2.100] s          100 cutouts/s\n" in said
    last = json.loads((tmp_path / "a.jsonl").read_text().splitlines()[-1])
    assert last == {"kind": "ratio", "name": "extract_over_limit", "value": 1.0, "target": "<= 1.5"}


def test_times_are_shown_in_units_that_can_be_read() -> None:
    shown = [with_unit([value]) for value in (2.0, 0.02, 2e-5)]
    assert shown == ["2.000 [2.000, 2.000] s", "20.000 [20.000, 20.000] ms", "20.000 [20.000, 20.000] us"]


def test_the_environment_says_what_two_results_need_to_be_compared() -> None:
    known = describe()
    assert known["cores"] >= 1 and known["cpu"] and known["numpy"]
    assert known["version"] in sentence(known) and known["cpu"] in sentence(known)


@pytest.mark.parametrize(
    ("cpu", "gpus", "name"),
    [
        ("AMD EPYC", [], "2x-amd-epyc"),
        ("AMD EPYC 7763 64-Core Processor", ["GPU 0: A100"] * 4, "2x-amd-epyc-7763-4gpu"),
        ("Intel(R) Xeon Phi(TM) CPU 7250 @ 1.40GHz", [], "2x-intel-xeon-phi-7250"),
    ],
)
def test_a_kind_of_host_can_be_a_directory(cpu: str, gpus: list[str], name: str) -> None:
    assert kind({"cpu": cpu, "cores": 2, "gpus": gpus}) == name


def results(**seconds: list[float]) -> Results:
    return Results(describe(), [Measurement("extract", side, 100, "cutouts", values) for side, values in seconds.items()])


def verdicts(before: Results, after: Results) -> dict[str, str]:
    return {f"{one.before.side}{' by limit' * one.by_limit}": one.verdict for one in find_changes(before, after)}


def test_what_lies_apart_has_moved_and_what_overlaps_has_not() -> None:
    before = results(limit=[1.0, 1.1, 0.9], ours=[2.0, 2.1, 1.9])
    slower, noisy = results(limit=[1.0, 1.1, 0.9], ours=[3.0, 3.1, 2.9]), results(limit=[1.0, 1.1, 0.9], ours=[2.3, 2.0, 2.6])
    assert verdicts(before, slower) == {"limit": "", "ours": "slower", "ours by limit": "slower"}
    assert verdicts(slower, before) == {"limit": "", "ours": "faster", "ours by limit": "faster"}
    assert set(verdicts(before, noisy).values()) == {""}
    # Apart, but by less than 5 per cent.
    assert set(verdicts(results(ours=[1.0, 1.001]), results(ours=[1.02, 1.021])).values()) == {""}
    # A single repeat says nothing of its noise.
    assert set(verdicts(results(ours=[1.0]), results(ours=[2.0])).values()) == {""}


def test_a_slower_machine_is_no_slower_program() -> None:
    before, after = results(limit=[1.0, 1.01], ours=[2.0, 2.01]), results(limit=[2.0, 2.01], ours=[4.0, 4.01])
    assert verdicts(before, after) == {"limit": "slower", "ours": "slower", "ours by limit": ""}


def write(path: Path, scale: float) -> Path:
    path.mkdir()
    with Log(path / "suite.jsonl") as log:
        log.table(
            "extract", "cutouts", {"limit": SECONDS["limit"], "ours": [scale * value for value in SECONDS["ours"]]}, {"limit": 1, "ours": 1}
        )
    return path


def test_compare_ends_with_an_error_where_something_has_become_slower(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fast, slow = write(tmp_path / "fast", 1), write(tmp_path / "slow", 2)
    compare(slow, fast)
    assert capsys.readouterr().out.splitlines()[-1].split()[-2:] == ["2.00", "faster"]
    compare(fast, fast)
    with pytest.raises(StageError, match=r"slower than before, beyond noise: extract \(ours, 0\.50 times\)"):
        compare(fast, slow)


def test_another_machine_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = write(tmp_path / "one", 1), write(tmp_path / "other", 1)
    path = other / "suite.jsonl"
    first, *rest = path.read_text().splitlines()
    path.write_text("\n".join([json.dumps(json.loads(first) | {"cpu": "Z80"}), *rest]))
    compare(one, path)
    assert f"not the same: cpu, {describe()['cpu']} and Z80\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    "content", ["", "{", "[1]", '{"kind": "measurement"}', '{"kind": "environment"}\n{"kind": "measurement", "side": 1}']
)
def test_what_holds_no_results_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.jsonl").write_text(content)
    with pytest.raises(InputError, match="holds no results of a benchmark"):
        read_results(tmp_path / "a.jsonl")
    with pytest.raises(InputError, match="cannot be read"):
        read_results(tmp_path / "b.jsonl")


def test_results_of_different_benchmarks_are_not_compared(tmp_path: Path) -> None:
    one = write(tmp_path / "one", 1)
    with Log(tmp_path / "other.jsonl") as log:
        log.record("split", "examples", {"ours": [1.0]}, {"ours": 1})
    with pytest.raises(InputError, match="answers none of the questions"):
        compare(one, tmp_path / "other.jsonl")
