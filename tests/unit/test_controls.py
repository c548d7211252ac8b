"""Negative controls of the split, and the split of 2018 by single galaxies: what the labels are, who keeps them, what the audit says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sample_survey import THIRDS, bricks, content, mark, readers, survey, survey_config, write_survey

from hpc_galaxy.errors import InputError
from hpc_galaxy.files import read_json
from hpc_galaxy.shards.check import check
from hpc_galaxy.splits import repackage
from hpc_galaxy.splits.audit.audit import run_audit
from hpc_galaxy.splits.split import split
from hpc_galaxy.world import World

CONTROLS = ["real_real", "shuffled"]


def table_of(root: Path) -> np.ndarray:
    return np.concatenate([part.table for part in readers(root)])


def findings(root: Path) -> dict[str, tuple[str, str]]:
    run_audit(root / "shards", World(), 1, root / "shards")
    return {check["name"]: (check["result"], check["found"]) for check in read_json(root / "shards" / "audit.json", "")["checks"]}


@pytest.mark.parametrize("control", CONTROLS)
def test_the_labels_are_the_same_everywhere_and_say_nothing(tmp_path: Path, control: str) -> None:
    split(survey(tmp_path, 12, 40, f"split.control='{control}'"), World())
    check([tmp_path / "shards"])
    table, fake = table_of(tmp_path), 0
    for part in readers(tmp_path):
        assert part.manifest.report["control"] == control
        x = part.stamps(np.arange(len(part)))
        assert (part.labels == part.table["label"]).all()
        assert (x[:, 0, 1, 0] == mark(part.table["id"])).all()
        fake += int((x[:, 0, 0, 0] == 1).sum())
    was_fake = np.char.startswith(table["id"], b"rs0")
    assert fake == was_fake.sum()
    if control == "real_real":
        assert fake == 0 and 380 < len(table) <= 480
    else:
        assert len(table) == 960 == 2 * fake
        for brick in np.unique(table["brick"]):
            assert table["label"][table["brick"] == brick].sum() == 40
    # Alike in both classes: 5 sigma of a binomial.
    share = np.mean(table["label"] == was_fake)
    assert abs(share - 0.5) < 2.5 / len(table) ** 0.5


@pytest.mark.parametrize("control", CONTROLS)
def test_both_classes_come_from_the_same_files(tmp_path: Path, control: str) -> None:
    split(survey(tmp_path, 12, 40, f"split.control='{control}'"), World())
    facts = readers(tmp_path)[0].manifest.provenance
    assert facts["real"] == facts["fake"] and facts["real"]["release"] == [[9010]]
    found = findings(tmp_path)
    assert found["control"] == ("warn", f"a negative control: {control}")
    for name in ("shared pixels", "shared groups", "injected galaxies", "duplicate ids", "provenance", "coadds"):
        assert found[name][0] == "pass", found[name]
    split(survey(tmp_path, 12, 40), World(), overwrite=True)
    assert "control" not in findings(tmp_path) and readers(tmp_path)[0].manifest.report["control"] == "none"


def test_seed_and_ids_decide_the_labels(tmp_path: Path) -> None:
    for control in CONTROLS:
        labels = []
        for seed, file in ((1, "a"), (1, "b"), (2, "c")):
            split(survey(tmp_path / control / file, 12, 40, f"split.control='{control}'", f"seed={seed}"), World())
            table = table_of(tmp_path / control / file)
            labels.append(dict(zip(table["id"].tolist(), table["label"].tolist(), strict=True)))
        assert labels[0] == labels[1]
        common = labels[0].keys() & labels[2].keys()
        assert 0.35 < np.mean([labels[0][name] == labels[2][name] for name in common]) < 0.65


def test_classes_fill_no_shards_of_their_own(tmp_path: Path) -> None:
    """What decides the label is not what decides the order."""
    split(survey(tmp_path, 12, 40, "split.control='real_real'"), World())
    labels = readers(tmp_path)[0].labels
    assert 0.3 < labels[: len(labels) // 2].mean() < 0.7


def test_other_labels_are_another_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A split that continues with other labels makes its shards again, and with the same ones makes none."""
    config = survey(tmp_path, 12, 40, "split.control='shuffled'")
    split(config, World())
    before = content(tmp_path)
    (tmp_path / "shards" / "manifest.json").unlink()
    monkeypatch.setattr(repackage.Repackager, "_write", lambda *_: pytest.fail("was made again"))
    split(config, World())
    assert content(tmp_path) == before
    monkeypatch.undo()
    split(survey_config(tmp_path, *THIRDS, "split.control='real_real'"), World(), overwrite=True)
    assert content(tmp_path).keys() != before.keys() or content(tmp_path) != before


def test_real_galaxies_alone_are_enough_for_real_real(tmp_path: Path) -> None:
    write_survey(tmp_path, bricks(12, 40, 0))
    with pytest.raises(InputError, match="has no fake galaxies, expected real and fake"):
        split(survey_config(tmp_path, *THIRDS), World())
    split(survey_config(tmp_path, *THIRDS, "split.control='real_real'"), World())
    assert set(table_of(tmp_path)["label"].tolist()) == {0, 1}
    write_survey(tmp_path / "other", bricks(12, 0, 40))
    with pytest.raises(InputError, match="has no real galaxies, expected real"):
        split(survey_config(tmp_path / "other", *THIRDS, "split.control='real_real'"), World())


def test_controls_can_be_matched(tmp_path: Path) -> None:
    split(survey(tmp_path, 12, 60, "split.match='nearest'", "split.control='shuffled'", "split.caliper=0.5"), World())
    report = readers(tmp_path)[0].manifest.report
    assert all(report[name]["real"] == report[name]["fake"] > 20 for name in ("train", "valid", "test"))
    interval = report["matching"]["tabular_auc_before"]["interval"]
    assert interval is None or interval[0] < 0.5 < interval[1]


def test_single_galaxies_as_groups_share_pixels_and_the_audit_says_so(tmp_path: Path) -> None:
    split(survey(tmp_path, 4, 100, "split.groups='galaxy'"), World())
    check([tmp_path / "shards"])
    table, report = table_of(tmp_path), readers(tmp_path)[0].manifest.report
    assert len(np.unique(table["group"])) == len(table) == 800 - report["dropped"]["balance"]
    assert report["dropped"]["overlap"] == 0 and report["groups"]["kind"] == "galaxy"
    assert all(len(set(part.table["brick"].tolist())) == 4 for part in readers(tmp_path))
    found = findings(tmp_path)
    assert found["shared pixels"][0] == "fail" and found["shared groups"][0] == "pass"
    split(survey(tmp_path, 12, 100), World(), overwrite=True)
    assert findings(tmp_path)["shared pixels"][0] == "pass"
