"""``hpc-galaxy submit``: a stage, or the whole chain, as jobs in the queue."""

from __future__ import annotations

import re
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hpc_galaxy.config import load_config
from hpc_galaxy.errors import ConfigError, StageError
from hpc_galaxy.files import lock, read_json, shown, write_json, write_text
from hpc_galaxy.slurm.queue import ACTIVE, job_states, submit_script
from hpc_galaxy.slurm.script import Job, limit_seconds, render
from hpc_galaxy.slurm.site import STAGES, Site, load_site

CHAIN = ("extract", "split", "train", "realism")
OUTPUT = {"survey": "survey", "inject": "obiwan", "extract": "cutouts", "split": "shards", "train": "run", "realism": "report"}
"""Of each stage: which of the configuration's paths it writes."""
RECORD = "jobs.json"
SHORTEST = 60
LONGEST_ARRAY = 1000  # Slurm's MaxArraySize, where a site has not changed it
TIME = re.compile(r"(\d+-)?\d{1,2}:\d{2}:\d{2}")


@dataclass(frozen=True)
class Request:
    """What the user asks for.

    Attributes
    ----------
    stages : sequence of str
        Of `STAGES`, each when the one before has ended well.
    site, time, account : str
        Where, how long (``HH:MM:SS``), and what is charged.
    nodes : int
        For each stage; the report takes one.
    config : Path
        The configuration.
    overrides : sequence of str
        On top of it.
    restarts : int
        How often a job is queued again at most.
    array : int
        Extract in so many jobs side by side, and complete it in one more; 0: in one.
    label : str
        Tells these jobs from others of the same stages.
    """

    stages: Sequence[str]
    site: str
    nodes: int
    time: str
    account: str
    config: Path
    overrides: Sequence[str] = ()
    restarts: int = 100
    array: int = 0
    label: str = ""


def stages_of(word: str) -> tuple[str, ...]:
    """Return the stages that a word of the command line stands for: one of `STAGES`, or ``all``, which is `CHAIN`.

    Raises
    ------
    ConfigError
        It is neither.
    """
    known = (*STAGES, "all")
    if word not in known:
        raise ConfigError("submit", f"unknown stage '{word}', expected one of {', '.join(known)}", "choose one of them")
    return CHAIN if word == "all" else (word,)


def submit(request: Request, dry_run: bool = False) -> None:
    """Write the scripts of a request into ``jobs/`` beside its configuration, and submit them; or only show them.

    Raises
    ------
    ConfigError
        The configuration, the site or an option is not as it has to be.
    LaunchError
        The scheduler is missing, or refuses.
    StageError
        One of the stages waits or runs already.
    """
    jobs = make_jobs(request)
    if dry_run:
        print("\n".join(render(job, typed()) for job in jobs), end="")
        return
    folder = jobs[0].folder
    folder.mkdir(parents=True, exist_ok=True)
    with lock(folder / ".lock"):
        record = read_record(folder)
        refuse_twice(record, jobs)
        after = still_made(record, jobs[0])
        for job in jobs:
            script = folder / f"{job.stem}{'-array' if job.array else ''}.sh"
            write_text(script, render(job, typed()))
            number = submit_script(script, job.site.scheduler, after)
            record.append(entry(request, job, number))
            write_json(folder / RECORD, record)
            what = job.stage + (f" in {job.array} parts of" if job.array else " on") + f" {job.nodes} node{'s' * (job.nodes != 1)}"
            what += f", after {', '.join(after)}" if after else ""
            print(f"submit: job {number}: {what} ({shown(script)})", flush=True)
            after = [number]
    print(f"submit: 'hpc-galaxy status {shown(folder.parent)}' says how they are", flush=True)


def entry(request: Request, job: Job, number: str) -> dict[str, object]:
    """Return what is recorded of a job."""
    site = request.site if not request.site.endswith(".toml") else str(Path(request.site).absolute())
    asked: dict[str, object] = {"config": str(job.config.absolute()), "overrides": list(job.overrides)}
    asked |= {"array": job.array} if job.array else {}
    asked |= {"label": job.label} if job.label else {}
    known = {"stage": job.stage, "job": number, "site": site, "nodes": job.nodes, "output": output(job)}
    return {**known, "submitted": time.strftime("%F %T"), **asked}


def output(job: Job) -> str:
    """Return the directory that a job writes."""
    return str(getattr(load_config(job.config, job.overrides).paths, OUTPUT[job.stage]))


def make_jobs(request: Request) -> list[Job]:
    """Return the jobs of a request, after everything that can be checked beforehand has been."""
    site = load_site(request.site)
    if not TIME.fullmatch(request.time):
        raise ConfigError("--time", f"got '{request.time}', expected HH:MM:SS", "for example --time 04:00:00")
    if limit_seconds(request.time) < SHORTEST:
        raise ConfigError("--time", f"got '{request.time}', expected 00:01:00 or more", "Slurm counts a limit in minutes")
    if site.account and not request.account:
        raise ConfigError("--account", f"is missing, and jobs on {site.name} need one", "give --account NAME")
    if request.array:
        require_array(request, site)
    load_config(request.config, request.overrides)
    program = site.program or f"{shlex.quote(sys.executable)} -m hpc_galaxy"
    job = Job("", site, request.nodes, request.time, request.account, request.config, request.overrides, program, request.restarts)
    job = replace(job, label=request.label)
    jobs = [replace(job, stage=stage, nodes=1 if stage == "realism" else request.nodes) for stage in request.stages]
    if not request.array:
        return jobs
    # What the array has cut is looked through, and its ledger written, by one job of the same stage.
    return [replace(jobs[0], array=request.array), replace(jobs[0], nodes=1), *jobs[1:]]


def require_array(request: Request, site: Site) -> None:
    """Refuse an array of what cannot be shared by jobs.

    Raises
    ------
    ConfigError
        It is none of bricks, it is too small or too large, or the scheduler is not Slurm.
    """
    if request.stages[0] != "extract":
        raise ConfigError(
            "--array", f"got with '{request.stages[0]}', expected 'extract' or 'all'", "only bricks are shared by jobs; give --nodes"
        )
    if not 2 <= request.array <= LONGEST_ARRAY:
        remedy = "one job of more --nodes deals bricks out evenly; an array suits queues where small jobs start earlier"
        raise ConfigError("--array", f"got {request.array}, expected 2 to {LONGEST_ARRAY:,}", remedy)
    if site.scheduler != "slurm":
        raise ConfigError("--array", f"got on {site.name}, which has {site.scheduler}, expected Slurm", "give --nodes")


def read_record(folder: Path) -> list[dict[str, object]]:
    """Return what has been submitted from a folder, the oldest first."""
    path = folder / RECORD
    return list(read_json(path, "hpc-galaxy submit")) if path.exists() else []


def refuse_twice(record: Sequence[dict[str, object]], jobs: Sequence[Job]) -> None:
    """Refuse to submit a stage that waits or runs already, with the same output.

    Raises
    ------
    StageError
        One does.
    """
    outputs = {job.stage: output(job) for job in jobs}
    numbers = {str(one["job"]): str(one["stage"]) for one in record if one.get("output") == outputs.get(str(one["stage"]))}
    for number, state in job_states(list(numbers), jobs[0].site.scheduler).items():
        if state in ACTIVE:
            problem = f"job {number} of the same stage and output is {state}, expected none"
            remedy = "it ends: try again in some seconds" if state == "COMPLETING" else f"wait for it, or 'scancel {number}'"
            raise StageError(f"submit {numbers[number]}", problem, remedy)


def still_made(record: Sequence[dict[str, object]], first: Job) -> list[str]:
    """Return the jobs that wait or run and make what the first new job reads."""
    paths = load_config(first.config, first.overrides).paths
    read = {str(getattr(paths, OUTPUT[stage])) for stage in STAGES[: STAGES.index(first.stage)]}
    numbers = [str(one["job"]) for one in record if one["output"] in read]
    return [number for number, state in job_states(numbers, first.site.scheduler).items() if state in ACTIVE]


def typed() -> str:
    """Return the command that the user has typed."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
