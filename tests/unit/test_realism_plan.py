"""What a sharp answer takes, from hand-made figures of a small survey."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import sample_shards

from hpc_galaxy.config import Config
from hpc_galaxy.errors import InputError
from hpc_galaxy.files import write_json
from hpc_galaxy.realism.plan import Measured, extrapolate, plan
from hpc_galaxy.realism.power import needed_for_margin, needed_to_detect


def survey(root: Path, **changes: Any) -> Config:
    """Write shards, and the figures of a report and of a training."""
    config = sample_shards.make_config(root)
    sample_shards.make_shards(config.paths.shards, train=60, valid=20, test=20)
    write_json(config.paths.report / "report.json", {"examples": 20, "bricks": 5, "design_effect": 2.5} | changes)
    write_json(config.paths.run / "DONE", {"epochs": 4, "last": {"images_per_second": 100.0}})
    return config


def test_the_numbers_follow_from_the_design_effect_and_the_shares() -> None:
    found = Measured(2.0, 8.0, {"train": 0.6, "valid": 0.2, "test": 0.2}, 98_304, 100.0, 4)
    needed = extrapolate(found, 1000)
    assert (needed.test_a_class, needed.bricks, needed.examples) == (1000, 250, 10_000)
    assert needed.terabytes == pytest.approx(10_000 * 98_304 / 1e12)
    assert needed.train_hours == pytest.approx(4 * 6_000 / 100 / 3600)


def test_a_plan_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = survey(tmp_path)
    plan(config, 0.02, None)
    said = capsys.readouterr().out
    assert "fakes that are alike are shown to be so within +/- 0.02 with a chance of 90 %" in said
    assert f"test galaxies  {2 * needed_for_margin(0.02, 2.5):,}, half of them fake (design effect 2.50)" in said
    assert "with 4.0 of them each" in said and "of which 20 % are the test split" in said and "4 epochs at 100 images/s" in said
    plan(config, 0.02, 0.52)
    assert f"{2 * needed_to_detect(0.52, 2.5):,}" in capsys.readouterr().out


def test_a_design_effect_below_one_is_chance(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan(survey(tmp_path, design_effect=0.7), 0.02, None)
    assert "(design effect 1.00)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "margin", "auc", "message"),
    [
        ({}, 0.7, None, "a margin of 0.7; expected more than 0 and less than 0.5"),
        ({}, 0.02, 0.4, "an AUC of 0.4; expected more than 0.5"),
        ({"design_effect": None}, 0.02, None, "has no design effect: the test split has fewer than two bricks"),
        ({"bricks": "5"}, 0.02, None, "'bricks' is '5', expected int"),
    ],
)
def test_what_cannot_be_planned(tmp_path: Path, changes: dict[str, Any], margin: float, auc: float | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        plan(survey(tmp_path, **changes), margin, auc)
