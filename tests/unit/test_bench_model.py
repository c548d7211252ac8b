"""The scaling model: allreduce, hidden messages, the slowest of many, and published curves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sample_traces import steps, write_rank

from hpc_galaxy.bench.model.messages import Link, exposed, fastest, halving_doubling, hierarchical, ring, tree
from hpc_galaxy.bench.model.predict import load_machine, measure, predict_run
from hpc_galaxy.bench.model.prediction import Machine, Training, efficiency, message_seconds, predict
from hpc_galaxy.bench.model.published import CURVES, Published, scatter
from hpc_galaxy.bench.model.stragglers import expected_maximum
from hpc_galaxy.bench.nodes import parse_nodes
from hpc_galaxy.errors import ConfigError, InputError

LINK = Link(2e-6, 8e9)
GRADIENT = 1.415e6  # bytes
STILL = np.ones(100)
MACHINE = Machine("test", 1, LINK, LINK, 1e12, 1e15)
TRAINING = Training(16, 0.016, GRADIENT, 98_304, STILL)


def test_allreduces_of_512_ranks() -> None:
    assert ring(512, GRADIENT, LINK) == pytest.approx(2 * 511 * 2e-6 + 2 * GRADIENT * 511 / 512 / 8e9)
    assert ring(512, GRADIENT, LINK) == pytest.approx(2.4e-3, rel=0.01)
    assert halving_doubling(512, GRADIENT, LINK) == pytest.approx(0.39e-3, rel=0.01)
    assert fastest(512, GRADIENT, LINK) == halving_doubling(512, GRADIENT, LINK)
    assert fastest(512, 8, LINK) == tree(512, 8, LINK) == pytest.approx(9 * 2e-6, rel=0.01)
    assert fastest(1, GRADIENT, LINK) == 0


@pytest.mark.parametrize("ranks", [2, 3, 4, 7, 8, 100, 1000])
def test_no_algorithm_sends_less_than_it_has_to(ranks: int) -> None:
    least = 2 * GRADIENT * (ranks - 1) / ranks / LINK.bandwidth
    assert ring(ranks, GRADIENT, LINK) >= least
    assert tree(ranks, GRADIENT, LINK) >= GRADIENT / LINK.bandwidth
    # Over a power of two the rest hands its data to others first, and has the sum handed back.
    assert halving_doubling(ranks, GRADIENT, LINK) >= 2 * GRADIENT * 0.5 / LINK.bandwidth


def test_nodes_of_several_ranks() -> None:
    fast = Link(0.0, 100e9)
    inside = 2 * GRADIENT * 0.75 / 100e9
    assert hierarchical(8, 4, GRADIENT, fast, LINK) == pytest.approx(inside + fastest(8, GRADIENT, LINK))
    assert hierarchical(1, 4, GRADIENT, fast, LINK) == pytest.approx(inside)
    assert hierarchical(8, 1, GRADIENT, fast, LINK) == fastest(8, GRADIENT, LINK)


def test_messages_hide_behind_the_backward_pass_but_for_the_last() -> None:
    assert exposed(0.010, backward=0.100, buckets=10) == pytest.approx(0.001)
    assert exposed(0.010, backward=0.100, buckets=1) == pytest.approx(0.010)
    # More than fits: the first bucket comes after a tenth of the pass, then one message follows the other.
    assert exposed(0.200, backward=0.100, buckets=10) == pytest.approx(0.010 + 0.200 - 0.100)
    assert exposed(0.0, backward=0.1, buckets=3) == pytest.approx(0)


@pytest.mark.parametrize("ranks", [1, 2, 5, 10, 30, 100, 1000])
def test_the_slowest_of_many_exponential_times(ranks: int) -> None:
    times = np.random.default_rng(3).exponential(1, 20_000)
    harmonic = float(np.sum(1 / np.arange(1, ranks + 1)))
    assert expected_maximum(times, ranks) == pytest.approx(harmonic, rel=0.08)


@pytest.mark.parametrize("ranks", [1, 2, 7, 10])
def test_the_slowest_of_few_is_what_drawing_them_says(ranks: int) -> None:
    rng = np.random.default_rng(4)
    times = rng.gamma(2, 1, 500)
    drawn = rng.choice(times, (50_000, ranks)).max(axis=1).mean()
    assert expected_maximum(times, ranks) == pytest.approx(drawn, rel=0.01)


def test_times_that_do_not_scatter_have_no_slowest() -> None:
    assert [expected_maximum(np.full(50, 1.5), ranks) for ranks in (1, 8, 4096)] == pytest.approx([1.5] * 3)


def test_a_step_is_the_sum_of_its_parts() -> None:
    step = predict(TRAINING, MACHINE, 512)
    assert step.seconds == pytest.approx(0.016 + fastest(512, GRADIENT, LINK))
    assert step.dominating == "communication" and step.data == 0
    assert efficiency(TRAINING, MACHINE, 1) == 1
    scattered = replace(TRAINING, scatter=1 + np.random.default_rng(1).exponential(0.05, 5000))
    assert predict(scattered, MACHINE, 512).dominating == "stragglers"
    assert predict(scattered, MACHINE, 512).stragglers == pytest.approx(0.016 * 0.05 * (np.log(512) + 0.577), rel=0.05)


def test_data_cost_what_they_take_beyond_the_step() -> None:
    # 16 images of 98,304 bytes at 50 MB/s take 31.5 ms.
    step = predict(TRAINING, replace(MACHINE, node_read=50e6), 1)
    assert step.seconds == pytest.approx(16 * 98_304 / 50e6) and step.dominating == "data"
    # 100 GB/s for all: 31.5 ms again on 2,000 nodes, and nothing to wait for on 1,000.
    shared = replace(MACHINE, shared_read=100e9)
    assert predict(TRAINING, shared, 2000).seconds == pytest.approx(16 * 98_304 * 2000 / 100e9)
    assert predict(TRAINING, shared, 1000).data == 0


@pytest.mark.parametrize("curve", CURVES, ids=lambda curve: curve.what)
def test_published_efficiencies_are_predicted(curve: Published) -> None:
    print(f"{curve.what}: predicted {curve.predicted:.2f}, measured {curve.measured:.2f} ({curve.source}) {curve.lacking}")
    if not curve.lacking:
        assert curve.predicted == pytest.approx(curve.measured, abs=0.04)
        return
    # A model that lacks something promises too much; by how much, and that more scatter would explain it, is what `lacking` claims.
    assert curve.measured + 0.04 < curve.predicted < curve.measured + 0.13
    scattered = replace(curve, training=replace(curve.training, scatter=scatter(0.05)))
    assert scattered.predicted == pytest.approx(curve.measured, abs=0.04)


def test_ranks_that_share_cores_compute_and_copy_in_turns() -> None:
    free = replace(MACHINE, ranks_per_node=8)
    shared = replace(free, cores=2)
    scattered = replace(TRAINING, scatter=1 + np.random.default_rng(1).exponential(0.05, 5000))
    alone, together = predict(scattered, free, 1), predict(scattered, shared, 1)
    assert together.compute == pytest.approx(4 * alone.compute)
    assert together.communication == pytest.approx(4 * alone.communication)
    # Who is late has a core to itself, because the others wait.
    assert together.stragglers == pytest.approx(alone.stragglers)
    assert predict(scattered, replace(free, cores=8), 1) == predict(scattered, replace(free, cores=64), 1) == alone
    # The adapter does not mind who shares a core.
    between = message_seconds(GRADIENT, shared, 16) - message_seconds(GRADIENT, free, 16)
    assert between == pytest.approx(3 * (message_seconds(GRADIENT, free, 16) - fastest(16, GRADIENT, LINK)))


def traced(root: Path, times: Callable[[int, int], dict[str, float]], ranks: int = 2, count: int = 40) -> Path:
    """The record of a training in which each rank goes through 1,000 images a second."""
    notes = {"gradient_bytes": GRADIENT, "image_bytes": 98_304}
    for rank, lines in enumerate(steps(ranks, count, times, message=1.0)):
        write_rank(root / "trace" / "0001", rank, ranks, [notes, *lines])
    return root


def test_a_trace_says_what_a_step_is_made_of(tmp_path: Path) -> None:
    training = measure(traced(tmp_path, lambda rank, step: {"forward": 20.0, "backward": 40.0 + 6 * (step % 10 == 0)}))
    assert (training.images, training.compute, training.gradient, training.image) == (62, pytest.approx(0.060), GRADIENT, 98_304)
    assert sorted(np.unique(np.round(training.scatter, 4))) == pytest.approx([1.0, 1.1])
    assert len(training.scatter) == 2 * (40 - 3)


def test_a_table_is_printed_and_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = traced(tmp_path, lambda rank, step: {"forward": 20.0, "backward": 40.0})
    site = tmp_path / "my.toml"
    site.write_text(
        "[slow]\nranks_per_node = 1\ninside = {latency = 1e-6, bandwidth = 1e10}\nbetween = {latency = 1e-6, bandwidth = 1e10}\n"
        "node_read = 1e12\nshared_read = 1e9\ncores = 1\n"
    )
    predict_run(run, f"{site}:slow", [1, 2, 64, 128, 256], 6e6, tmp_path / "predict.png")
    lines = capsys.readouterr().out.splitlines()
    assert lines[3].split() == ["1", "61", "1,017", "1.000", "60.00", "5901.6", "1.64", "communication", "(0.0%)"]
    # 61 images of 98,304 bytes, 256 times, at 1 GB/s.
    assert lines[7].split()[:5] == ["256", "15,616", "10,173", "0.039", "1535.12"] and lines[7].endswith("data (96.1%)")
    assert lines[8] == "from 64 to 128 nodes the speed grows by less than 1.5 times: more do not pay"
    assert lines[9].startswith("from 256 nodes on the global batch is above 8,192: ")
    assert (tmp_path / "predict.png").read_bytes()[:4] == b"\x89PNG"


def test_what_cannot_be_predicted_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown site 'nowhere', expected one of perlmutter-gpu, "):
        load_machine("nowhere")
    (tmp_path / "my.toml").write_text("[half]\nranks_per_node = 1\n")
    with pytest.raises(ConfigError, match=r"\[half\] lacks a valid 'inside'"):
        load_machine(f"{tmp_path}/my.toml:half")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_machine(f"{tmp_path}/none.toml:half")
    with pytest.raises(InputError, match="a trace of 7 steps, after 3 to warm up, expected 20 or more"):
        measure(traced(tmp_path, lambda rank, step: {"forward": 20.0, "backward": 40.0}, count=10))
    assert load_machine("perlmutter-gpu").ranks_per_node == 4 and load_machine("perlmutter-gpu").cores == 0


@pytest.mark.parametrize(
    ("text", "nodes"),
    [("4", (4,)), ("4,1,2", (1, 2, 4)), ("1..8", (1, 2, 4, 8)), ("1..6", (1, 2, 4, 6)), ("3..12,5", (3, 5, 6, 12)), ("2..2", (2,))],
)
def test_numbers_of_nodes_as_they_are_typed(text: str, nodes: tuple[int, ...]) -> None:
    assert parse_nodes(text) == nodes


@pytest.mark.parametrize("text", ["", "0", "-1", "1..", "8..1", "0..4", "two", "1,,2"])
def test_what_is_no_number_of_nodes_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--nodes: got '.*', expected positive numbers"):
        parse_nodes(text)
