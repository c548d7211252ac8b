"""The numbers of the report on hand-made scores."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, roc_auc_score
from sklearn.metrics import roc_curve as sklearn_roc_curve

from hpc_galaxy.auc import bootstrap_auc
from hpc_galaxy.config import Realism
from hpc_galaxy.realism.plots import roc_curve
from hpc_galaxy.realism.report import confusion_text, headline
from hpc_galaxy.realism.statistics import call_fake, confusion_table, summarise
from hpc_galaxy.training.scores import fake_probability

SETTINGS = Realism(bootstrap=100, permutations=500)


def example(size: int, bricks: int, shift: float, scatter: float = 0.0, seed: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, logits and bricks; fakes score `shift` higher, by an amount that differs from brick to brick by `scatter`."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, size).astype(np.uint8)
    bricks_of = rng.integers(0, bricks, size)
    scores = rng.normal(size=size) + labels * (shift + scatter * rng.normal(size=bricks)[bricks_of])
    return labels, np.stack([-scores / 2, scores / 2], axis=1), np.array([f"{number:04d}p050" for number in bricks_of], "S8")


def test_numbers_agree_with_scikit_learn() -> None:
    labels, logits, bricks = example(400, 6, 0.5)
    numbers = summarise(labels, logits, bricks, SETTINGS, 1)
    called = logits[:, 1] > 0
    assert numbers["auc"] == pytest.approx(roc_auc_score(labels, logits[:, 1]))
    assert numbers["accuracy"] == pytest.approx(np.mean(called == labels))
    (rr, rf), (fr, ff) = confusion_matrix(labels, called)
    assert numbers["confusion"] == {"real": {"called real": rr, "called fake": rf}, "fake": {"called real": fr, "called fake": ff}}
    assert numbers["examples"] == 400 and numbers["bricks"] == 6
    low, high = numbers["auc_interval"]
    assert numbers["auc_bootstrap_interval"] == pytest.approx((low, high), abs=0.04)
    assert numbers["accuracy_interval"][0] < numbers["accuracy"] < numbers["accuracy_interval"][1]
    assert numbers["verdict"]["kind"] == "told apart" and numbers["p_value"] < 0.05
    x, y = roc_curve(labels, logits[:, 1])
    expected_x, expected_y, _ = sklearn_roc_curve(labels, logits[:, 1], drop_intermediate=False)
    assert np.allclose(x, expected_x) and np.allclose(y, expected_y)


def test_confusion_by_hand() -> None:
    logits = np.array([[1.0, 0], [0, 1], [0, 1], [0, 1], [1, 0], [0.5, 0.5]])
    table = confusion_table(np.array([0, 0, 1, 1, 1, 1]), call_fake(logits[None]))
    assert table == {"real": {"called real": 1, "called fake": 1}, "fake": {"called real": 2, "called fake": 2}}
    assert confusion_text(table).split() == ["called", "real", "called", "fake", "real", "1", "1", "fake", "2", "2"]


def test_interval_is_seeded_and_holds_the_value() -> None:
    labels, logits, bricks = example(600, 12, 0.5)
    interval = bootstrap_auc(labels, logits[:, 1], bricks, 300, 1)
    assert interval == bootstrap_auc(labels, logits[:, 1], bricks, 300, 1)
    assert interval != bootstrap_auc(labels, logits[:, 1], bricks, 300, 2)
    assert interval is not None
    assert interval[0] < roc_auc_score(labels, logits[:, 1]) < interval[1]
    # Hanley & McNeil give 0.020 for the standard error of 600 independent examples: 0.08 between the limits.
    assert 0.04 < interval[1] - interval[0] < 0.12


def test_interval_is_wider_where_bricks_differ() -> None:
    widths = []
    for scatter in (0.0, 1.5):
        labels, logits, bricks = example(2000, 10, 0.5, scatter)
        low, high = bootstrap_auc(labels, logits[:, 1], bricks, 300, 1) or (0, 0)
        widths.append(high - low)
        single = bootstrap_auc(labels, logits[:, 1], np.arange(len(labels)), 300, 1) or (0, 0)
        widths.append(single[1] - single[0])
    assert widths[2] > 2 * widths[3], "examples of one brick were taken for independent ones"
    assert widths[2] > 2 * widths[0]


def test_too_little_for_an_interval() -> None:
    labels, logits, bricks = example(50, 1, 0.5)
    numbers = summarise(labels, logits, bricks, SETTINGS, 1)
    assert numbers["auc_interval"] is None
    assert numbers["auc_interval_method"] == "no interval: 1 brick, at least 2 with both classes are needed"
    assert "(no interval: 1 brick" in headline(numbers)
    alone = summarise(np.ones(4, np.uint8), np.zeros((4, 2)), np.array([b"a", b"b", b"a", b"b"]), SETTINGS, 1)
    assert alone["auc"] is None and alone["auc_interval"] is None
    assert "AUC undefined" in headline(alone)
    assert alone["p_value"] is None and alone["verdict"]["kind"] == "undecided"


def several(size: int, bricks: int, shift: float, networks: int, own: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As `example`, logits of shape (networks, N, 2); what is `own` of a network scatters so much beside what all have in common."""
    labels, logits, names = example(size, bricks, shift)
    noise = np.random.default_rng(9).normal(0, own, (networks, size))
    return labels, logits + noise[..., None] * [-0.5, 0.5], names


def test_of_several_networks_the_auc_is_the_mean_and_the_rest_is_of_the_mean_probability() -> None:
    labels, logits, bricks = several(600, 8, 0.6, 3, 0.7)
    numbers = summarise(labels, logits, bricks, SETTINGS, 1)
    alone = [roc_auc_score(labels, row[:, 1] - row[:, 0]) for row in logits]
    assert [each["auc"] for each in numbers["networks"]] == pytest.approx(alone)
    assert numbers["auc"] == pytest.approx(np.mean(alone))
    assert numbers["networks_scatter"] == pytest.approx(np.std(alone, ddof=1))
    mean = fake_probability(logits).mean(axis=0)
    assert numbers["accuracy"] == np.mean((mean > 0.5) == labels)
    assert sum(numbers["confusion"]["fake"].values()) == labels.sum()
    assert numbers["confusion"]["fake"]["called fake"] == np.sum((mean > 0.5) & (labels == 1))
    assert numbers["calibration"]["brier"] == pytest.approx(np.mean((mean - labels) ** 2))
    low, high = numbers["auc_interval"]
    assert low < numbers["auc"] < high and numbers["auc_bootstrap_interval"] == pytest.approx((low, high), abs=0.03)
    assert f"mean of 3 networks), accuracy {numbers['accuracy']:.3f}" in headline(numbers)


def test_the_same_network_twice_is_the_network() -> None:
    labels, logits, bricks = example(300, 6, 0.4)
    once, twice = (summarise(labels, np.stack([logits] * times), bricks, SETTINGS, 1) for times in (1, 2))
    assert once == summarise(labels, logits, bricks, SETTINGS, 1)
    assert once["networks_scatter"] is None and twice["networks_scatter"] == 0
    different = {"networks", "networks_scatter"}
    assert {key: value for key, value in twice.items() if key not in different} == {
        key: value for key, value in once.items() if key not in different
    }
    # More networks that err on the same galaxies give no narrower interval; those that err on others do.
    width = [high - low for low, high in (once["auc_interval"], twice["auc_interval"])]
    labels, apart, bricks = several(300, 6, 0.4, 8, 2.0)
    low, high = summarise(labels, apart, bricks, SETTINGS, 1)["auc_interval"]
    alone = summarise(labels, apart[0], bricks, SETTINGS, 1)["auc_interval"]
    assert width[0] == width[1] and high - low < 0.9 * (alone[1] - alone[0])


def test_headline() -> None:
    labels, logits, bricks = example(402, 5, 0.0)
    line = headline(summarise(labels, logits, bricks, SETTINGS, 1))
    assert line.startswith("test AUC 0.") and "(95 %, Student's t over 5 bricks), accuracy 0." in line and line.endswith("402 examples")
