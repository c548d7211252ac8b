"""Which parameter scores follow, where we know it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hpc_galaxy.auc import auc
from hpc_galaxy.realism.why.sensitivity import STEP, fit_by_bricks, sensitivity

UNITS = {"magnitude": "mag", "colour": "mag", "radius": "dex", "index": "", "ellipticity": "", "nothing": ""}


def sample(seed: int, effect: float = 0.0, bricks: int = 20, each: int = 16) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Draw galaxies whose logit falls by `effect` for one scatter of the radius (0.2 dex); bricks share a part of it."""
    rng = np.random.default_rng(seed)
    brick = np.repeat(np.arange(bricks), 2 * each)
    labels = np.tile(np.repeat([0, 1], each), bricks)
    parameters = {name: rng.normal(size=len(labels)) for name in UNITS}
    parameters["radius"] = 0.2 * parameters["radius"] + 0.5
    parameters["magnitude"] = 22 + 0.8 * parameters["magnitude"] + (parameters["radius"] - 0.5)  # correlated
    scores = rng.normal(size=len(labels)) + 0.5 * rng.normal(size=bricks)[brick] + 0.5 * labels
    scores -= effect * labels * (parameters["radius"] - 0.5) / 0.2
    seeing = {"seeing": rng.normal(size=bricks)[brick]}
    for values in parameters.values():
        values[labels == 0] = np.nan  # nothing is known of real galaxies
    return {"labels": labels, "scores": scores, "bricks": brick, "conditions": seeing, "units": UNITS}, parameters


def found(seed: int, effect: float = 0.0, **how: Any) -> dict[str, Any]:
    given, parameters = sample(seed, effect, **how)
    answer = sensitivity(parameters=parameters, **given)
    assert isinstance(answer, dict)
    return answer


def test_the_parameter_that_scores_follow_is_named_with_the_right_sign() -> None:
    answer = found(1, 0.8)
    by_name = {row["parameter"]: row for row in answer["rows"]}
    assert list(by_name) == list(UNITS)
    radius = by_name["radius"]
    assert radius["slope"] == pytest.approx(-0.8, abs=4 * radius["error"]) and radius["error"] < 0.15
    assert radius["scatter"] == pytest.approx(0.2, rel=0.1) and radius["unit"] == "dex"
    assert radius["adjusted"] < 1e-4 and radius["change"] == "+0.5 scatter"
    assert all(row["adjusted"] > 0.05 for name, row in by_name.items() if name != "radius")
    assert answer["sentence"].startswith("radius: changed by half its scatter (+0.") and "dex" in answer["sentence"]
    assert f"from {answer['auc']:.3f} to {radius['auc_if_changed']:.3f}" in answer["sentence"]
    assert "not a new injection" in answer["limits"]


def test_the_auc_if_changed_is_that_of_galaxies_made_so() -> None:
    given, _ = sample(3, 1.0, bricks=60, each=60)
    before, answer = auc(given["labels"], given["scores"]), found(3, 1.0, bricks=60, each=60)
    really = auc(given["labels"], given["scores"] - STEP * 1.0 * given["labels"])
    radius = next(row for row in answer["rows"] if row["parameter"] == "radius")
    assert answer["auc"] == pytest.approx(before)
    assert radius["auc_if_changed"] == pytest.approx(really, abs=0.01) and really < before - 0.08


def test_where_scores_follow_nothing_a_parameter_is_named_in_one_case_of_twenty_at_most() -> None:
    sentences = [found(seed)["sentence"] for seed in range(200)]
    named = sum(not sentence.startswith("no parameter") for sentence in sentences)
    assert named <= 14, f"{named} of 200"  # 10 expected of a test of exactly 5 %, 14 in nine of ten cases


def test_slopes_scatter_as_their_errors_say() -> None:
    rows = [next(row for row in found(seed, 0.3)["rows"] if row["parameter"] == "radius") for seed in range(100)]
    scatter, said = np.std([row["slope"] for row in rows]), np.mean([row["error"] for row in rows])
    assert 0.8 < said / scatter < 1.4


def test_the_errors_are_those_of_leaving_out_bricks() -> None:
    rng = np.random.default_rng(2)
    design, response, bricks = rng.normal(size=(60, 3)), rng.normal(size=60), np.repeat(np.arange(6), 10)
    fitted, errors = fit_by_bricks(design, response, bricks)
    expected = np.linalg.lstsq(design, response, rcond=None)[0]
    left = [np.linalg.lstsq(design[bricks != brick], response[bricks != brick], rcond=None)[0] for brick in range(6)]
    assert fitted == pytest.approx(expected)
    assert errors == pytest.approx(np.sqrt(5 / 6 * np.sum((np.array(left) - expected) ** 2, axis=0)))


def test_what_does_not_vary_or_is_not_known_is_left_out() -> None:
    given, parameters = sample(4, 0.8)
    parameters["nothing"][:] = 3.0
    parameters["index"][:] = np.nan
    parameters["colour"][given["labels"] == 1] = np.where(np.arange(320) % 4, parameters["colour"][given["labels"] == 1], np.nan)
    answer = sensitivity(parameters=parameters, **given)
    assert isinstance(answer, dict)
    assert [row["parameter"] for row in answer["rows"]] == ["magnitude", "colour", "radius", "ellipticity"]
    assert answer["sentence"].startswith("radius")


@pytest.mark.parametrize(("bricks", "each", "why"), [(3, 60, "180 fakes with known parameters in 3 bricks"), (20, 2, "40 fakes")])
def test_too_few_say_so(bricks: int, each: int, why: str) -> None:
    given, parameters = sample(5, bricks=bricks, each=each)
    answer = sensitivity(parameters=parameters, **given)
    assert isinstance(answer, str) and answer.startswith(why) and answer.endswith("70 fakes in 4 bricks are needed")


def test_without_any_parameter_there_is_no_answer() -> None:
    given, parameters = sample(6)
    answer = sensitivity(parameters={name: values * np.nan for name, values in parameters.items()}, **given)
    assert isinstance(answer, str) and "are needed" in answer
