"""Site profiles, job scripts, and requests that are refused before anything is submitted."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from hpc_galaxy.errors import ConfigError, HpcGalaxyError, InputError, LaunchError, StageError
from hpc_galaxy.files import write_json
from hpc_galaxy.slurm import queue, submit
from hpc_galaxy.slurm.queue import GONE, job_states
from hpc_galaxy.slurm.script import Job, render
from hpc_galaxy.slurm.site import STAGES, list_sites, load_site
from hpc_galaxy.slurm.status import describe, examine, read_log
from hpc_galaxy.slurm.submit import CHAIN, Request, make_jobs, stages_of

CHECKOUT = Path(__file__).resolve().parents[2]


def renderer() -> ModuleType:
    """Return the script that writes jobs/."""
    spec = importlib.util.spec_from_file_location("render_jobs", CHECKOUT / "scripts" / "render_jobs.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_jobs_are_what_the_profiles_say() -> None:
    scripts = renderer().render_all()
    found = {str(path.relative_to(CHECKOUT / "jobs")): path.read_text() for path in (CHECKOUT / "jobs").rglob("*.sh")}
    assert sorted(found) == sorted(scripts)
    changed = [name for name in scripts if scripts[name] != found[name]]
    assert not changed, "run: .venv/bin/python scripts/render_jobs.py jobs"


@pytest.mark.parametrize("name", list_sites())
def test_every_profile_says_why_and_where_from(name: str) -> None:
    site = load_site(name)
    for line in (site.launcher, *site.directive, *site.setup, *site.environment):
        assert line.why and (line.source.startswith(("https://", "http://")) or not line.source)
    for stage in STAGES:
        assert 1 <= site.ranks_per_node(stage) <= site.cores_per_node
    if site.gpus_per_node:
        assert site.ranks_per_node("train") == site.gpus_per_node


def job(stage: str = "train", **changes: Any) -> Job:
    return Job(stage, load_site("generic-slurm"), 3, "00:30:00", "", Path("/data/a run/run.toml"), **changes)


def test_a_script_asks_for_what_it_starts() -> None:
    script = render(job(overrides=["train.epochs=2", "paths.run='other run'"]), "hpc-galaxy submit")
    site = load_site("generic-slurm")
    lines = script.splitlines()
    assert "#SBATCH --nodes=3" in lines and f"#SBATCH --ntasks-per-node={site.ranks.train}" in lines
    assert f"#SBATCH --cpus-per-task={site.cores_per_node // site.ranks.train}" in lines
    assert "cd '/data/a run'" in lines
    assert "    hpc-galaxy train -c run.toml --set train.epochs=2 --set 'paths.run='\"'\"'other run'\"'\"'' &" in lines
    assert 'kill -USR1 "$step"' in script and 'kill -TERM "$step"' in render(job("extract"), "hpc-galaxy submit")


@pytest.mark.parametrize(("limit", "lead"), [("00:01:00", 15), ("00:06:00", 90), ("04:00:00", 120), ("1-00:00:00", 120)])
def test_the_warning_leaves_most_of_a_short_limit_to_the_work(limit: str, lead: int) -> None:
    script = render(replace(job(), time=limit), "hpc-galaxy submit")
    assert f"#SBATCH --signal=B:USR1@{lead}" in script.splitlines()


def test_an_array_shares_the_bricks_and_one_job_completes_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jobs = make_jobs(request(tmp_path, array=16))
    assert [(one.stage, one.array, one.nodes) for one in jobs[:3]] == [("extract", 16, 2), ("extract", 0, 1), ("split", 0, 2)]
    script = render(jobs[0], "hpc-galaxy submit").splitlines()
    assert "#SBATCH --array=1-16" in script and any(line.endswith("/%x-%A_%a.log") for line in script)
    assert any(line.endswith('hpc_galaxy extract -c run.toml --part "$SLURM_ARRAY_TASK_ID/16" &') for line in script)
    assert "--part" not in render(jobs[1], "hpc-galaxy submit")


def test_pbs_is_told_ranks_by_the_launcher() -> None:
    script = render(Job("train", load_site("aurora"), 3, "00:30:00", "abc", Path("/data/run.toml")), "hpc-galaxy submit")
    assert "#PBS -l select=3" in script and "#PBS -A abc" in script and "SBATCH" not in script
    assert "-n 18 " in script and "{ranks" not in script


def request(tmp_path: Path, stage: str = "all", **changes: Any) -> Request:
    (tmp_path / "run.toml").touch()
    values = {"site": "generic-slurm", "nodes": 2, "time": "01:00:00", "account": "", "config": tmp_path / "run.toml"}
    return Request(stages_of(stage), **{**values, **changes})


def test_the_chain_is_extract_to_realism_and_a_report_takes_one_node(tmp_path: Path) -> None:
    jobs = make_jobs(request(tmp_path))
    assert [(one.stage, one.nodes) for one in jobs] == [("extract", 2), ("split", 2), ("train", 2), ("realism", 1)]
    assert tuple(one.stage for one in jobs) == CHAIN


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"stage": "trian"}, "unknown stage 'trian', expected one of survey, "),
        ({"site": "perlmutter"}, "unknown site 'perlmutter', expected one of aurora, "),
        ({"site": "perlmutter-cpu"}, "--account: is missing, and jobs on perlmutter-cpu need one"),
        ({"time": "90"}, "got '90', expected HH:MM:SS"),
        ({"array": 1}, "--array: got 1, expected 2 to 1,000; one job of more --nodes"),
        ({"array": 1001}, "--array: got 1001, expected 2 to 1,000"),
        ({"array": 4, "stage": "train"}, "--array: got with 'train', expected 'extract' or 'all'"),
        ({"array": 4, "site": "aurora", "account": "a"}, "--array: got on aurora, which has pbs, expected Slurm"),
        ({"time": "00:00:59"}, "got '00:00:59', expected 00:01:00 or more"),
        ({"overrides": ("train.epoch=1",)}, "unknown key 'train.epoch'"),
        ({"config": Path("none.toml")}, "no such file"),
        ({"site": "none.toml"}, "cannot be read"),
    ],
)
def test_what_cannot_work_is_refused_beforehand(tmp_path: Path, changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        submit.submit(request(tmp_path, **changes))
    assert not (tmp_path / "jobs").exists()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (("scheduler =", "sheduler ="), r"'scheduler': Field required|'sheduler': Extra inputs"),
        (("cores_per_node = ", "cores_per_node = -"), "'cores_per_node': Input should be greater"),
        (('scheduler = "', "scheduler = "), "not TOML"),
    ],
)
def test_a_profile_that_is_wrong_is_refused(tmp_path: Path, change: tuple[str, str], complaint: str) -> None:
    profile = (CHECKOUT / "hpc_galaxy" / "slurm" / "sites" / "generic-slurm.toml").read_text()
    (tmp_path / "my.toml").write_text(profile.replace(*change))
    with pytest.raises(ConfigError, match=complaint):
        load_site(str(tmp_path / "my.toml"))


def test_a_dry_run_shows_and_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    submit.submit(request(tmp_path), dry_run=True)
    assert capsys.readouterr().out.count("#!/bin/bash\n") == 4
    assert [path.name for path in tmp_path.iterdir()] == ["run.toml"]


def scheduler(states: dict[str, str]) -> Callable[[list[str]], str]:
    """A scheduler that gives numbers to jobs, and knows the states of some."""
    numbers = iter(range(1, 100))

    def ask(command: list[str]) -> str:
        if command[0] == "sbatch":
            return f"{next(numbers)};cluster\n"
        if command[-1] not in states:
            raise LaunchError(command[0], "Invalid job id specified", "")
        return f"JobId={command[-1]} JobState={states[command[-1]]} Reason=None\n"

    return ask


def test_a_stage_is_not_submitted_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    states: dict[str, str] = {}
    monkeypatch.setattr(queue, "ask", scheduler(states))
    monkeypatch.setattr(sys, "argv", ["hpc-galaxy", "submit"])
    submit.submit(request(tmp_path))
    states |= {"3": "PENDING", "1": "COMPLETED"}
    with pytest.raises(StageError, match="submit train: job 3 of the same stage and output is PENDING"):
        submit.submit(request(tmp_path, stage="train"))
    submit.submit(request(tmp_path, stage="extract"))
    submit.submit(request(tmp_path, stage="train", overrides=["paths.run=run2"]))
    states["3"] = "FAILED"
    submit.submit(request(tmp_path, stage="train"))
    assert [entry["job"] for entry in submit.read_record(tmp_path / "jobs")] == ["1", "2", "3", "4", "5", "6", "7"]


def test_a_stage_waits_for_what_is_still_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    states: dict[str, str] = {}
    monkeypatch.setattr(queue, "ask", scheduler(states))
    monkeypatch.setattr(sys, "argv", ["hpc-galaxy", "submit"])
    submit.submit(request(tmp_path, stage="survey"))
    states["1"] = "RUNNING"
    submit.submit(request(tmp_path, stage="inject"))
    states["2"] = "PENDING"
    submit.submit(request(tmp_path))
    said = capsys.readouterr().out
    assert "job 2: inject on 2 nodes, after 1 (" in said and "job 3: extract on 2 nodes, after 1, 2 (" in said
    assert "job 4: split on 2 nodes, after 3 (" in said and "realism on 1 node, after 5 (" in said
    states |= {"1": "COMPLETED", "2": "FAILED"}
    submit.submit(request(tmp_path, stage="split"))
    assert re.search(r"job \d+: split on 2 nodes \(", capsys.readouterr().out)


def test_an_array_is_as_its_parts_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = ["COMPLETED", "FAILED", "RUNNING"]
    monkeypatch.setattr(queue, "ask", lambda command: "\n".join(f"JobId=7 JobState={state} Reason=None" for state in parts))
    assert job_states(["7"], "slurm") == {"7": "RUNNING"}
    parts.pop()
    assert job_states(["7"], "slurm") == {"7": "FAILED"}
    monkeypatch.setattr(queue, "ask", scheduler({}))
    monkeypatch.setattr(sys, "argv", ["hpc-galaxy", "submit"])
    submit.submit(request(tmp_path, stage="extract", array=3))
    for part, text in enumerate(["hpc-galaxy: error: a: bad\n", "", "extract 3/3: 2 bricks\n"], start=1):
        (tmp_path / "jobs" / f"hpc-galaxy-extract-1_{part}.log").write_text(text)
    first, second = examine(tmp_path)
    assert (first.job, second.job) == ("1_[1-3]", "2")
    assert (first.said, first.error) == ("extract 3/3: 2 bricks", "hpc-galaxy: error: a: bad")


def test_status_says_the_last_error_of_what_is_not_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "ask", scheduler({"1": "COMPLETED", "2": "FAILED"}))
    monkeypatch.setattr(sys, "argv", ["hpc-galaxy", "submit"])
    submit.submit(request(tmp_path))
    write_json(tmp_path / "cutouts" / "ledger.json", {})
    (tmp_path / "jobs" / "hpc-galaxy-extract-1.log").write_text("hpc-galaxy: error: at first\nextract: 7 cutouts\n")
    (tmp_path / "jobs" / "hpc-galaxy-split-2.log").write_text("rank 3: MemoryError\nhpc-galaxy: error: disk: full\nprterun has exited\n")
    lines = examine(tmp_path)
    assert [(line.stage, line.state, line.done) for line in lines][:2] == [("extract", "COMPLETED", True), ("split", "FAILED", False)]
    assert lines[2].state == GONE
    assert describe(lines)[5:] == ["extract: 7 cutouts", "split: last error: hpc-galaxy: error: disk: full"]
    assert read_log(tmp_path / "none") == ("", "")


@pytest.mark.parametrize(
    ("log", "error"),
    [
        ("rank 1: RuntimeError: a bug\nsrun: error: n2: task 0: Killed\n", "rank 1: RuntimeError: a bug"),
        ("srun: error: n2: task 1: Killed\nslurmstepd: error: *** STEP 5.0 ON n1 CANCELLED AT 1 ***\n", "srun: error: n2: task 1: Killed"),
        ("srun: error: Node failure on n2\nsrun: error: n1: task 0: Killed\n", "srun: error: Node failure on n2"),
        ("srun: error: n2: task 1: Killed\nsrun: launch/slurm: ending\n", "srun: error: n2: task 1: Killed"),
        ("slurmstepd: error: *** JOB 4 ON n1 CANCELLED AT 1 DUE TO JOB REQUEUE ***\n", ""),
        ("slurmstepd-n1: error: *** JOB 4 ON n1 CANCELLED AT 1 ***\n", "slurmstepd-n1: error: *** JOB 4 ON n1 CANCELLED AT 1 ***"),
        ("srun: error: n2: task 1: Exited with exit code 75\n", ""),
        (
            "hpc-galaxy: train: stopped by SIGTERM after x\nsrun: error: n2: task 1: Killed\n",
            "hpc-galaxy: train: stopped by SIGTERM after x",
        ),
    ],
)
def test_the_reason_is_the_ranks_or_slurms(tmp_path: Path, log: str, error: str) -> None:
    (tmp_path / "log").write_text(log)
    assert read_log(tmp_path / "log") == (log.splitlines()[0] if log.startswith(("rank", "hpc")) else "", error)


def test_status_is_in_the_pipelines_order_and_says_why_a_job_waits_or_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "ask", scheduler({}))
    monkeypatch.setattr(sys, "argv", ["hpc-galaxy", "submit"])
    submit.submit(request(tmp_path, stage="realism"))
    submit.submit(request(tmp_path, stage="train"))
    reasons = {
        "1": "PartitionTimeLimit Dependency=(null) StartTime=Unknown",
        "2": "BeginTime Dependency=(null) StartTime=2026-11-25T17:11:47",
    }
    monkeypatch.setattr(queue, "ask", lambda command: f"JobId={command[-1]} JobState=PENDING Reason={reasons[command[-1]]} EndTime=Unknown")
    said = "hpc-galaxy: train: stopped by SIGUSR1 after epoch 1, step 7; start the same command again\n"
    (tmp_path / "jobs" / "hpc-galaxy-train-2.log").write_text(said)
    rows = [row.split(maxsplit=2)[2] for row in describe(examine(tmp_path))[1:3]]
    assert rows == [
        f"PENDING (BeginTime 2026-11-25 17:11:47) no    {tmp_path}/run",
        f"PENDING (PartitionTimeLimit)            no    {tmp_path}/report",
    ]
    assert describe(examine(tmp_path))[3] == "train: stopped by SIGUSR1 after epoch 1, step 7; start the same command again"


def test_nothing_submitted_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        examine(tmp_path)


def test_a_machine_without_a_scheduler_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HpcGalaxyError, match="sbatch: not found on PATH"):
        submit.submit(request(tmp_path))
    assert job_states(["1"], "pbs") == {"1": GONE}


def test_of_ranks_that_were_killed_the_first_since_the_last_start_is_named(tmp_path: Path) -> None:
    """Slurm kills the others because of it."""
    killed = "srun: error: n2: task 1: Killed\nsrun: error: n1: task 0: Killed\n"
    later = "job 4, start 2, x\nsrun: error: n3: task 2: Killed\nsrun: error: n1: task 0: Killed\n"
    for log, rank in ((killed, "n2: task 1"), (killed + "job 4, start 2, x\n", "n1: task 0"), (killed + later, "n3: task 2")):
        (tmp_path / "log").write_text(f"job 4, start 1, x\n{log}")
        assert read_log(tmp_path / "log")[1] == f"srun: error: {rank}: Killed"
