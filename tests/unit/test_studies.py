"""Arms of a study: what they change, when they run, and what is made of their results."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hpc_galaxy.config import load_config
from hpc_galaxy.errors import InputError, StageError
from hpc_galaxy.files import write_json
from hpc_galaxy.shards.schema import DEFAULT, StampFormat
from hpc_galaxy.studies import run as running
from hpc_galaxy.studies.arms import CHANCE, FOUND, OUTPUT, Arm
from hpc_galaxy.studies.collect import collect, thresholds
from hpc_galaxy.studies.controls import controls
from hpc_galaxy.studies.replicate import DEFECTS, replicate
from hpc_galaxy.studies.run import Study, run_arms, select, tries

WEAK = Arm("shift-0.1", "positive", "a tenth", "inject", ("injection.defects.centroid=0.1",), FOUND, "centroid", 0.1, "px")
STRONG = Arm("shift-1", "positive", "one", "inject", ("injection.defects.centroid=1.0",), FOUND, "centroid", 1.0, "px")
NOTHING = Arm("real-real", "negative", "nothing", "split", ("split.control=real_real",), CHANCE)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "run.toml"
    path.write_text("seed = 5\n")
    return path


def report_of(p_value: float) -> dict[str, Any]:
    """Return what `collect` reads of an arm's report."""
    checks = [{"name": "centroid x", "result": "fail" if p_value < 1e-3 else "pass"}, {"name": "edges", "result": "pass"}]
    numbers = {
        "examples": 100,
        "bricks": 5,
        "auc": 0.6,
        "auc_interval": [0.55, 0.65],
        "p_value": p_value,
        "verdict": {"kind": "told apart"},
    }
    return {**numbers, "audit": {"checks": checks}, "provenance": {"code_version": "x"}}


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Let a stage do nothing but, of the last one, write a report; return what was called: the stage and its arm's directory."""
    called: list[tuple[str, str]] = []

    def fake(names: Sequence[str], config: Path, overrides: Sequence[str], ranks: int, log: Path) -> None:
        called.extend((stage, log.parent.name) for stage in names)
        if log.parent.name == "breaks":
            raise StageError(log.parent, f"{names[0]} ended with exit code 2, expected 0", "read it")
        if "realism" in names:
            p_value = {"shift-0.1": 0.2, "shift-1": 1e-4}.get(log.parent.name, 0.4)
            settings = load_config(config, overrides)
            write_json(settings.paths.report / "report.json", report_of(p_value))
            settings.save(settings.paths.report / "config.toml")

    monkeypatch.setattr(running, "_run_stages", fake)
    return called


def study(config: Path, *arms: Arm) -> Study:
    return Study("controls", arms, config.parent / "controls", config)


@pytest.mark.parametrize("arm", [*controls(DEFAULT), *replicate()], ids=lambda arm: arm.name)
def test_every_arm_is_a_valid_configuration_and_changes_something(arm: Arm, config: Path, tmp_path: Path) -> None:
    settings = load_config(config, arm.overrides(tmp_path / "study"))
    plain = load_config(config, Arm("plain", "", "", arm.begins, ()).overrides(tmp_path / "study"))
    sections = ("injection", "extract", "split", "train")
    assert settings.fingerprint(*sections) != plain.fingerprint(*sections)


@pytest.mark.parametrize("arm", [*controls(DEFAULT), *replicate()], ids=lambda arm: arm.name)
def test_an_arm_begins_with_the_first_stage_that_it_changes(arm: Arm, config: Path, tmp_path: Path) -> None:
    settings, plain = load_config(config, arm.overrides(tmp_path / "study")), load_config(config)
    first = {"inject": "injection", "extract": "extract", "split": "split", "train": "train"}
    changed = [
        stage for stage, section in first.items() if section != "train" and settings.fingerprint(section) != plain.fingerprint(section)
    ]
    assert arm.begins == (changed[0] if changed else "train")


def test_an_arm_writes_into_its_own_directory_and_reads_what_earlier_stages_have_made(config: Path, tmp_path: Path) -> None:
    paths = load_config(config, NOTHING.overrides(tmp_path / "study")).paths
    for stage in ("split", "train", "realism"):
        assert getattr(paths, OUTPUT[stage]) == tmp_path / "study/real-real" / OUTPUT[stage]
    assert paths.cutouts == tmp_path / "cutouts"


@pytest.mark.parametrize(("arms", "what"), [(controls(DEFAULT), "controls"), (replicate(), "replicate-2018")])
def test_an_arms_name_stands_for_that_arm_alone(arms: list[Arm], what: str) -> None:
    for arm in arms:
        assert select(arms, [arm.name], what) == [arm]


def test_shards_without_inverse_variance_or_of_one_band_have_fewer_controls() -> None:
    names = {arm.name for arm in controls(StampFormat(("r",), ("image",), 32))}
    assert not [name for name in names if name.startswith("only-")]
    assert {"real-real", "shuffled", "sky", "masked-centre", "resnet"} <= names


def test_all_together_has_every_setting_of_2018(config: Path, tmp_path: Path) -> None:
    together = load_config(config, replicate()[-1].overrides(tmp_path))
    assert set(together.extract.defects) == {"one_pixel", "truth_positions", "stars"}
    assert together.injection.defects.centroid == together.injection.defects.centroid_y == -1.5
    assert together.split.groups == "galaxy"
    assert len(replicate()) == len(DEFECTS) + 1


def test_stronger_defects_are_not_run_once_a_weaker_one_was_found(config: Path, stages: list[tuple[str, str]]) -> None:
    stronger = Arm("shift-2", "positive", "two", "inject", ("injection.defects.centroid=2.0",), FOUND, "centroid", 2.0, "px")
    assert run_arms(study(config, WEAK, STRONG, stronger), 1, 1, every=False) == []
    assert [arm for stage, arm in stages if stage == "inject"] == ["shift-0.1", "shift-1"]


def test_all_strengths_are_run_where_that_is_asked_for(config: Path, stages: list[tuple[str, str]]) -> None:
    run_arms(study(config, STRONG, Arm("shift-2", "positive", "two", "inject", (), FOUND, "centroid", 2.0, "px")), 1, 1, every=True)
    assert [arm for stage, arm in stages if stage == "realism"] == ["shift-1", "shift-2"]


def test_what_is_done_is_not_done_again_unless_the_configuration_has_changed(config: Path, stages: list[tuple[str, str]]) -> None:
    run_arms(study(config, NOTHING), 1, 1, every=False)
    run_arms(study(config, NOTHING), 1, 1, every=False)
    assert len(stages) == 3
    config.write_text("seed = 6\n")
    run_arms(study(config, NOTHING), 1, 1, every=False)
    assert len(stages) == 6


def test_an_arm_that_fails_does_not_keep_the_others_from_running(config: Path, stages: list[tuple[str, str]]) -> None:
    problems = run_arms(study(config, Arm("breaks", "negative", "", "split", ("split.match=none",)), NOTHING), 1, 2, every=False)
    assert len(problems) == 1
    assert "split ended with exit code 2" in problems[0]
    assert ("realism", "real-real") in stages


def test_results_become_rows_thresholds_and_what_is_missing(config: Path, stages: list[tuple[str, str]]) -> None:
    half = Arm("shift-0.5", "positive", "half", "inject", ("injection.defects.centroid=0.5",), FOUND, "centroid", 0.5, "px")
    stronger = Arm("shift-2", "positive", "two", "inject", ("injection.defects.centroid=2.0",), FOUND, "centroid", 2.0, "px")
    run_arms(study(config, NOTHING, WEAK, STRONG), 1, 1, every=False)
    found = collect(study(config, NOTHING, WEAK, half, STRONG, stronger))
    rows = {row["name"]: row for row in found["arms"]}
    assert rows["real-real"]["as_expected"] is True
    assert [rows[name]["found"] for name in ("shift-0.1", "shift-1")] == [False, True]
    assert rows["shift-1"]["leaks"] == ["centroid x"]
    assert found["missing"] == ["shift-0.5"]
    (threshold,) = found["thresholds"]
    assert threshold["tried"] == [0.1, 1.0]
    assert threshold["first_detected"] == threshold["first_audited"] == 1.0
    assert threshold["sentence"] == "centroid: found from 1 px on, not at 0.1"
    json.dumps(found)


def test_an_arm_that_is_run_alone_leaves_the_results_of_the_others(config: Path, stages: list[tuple[str, str]]) -> None:
    run_arms(study(config, NOTHING, WEAK), 1, 1, every=False)
    alone = replace(study(config, NOTHING, WEAK, STRONG), only=frozenset({"shift-1"}))
    run_arms(alone, 1, 1, every=False)
    assert [arm for stage, arm in stages if stage == "realism"] == ["real-real", "shift-0.1", "shift-1"]
    found = collect(alone)
    assert [row["name"] for row in found["arms"]] == ["real-real", "shift-0.1", "shift-1"]
    assert found["arms"][2]["tries"] == 2
    assert found["arms"][2]["command"] == "hpc-galaxy controls -c run.toml --only shift-1"


def test_a_defect_that_is_never_found_has_no_threshold() -> None:
    row = {"defect": "centroid", "strength": 0.1, "found": False, "leaks": []}
    (threshold,) = thresholds([WEAK, STRONG], [row])
    assert threshold["first_detected"] is None
    assert threshold["sentence"] == "centroid: not found up to 0.1 px"


@pytest.mark.parametrize(
    ("first", "simpler", "sentence"),
    [
        (None, 0.1, "found from 0.1 px on by the classifier that sees the centroid; by the network not found up to 1 px"),
        (1.0, 0.1, "found from 0.1 px on by the classifier that sees the centroid; by the network found from 1 px on, not at 0.1"),
        (1.0, 1.0, "found from 1 px on, not at 0.1"),
        (1.0, None, "found from 1 px on, not at 0.1"),
    ],
)
def test_what_a_simpler_classifier_finds_earlier_is_said(first: float | None, simpler: float | None, sentence: str) -> None:
    sees = {"name": "centroid", "auc": 0.6, "p_value": 0.0001}
    rows = [
        {"defect": "centroid", "strength": at, "leaks": [], "found": first is not None and at >= first}
        | {"simpler": sees if simpler is not None and at >= simpler else None}
        for at in (0.1, 1.0)
    ]
    (threshold,) = thresholds([WEAK, STRONG], rows)
    assert (threshold["first_simpler"], threshold["simpler"]) == (simpler, "centroid" if simpler else None)
    assert threshold["sentence"] == f"centroid: {sentence}"


def test_p_values_are_corrected_for_the_number_of_tries(config: Path) -> None:
    arms = [NOTHING, WEAK, STRONG, Arm("only-g", "bands", "", "train", ())]
    assert [tries(arm, arms) for arm in arms] == [1, 2, 2, 1]


def test_arms_are_chosen_by_name_kind_or_defect() -> None:
    arms = [NOTHING, WEAK, STRONG]
    assert select(arms, ["negative"], "controls") == [NOTHING]
    assert select(arms, ["centroid"], "controls") == [WEAK, STRONG]
    assert select(arms, ["shift-1", "negative"], "controls") == [NOTHING, STRONG]
    assert select(arms, [], "controls") == arms
    with pytest.raises(InputError, match=r"there is no 'shfit', expected some of .*shift-1"):
        select(arms, ["shfit"], "controls")


def test_a_stage_that_fails_is_named_with_its_error_and_its_log(tmp_path: Path) -> None:
    config, log = tmp_path / "run.toml", tmp_path / "log.txt"
    config.write_text("")
    log.write_text("== train: of an earlier attempt\nerror: of an earlier attempt\n")
    with pytest.raises(StageError, match=r"split ended with exit code \d+, expected 0 \(.*error: .*nowhere.*\); read .*log.txt"):
        running._run_stages(["split", "train"], config, [f'paths.cutouts="{tmp_path}/nowhere"'], 1, log)
    assert "== train" not in log.read_text().split("of an earlier attempt\n")[-1]
