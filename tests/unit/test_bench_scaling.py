"""Plans, batch scripts, efficiencies and reports of scaling studies, from made-up results."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpc_galaxy.bench.environment import describe
from hpc_galaxy.bench.model.messages import Link, fastest
from hpc_galaxy.bench.scaling import submit as submit_module
from hpc_galaxy.bench.scaling.compare import fit
from hpc_galaxy.bench.scaling.data import find_synthetic, require_bricks, train_config, write_view
from hpc_galaxy.bench.scaling.plan import Asked, Point, Study, load_study, make_study, parse_asked, require_same
from hpc_galaxy.bench.scaling.point import require_ranks, run_point
from hpc_galaxy.bench.scaling.report import most_crowded, write_report
from hpc_galaxy.bench.scaling.statistics import draw_rates, make_rows, rate_of
from hpc_galaxy.bench.scaling.submit import Options, array_script, read_queue, report_script, submit
from hpc_galaxy.bench.scaling.timing import QUANTILES, distribution, whereabouts
from hpc_galaxy.bench.suite.examples import write_examples
from hpc_galaxy.config import Config, load_config
from hpc_galaxy.errors import ConfigError, FormatError, InputError, LaunchError, StageError, StaleOutputError
from hpc_galaxy.files import write_json
from hpc_galaxy.shards.manifest import load_manifest
from hpc_galaxy.shards.numpy_shards import SplitReader
from hpc_galaxy.world import World

ASKED = Asked(("train", "extract"), ("strong", "weak"), (1, 2, 4), ranks_per_node=2, repeats=2, steps=5, bricks=3)
ENVIRONMENT = describe()
LINK = Link(20e-6, 5e8)


def study_at(directory: Path, asked: Asked = ASKED, config: Config | None = None) -> Study:
    return make_study(directory, asked, config or load_config(None, [f"paths.shards='{directory}/none'"]), asked.stages)


def result_of(point: Point, seconds: float, scatter: float = 0.0, amount: float = 64) -> dict[str, Any]:
    """What a point would have written whose steps took so long, more or less."""
    times = seconds * (1 + scatter * np.random.default_rng(point.number).standard_normal(1 if point.stage == "extract" else 30))
    host = {"node": "n1", "host": "here", "ranks": point.ranks, "cores": 2}
    made = {"name": point.name, "amount": amount, "times": times.tolist(), "seconds": float(times.sum()), "hosts": [host]}
    made |= {"environment": ENVIRONMENT, "parts": {"compute": seconds, "communication": 0.0}}
    if point.stage == "train":
        made |= {"compute": [seconds], "gradient_bytes": 1e6, "image_bytes": 1e5, "allreduce": {}}
    return made


# --- the plan


def test_a_plan_has_every_point_and_the_work_of_each(tmp_path: Path) -> None:
    study = study_at(tmp_path)
    assert len(study.points) == 2 * 2 * 3 * 2 and [point.number for point in study.points] == list(range(24))
    assert len({point.name for point in study.points}) == 24
    assert [point.repeat for point in study.points] == [1] * 12 + [2] * 12
    work = {(point.stage, point.mode, point.nodes): point.work for point in study.points}
    assert [work["train", "strong", nodes] for nodes in (1, 2, 4)] == [32 * 8] * 3
    assert [work["train", "weak", nodes] for nodes in (1, 2, 4)] == [64, 128, 256]
    assert [work["extract", "strong", nodes] for nodes in (1, 2, 4)] == [24] * 3
    assert [work["extract", "weak", nodes] for nodes in (1, 2, 4)] == [6, 12, 24]
    assert load_study(tmp_path) == study


def test_options_that_make_no_sense_are_refused() -> None:
    numbers = {"ranks_per_node": 1, "repeats": 1, "steps": 1, "bricks": 1}
    assert parse_asked("extract,train", "weak", "4,1,4", **numbers) == Asked(("train", "extract"), ("weak",), (1, 4), 1, 1, 1, 1)
    for arguments in (
        ("trian", "weak", "1"),
        ("train", "week", "1"),
        ("train", "weak", "0,1"),
        ("train", "weak", "one"),
        ("", "weak", "1"),
    ):
        with pytest.raises(ConfigError, match="expected"):
            parse_asked(*arguments, **numbers)
    with pytest.raises(ConfigError, match="--ranks-per-node: got 0"):
        parse_asked("train", "weak", "1", **numbers | {"ranks_per_node": 0})


@pytest.mark.parametrize(
    ("asked", "settings", "named"),
    [
        (replace(ASKED, nodes=(1, 2)), [], r"nodes = \[1, 2, 4\], now it is \[1, 2\]"),
        (replace(ASKED, steps=6), [], "steps = 5, now it is 6"),
        (ASKED, ["train.batch_size=8"], r"train.batch_size = 32, now it is 8"),
        (ASKED, ["seed=2"], "seed = 1, now it is 2"),
    ],
)
def test_another_plan_is_refused(tmp_path: Path, asked: Asked, settings: list[str], named: str) -> None:
    study = study_at(tmp_path)
    require_same(study, ASKED, study.config)
    with pytest.raises(StaleOutputError, match=named):
        require_same(study, asked, load_config(None, [f"paths.shards='{tmp_path}/none'", *settings]))


def test_no_plan_and_a_broken_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="run 'hpc-galaxy bench scaling' first"):
        load_study(tmp_path)
    for content in ({"version": 99}, {"version": 1}, [], {"version": 1, "asked": {"nodes": 1}}):
        write_json(tmp_path / "study.json", content)
        with pytest.raises(FormatError, match="is no plan of a study"):
            load_study(tmp_path)


# --- data


def test_a_view_shows_as_many_examples_as_asked_for_over_and_over(tmp_path: Path) -> None:
    write_examples(tmp_path / "shards", 512 + 100)
    write_view(tmp_path / "shards", tmp_path / "view", 512 + 512 + 3)
    manifest = load_manifest(tmp_path / "view")
    assert (manifest.examples("train"), manifest.examples("valid"), manifest.examples("test")) == (1027, 64, 0)
    reader = SplitReader(tmp_path / "view", manifest, "train")
    stamps = reader.stamps(np.array([5, 2, 512 + 5, 1024 + 2]))
    np.testing.assert_array_equal(stamps[0], stamps[2])
    np.testing.assert_array_equal(stamps[1], stamps[3])
    assert len(reader.labels) == 1027 and (tmp_path / "view" / "xtrain_000001.npy").is_symlink()
    assert not (tmp_path / "view" / "xtrain_000002.npy").is_symlink()

    write_examples(tmp_path / "few", 100)
    with pytest.raises(InputError, match="has 100 training and 64 validation examples, expected 512"):
        write_view(tmp_path / "few", tmp_path / "other", 10)


def test_synthetic_data_are_used_where_there_are_none_and_said(tmp_path: Path) -> None:
    config = load_config(
        None, [f"paths.shards='{tmp_path}/shards'", f"paths.survey='{tmp_path}/survey'", f"paths.obiwan='{tmp_path}/none'"]
    )
    assert find_synthetic(ASKED, config) == ("train", "extract")
    write_examples(tmp_path / "shards", 8)
    (tmp_path / "survey").mkdir()
    assert find_synthetic(ASKED, config) == ("extract",)
    own = Config.model_validate(
        config.model_dump() | {"extract": config.extract.model_dump() | {"real_from": "survey", "classes": ("real",)}}
    )
    assert find_synthetic(ASKED, own) == ()
    tractor = tmp_path / "survey" / "tractor" / "000"
    tractor.mkdir(parents=True)
    (tractor / "tractor-0001p000.fits").touch()
    with pytest.raises(InputError, match="has 1 bricks, expected 24: 3 for each of 8 ranks"):
        require_bricks(ASKED, own)


def test_a_training_point_keeps_the_users_settings_but_what_has_to_differ(tmp_path: Path) -> None:
    config = load_config(
        None, ["train.accumulate=4", "train.optimizer.name=lamb", "trace.profiler.ranks=[0]", "train.saving.every_steps=1"]
    )
    study = make_study(tmp_path, ASKED, config, ())
    made = train_config(study, 96, tmp_path / "work")
    assert (made.train.global_batch, made.train.accumulate, made.train.epochs, made.train.optimizer.name) == (96, 1, 1, "lamb")
    assert made.train.saving.every_steps == 0 and made.trace.spans and made.trace.profiler.ranks == ()
    assert study.points[0].work == 32 * 4 * 8
    assert train_config(study_at(tmp_path), 96, tmp_path).train.optimizer.learning_rate == 1e-6


# --- scripts


def test_a_job_array_has_the_points_of_one_size(tmp_path: Path) -> None:
    study = study_at(tmp_path / "a study")
    points = [point for point in study.points if point.nodes == 2][:3]
    script = array_script(study, points, Options("--account=abc -t 30", "--mpi=pmi2", apart=True))
    lines = script.splitlines()
    assert lines[0] == "#!/bin/bash" and "#SBATCH --account=abc -t 30" in lines
    assert "#SBATCH --nodes=2 --ntasks-per-node=2" in lines and "#SBATCH --array=1,4,7%1" in lines
    assert f"#SBATCH --output='{tmp_path}/a study/jobs/point-%a.out'" in lines
    assert "srun --mpi=pmi2 --nodes=2 --ntasks-per-node=2 --ntasks=4 --kill-on-bad-exit=1 \\" in lines
    assert lines[-1] == f"    {sys.executable} -m hpc_galaxy bench point '{tmp_path}/a study' \"$SLURM_ARRAY_TASK_ID\""
    assert "#SBATCH --array=1,4,7\n" in array_script(study, points, Options())
    last = report_script(study, Options("--account=abc"))
    assert "#SBATCH --account=abc\n#SBATCH --nodes=1 --ntasks=1\n" in last and last.endswith(f"bench report '{tmp_path}/a study'\n")
    for text in (script, last):
        assert subprocess.run(["bash", "-n"], input=text, text=True).returncode == 0
    with pytest.raises(ConfigError, match="several lines"):
        Options("--account=abc\nrm -rf /")


class Slurm:
    """Stands for squeue and sbatch; refuses jobs of `too_large` nodes."""

    def __init__(self, queue: str = "", too_large: int = 99) -> None:
        self.queue, self.too_large, self.calls = queue, too_large, []

    def __call__(self, command: list[str]) -> str:
        if command[0] == "squeue":
            return self.queue
        self.calls.append([word if word.startswith("-") else Path(word).name for word in command[1:]])
        if f"nodes-{self.too_large}.sbatch" in self.calls[-1]:
            raise LaunchError("sbatch", "too many nodes", "ask for fewer")
        return f"{100 + len(self.calls)};cluster\n"


def test_what_is_missing_is_submitted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = study_at(tmp_path)
    monkeypatch.setattr(submit_module, "ask", slurm := Slurm())
    submit(study, Options())
    names = ["nodes-1.sbatch", "nodes-2.sbatch", "nodes-4.sbatch"]
    assert slurm.calls == [*(["--parsable", name] for name in names), ["--parsable", "--dependency=afterany:101:102:103", "report.sbatch"]]
    assert "--array=0,3,6,9,12,15,18,21\n" in (tmp_path / "jobs" / "nodes-1.sbatch").read_text()

    for point in study.points[2:]:
        write_json(study.result(point), {})
    monkeypatch.setattr(submit_module, "ask", slurm := Slurm("77 0\n78 N/A\n"))
    assert read_queue(study) == submit_module.Queued({"77", "78"}, {0})
    submit(study, Options(apart=True))
    after = "--dependency=afterany:"
    assert slurm.calls == [["--parsable", f"{after}78", "nodes-2.sbatch"], ["--parsable", f"{after}77:78:101", "report.sbatch"]]
    assert "--array=1%1\n" in (tmp_path / "jobs" / "nodes-2.sbatch").read_text()

    monkeypatch.setattr(submit_module, "ask", slurm := Slurm("77 0\n78 1\n79 N/A\n"))
    submit(study, Options())
    assert slurm.calls == []


def test_a_size_that_slurm_refuses_stops_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submit_module, "ask", slurm := Slurm(too_large=2))
    with pytest.raises(StageError, match=r"1 of 3 job arrays were refused:\n  nodes-2.sbatch: too many nodes"):
        submit(study_at(tmp_path), Options())
    assert slurm.calls[-1] == ["--parsable", "--dependency=afterany:101:103", "report.sbatch"]


def test_without_slurm_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LaunchError, match="squeue: not found on PATH; run this where jobs are submitted"):
        submit(study_at(tmp_path / "study"), Options())


# --- points


def test_a_point_wants_its_ranks_and_nodes(tmp_path: Path) -> None:
    point = study_at(tmp_path).points[1]  # on 2 nodes x 2 ranks
    require_ranks(point, World(size=4, launcher="mpirun"), {"SLURM_STEP_NUM_NODES": "1"})
    require_ranks(point, World(size=4, launcher="srun"), {"SLURM_STEP_NUM_NODES": "2"})
    with pytest.raises(LaunchError, match="point 1: started with 1 node, expected 4 ranks on 2 nodes; start it with srun --nodes=2 --nt"):
        require_ranks(point, World(size=4, launcher="srun"), {"SLURM_STEP_NUM_NODES": "1"})
    with pytest.raises(LaunchError, match="started with 1 rank, expected 4 ranks on 2 nodes"):
        run_point(tmp_path, 1, World())
    with pytest.raises(ConfigError, match="point 24: not in the plan, which has 0 to 23"):
        run_point(tmp_path, 24, World())


def test_many_times_are_kept_as_quantiles() -> None:
    values = np.random.default_rng(1).standard_normal((4, 2000))
    kept = distribution(values)
    assert len(kept) == QUANTILES and (kept[0], kept[-1]) == (values.min(), values.max())
    assert kept[500] == pytest.approx(np.median(values))
    assert distribution(np.array([[3.0, 1.0]])) == [1.0, 3.0]


def test_where_ranks_are() -> None:
    cyclic = ["a", "b", "a", "b"]
    assert [whereabouts(cyclic, rank, 2) for rank in range(4)] == [(0, 0), (1, 0), (0, 1), (1, 1)]
    assert [whereabouts(["here"] * 4, rank, 2) for rank in range(4)] == [(0, 0), (0, 1), (1, 0), (1, 1)]


# --- statistics


def test_known_efficiencies_are_found(tmp_path: Path) -> None:
    study = study_at(tmp_path)
    weak = {1: 0.100, 2: 0.110, 4: 0.125}  # seconds of the same work a rank
    strong = {1: 0.400, 2: 0.250, 4: 0.200}  # of the same work
    results = []
    for point in study.points:
        seconds = (weak if point.mode == "weak" else strong)[point.nodes]
        results.append((point, result_of(point, seconds, 0.02, point.work)))
    rows = {(row.stage, row.mode, row.nodes): row for row in make_rows(results, seed=1)}
    assert len(rows) == 12 and all(row.repeats == 2 for row in rows.values())
    for stage, tolerance in (("train", 0.01), ("extract", 0.06)):
        for nodes in (1, 2, 4):
            expected = {"weak": weak[1] / weak[nodes], "strong": strong[1] / strong[nodes] / nodes}
            for mode, value in expected.items():
                assert rows[stage, mode, nodes].efficiency.value == pytest.approx(value, rel=tolerance)
    two = rows["train", "weak", 2]
    assert two.rate.value == pytest.approx(128 / 0.110, rel=0.01) and two.seconds == pytest.approx(0.110, rel=0.01)
    assert two.efficiency.low < two.efficiency.value < two.efficiency.high < two.efficiency.low * 1.05
    first = rows["train", "weak", 1].efficiency
    assert first.value == 1 and np.isnan(first.low)  # by definition: it has no interval
    assert str(make_rows(results, 1)) == str(make_rows(results[::-1], 1))  # as text, in which not-a-numbers are alike


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    rng, held = np.random.default_rng(3), 0
    for _ in range(100):
        repeats = [(10.0, (rng.normal(0.1, 0.01, 40)).tolist()) for _ in range(5)]
        low, high = np.quantile(draw_rates(repeats, rng), (0.025, 0.975))
        held += low < 100 < high
    assert 85 <= held <= 100


def test_repeats_that_differ_widen_the_interval_and_a_single_time_has_none() -> None:
    rng = np.random.default_rng(1)
    alike = draw_rates([(1, [0.1, 0.1001]), (1, [0.1, 0.1001])], rng)
    apart = draw_rates([(1, [0.1, 0.1001]), (1, [0.2, 0.2001])], rng)
    assert np.ptp(alike) < 0.1 and np.ptp(apart) > 4
    assert rate_of([(1, [0.1, 0.1, 9.0]), (2, [0.4])]) == pytest.approx(1 / 0.15)
    assert np.isnan(draw_rates([(1, [0.1])], rng)).all()


# --- the model


def model_results(study: Study, hosts: int) -> list[tuple[Point, dict[str, Any]]]:
    """Weak trainings of 32 ms a step, and allreduces by `LINK`."""
    results = []
    for point in study.points:
        result = result_of(point, 0.032, amount=point.work)
        result["hosts"] = [{"node": f"n{k}", "host": f"h{k % hosts}", "ranks": 1, "cores": 2} for k in range(point.nodes)]
        result["allreduce"] = {"between": {str(s): [fastest(point.nodes, s, LINK)] for s in (4, 10**5, 10**7)}} if point.nodes > 1 else {}
        results.append((point, result))
    return results


def test_the_model_is_fitted_to_the_two_smallest_sizes(tmp_path: Path) -> None:
    study = study_at(tmp_path, replace(ASKED, stages=("train",), modes=("weak",), ranks_per_node=1))
    prediction = fit(model_results(study, hosts=4), threads=1)
    assert prediction is not None and prediction.fitted == (1, 2)
    assert prediction.machine.between.latency == pytest.approx(LINK.latency, rel=0.01)
    assert prediction.rates[1] == pytest.approx(32 / 0.032)
    assert prediction.rates[4] == pytest.approx(4 * 32 / (0.032 + fastest(4, 1e6, LINK)), rel=0.01)
    crowded = fit(model_results(study, hosts=1), threads=1)  # four ranks on two cores of one machine
    assert crowded is not None and 0.4 < crowded.rates[4] / prediction.rates[4] < 0.6
    assert fit([pair for pair in model_results(study, 4) if pair[0].nodes == 1], 1) is None


# --- the report


def test_a_report_of_half_a_study_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = study_at(tmp_path)
    with pytest.raises(InputError, match="no point has been measured"):
        write_report(study)
    for point in study.points[:12]:
        if point.nodes < 4:
            write_json(study.result(point), result_of(point, 0.1, amount=point.work))
    study.folder(study.points[2]).mkdir()
    write_report(study)
    text = capsys.readouterr().out
    assert (tmp_path / "report" / "report.md").read_text().startswith(text.split("\n\n(")[0])
    assert "8 of 24 points measured, 2 ranks a node." in text and "## 16 of 24 points are missing" in text
    assert "- point 2, strong train on 4 nodes x 2 ranks, repeat 1: begun, and not ended or failed" in text
    assert "- point 5, weak train on 4 nodes x 2 ranks, repeat 1: never begun" in text
    assert "file system is not measured" in text and "**4 ranks shared the 2 cores of here" in text
    assert "| 2 | 4 | 1 | 256 | 100.0 | 2,560.0 [2,560.0, 2,560.0] | 0.500 [0.500, 0.500] |" in text
    content = json.loads((tmp_path / "report" / "report.json").read_text())
    assert len(content["rows"]) == 8 and len(content["missing"]) == 16 and content["model"] is None
    assert content["rows"][0]["efficiency"] == {"value": 1.0, "low": None, "high": None}

    write_json(study.result(study.points[0]), {"name": "another"})
    with pytest.raises(FormatError, match=r"is no result of point 0 \(train-strong-1x2-repeat1\)"):
        write_report(study)


def test_nodes_that_are_one_machine_are_crowded() -> None:
    hosts = [{"node": f"n{k}", "host": "one", "ranks": 2, "cores": 4} for k in range(3)]
    point = Point(0, "train", "weak", 3, 2, 1, 6)
    assert most_crowded([(point, {"hosts": hosts})]) == (6, 4, "one")
    assert most_crowded([(point, {"hosts": hosts[:2]})]) is None


# --- all of it, on this machine
