"""What a sharp answer takes, from hand-made figures of a small survey."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sample_shards
from sample_traces import steps, write_rank

from hpc_galaxy.bench.plan import Cutting, Measured, extrapolate, plan, read_cutting
from hpc_galaxy.config import Config
from hpc_galaxy.errors import ConfigError, InputError
from hpc_galaxy.files import write_json
from hpc_galaxy.realism.power import needed_for_margin, needed_to_detect


def survey(root: Path, **changes: Any) -> Config:
    """Write shards, and the figures of a report and of a training."""
    config = sample_shards.make_config(root)
    sample_shards.make_shards(config.paths.shards, train=60, valid=20, test=20)
    write_json(config.paths.report / "report.json", {"examples": 20, "bricks": 5, "design_effect": 2.5} | changes)
    write_json(config.paths.run / "DONE", {"epochs": 4, "last": {"images_per_second": 100.0}, "ranks": 8, "nodes": 2})
    return config


def trace_training(run: Path) -> None:
    """Write the record of a training in which each rank goes through 1,000 images a second."""
    notes = {"gradient_bytes": 1_415_000, "image_bytes": 98_304}
    for rank, lines in enumerate(steps(2, 40, lambda rank, step: {"forward": 20.0, "backward": 40.0})):
        write_rank(run / "trace" / "0001", rank, 2, [notes, *lines])


def trace_extraction(root: Path, footer: bool = True) -> Config:
    """Write the record of an extraction on 4 ranks of 2 nodes, where a brick takes a rank 3 s, in two copies."""
    second = 10**9
    for rank in range(4):
        lines = []
        for number in range(5):
            brick, start = f"{rank}{number:03d}p050", (3 * number + 7) * second
            lines += [["X", "main", "select", start + copy * second, second // 2, brick] for copy in range(2)]
            lines.append(["X", "writer", "flush", start + 2 * second, second, brick])
        write_rank(root / "cutouts" / "trace" / "0001", rank, 4, lines, stage="extract", host=f"n{rank // 2}", footer=footer)
    return sample_shards.make_config(root, f"paths.cutouts='{root}/cutouts'")


def test_the_numbers_follow_from_the_design_effect_and_the_shares() -> None:
    found = Measured(2.0, 8.0, {"train": 0.6, "valid": 0.2, "test": 0.2}, 98_304, 100.0, 4)
    needed = extrapolate(found, 1000)
    assert (needed.test_a_class, needed.test_bricks, needed.bricks, needed.examples) == (1000, 250, 1250, 10_000)
    assert needed.terabytes == pytest.approx(10_000 * 98_304 / 1e12)
    assert needed.passes == pytest.approx(4 * 6_000)
    assert extrapolate(replace(found, networks=3), 1000).passes == pytest.approx(3 * 4 * 6_000)


def test_a_plan_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = survey(tmp_path)
    plan(config, 0.02, None)
    said = capsys.readouterr().out
    assert "fakes that are alike are shown to be so within +/- 0.02 with a chance of 90 %" in said
    assert f"test galaxies  {2 * needed_for_margin(0.02, 2.5):,}, half of them fake (design effect 2.50)" in said
    assert "with 4.0 of them each" in said and "of which 20 % are the test split" in said
    hours = 4 * 0.6 * 2 * needed_for_margin(0.02, 2.5) / 0.2 / 100 / 3600
    assert f"training       {hours:.2f} h of 4 epochs at 100 images/s with 8 ranks on 2 nodes: {2 * hours:.2f} node-hours" in said
    assert "how long was not recorded: run 'hpc-galaxy extract --overwrite --trace'" in said
    assert "on other nodes: train with --trace, and give --site and --nodes" in said
    plan(config, 0.02, 0.52)
    assert f"{2 * needed_to_detect(0.52, 2.5):,}" in capsys.readouterr().out


def test_a_design_effect_below_one_is_chance(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan(survey(tmp_path, design_effect=0.7), 0.02, None)
    assert "(design effect 1.00)" in capsys.readouterr().out


def test_several_networks_take_several_times_as_long(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan(survey(tmp_path, networks=[{}, {}, {}]), 0.02, None)
    hours = 3 * 4 * 0.6 * 2 * needed_for_margin(0.02, 2.5) / 0.2 / 100 / 3600
    assert f"{hours:.2f} h of 4 epochs of each of 3 networks at 100 images/s" in capsys.readouterr().out


def test_on_another_site_by_the_model_of_a_traced_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, site = survey(tmp_path), tmp_path / "my.toml"
    trace_training(config.paths.run)
    site.write_text(
        "[ideal]\nranks_per_node = 2\ninside = {latency = 1e-9, bandwidth = 1e15}\nbetween = {latency = 1e-9, bandwidth = 1e15}\n"
        "node_read = 1e12\nshared_read = 1e15\n"
    )
    plan(config, 0.02, None, f"{site}:ideal", 4)
    said = capsys.readouterr().out
    # 61 images of each of 8 ranks in 60 ms; messages and data cost nothing.
    speed = 8 * 61 / 0.060
    hours = 4 * 0.6 * 2 * needed_for_margin(0.02, 2.5) / 0.2 / speed / 3600
    assert f"on 4 nodes of ideal: {hours:.2f} h of 4 epochs at {speed:,.0f} images/s, global batch 488: {4 * hours:.2f} node-hours" in said
    plan(config, 0.02, None, f"{site}:ideal")
    assert "on 1 node of ideal: " in capsys.readouterr().out


def test_without_a_trace_or_a_site_it_says_what_to_do(tmp_path: Path) -> None:
    config = survey(tmp_path)
    with pytest.raises(InputError, match="run: holds no trace; run the stage with --trace"):
        plan(config, 0.02, None, "perlmutter-cpu", 4)
    with pytest.raises(ConfigError, match="--nodes: got without --site"):
        plan(config, 0.02, None, None, 4)
    trace_training(config.paths.run)
    with pytest.raises(ConfigError, match="unknown site 'nowhere'"):
        plan(config, 0.02, None, "nowhere", 4)


def test_a_traced_extraction_tells_its_node_hours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    survey(tmp_path)
    config = trace_extraction(tmp_path)
    assert read_cutting(config) == Cutting(pytest.approx(3.0), 2)
    plan(config, 0.02, None)
    bricks = math.ceil(2 * needed_for_margin(0.02, 2.5) / 4 / 0.2)
    told = f"extraction     {bricks * 3 / 2 / 3600:.2f} node-hours of {bricks:,} bricks, at 3.00 s of a rank a brick with 2 ranks a node"
    assert told in capsys.readouterr().out


def test_an_extraction_that_was_killed_tells_nothing(tmp_path: Path) -> None:
    assert read_cutting(trace_extraction(tmp_path, footer=False)) is None


def test_a_training_that_did_not_write_down_its_nodes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = survey(tmp_path)
    write_json(config.paths.run / "DONE", {"epochs": 4, "last": {"images_per_second": 100.0}})
    plan(config, 0.02, None)
    assert "at 100 images/s; the training did not write down on how many nodes" in capsys.readouterr().out


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
