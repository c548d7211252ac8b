"""A study as Slurm jobs: an array for each number of nodes, so that no point holds more nodes than it uses, and a last job that reports."""

from __future__ import annotations

import getpass
import hashlib
import shlex
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hpc_galaxy.bench.scaling.plan import Point, Study
from hpc_galaxy.errors import ConfigError, LaunchError, StageError
from hpc_galaxy.files import write_text
from hpc_galaxy.slurm.queue import ask

PROGRAM = f"{shlex.quote(sys.executable)} -m hpc_galaxy bench"


@dataclass(frozen=True)
class Options:
    """How jobs are submitted.

    Attributes
    ----------
    sbatch, srun : str
        Options for each, as they are typed.
    apart : bool
        Never two points at a time: where they share nodes, or a file system that is to be measured.
    """

    sbatch: str = ""
    srun: str = "--mpi=pmix"
    apart: bool = False

    def __post_init__(self) -> None:
        for name, text in (("--sbatch", self.sbatch), ("--srun", self.srun)):
            if "\n" in text:
                raise ConfigError(name, "has several lines, expected options", "write them in one line")


@dataclass(frozen=True)
class Queued:
    """What of a study waits or runs: Slurm's numbers of its jobs, and the numbers of the points."""

    jobs: set[str]
    points: set[int]


def job_name(study: Study) -> str:
    """Return the name of all jobs of a study, by which its queue is found again."""
    digest = hashlib.sha256(str(study.directory).encode()).hexdigest()[:8]
    return f"scaling-{digest}"


def array_script(study: Study, points: Sequence[Point], options: Options) -> str:
    """Return the batch script of points that take the same number of nodes, a task of a job array each."""
    first = points[0]
    size = f"--nodes={first.nodes} --ntasks-per-node={first.ranks_per_node}"
    numbers = ",".join(str(point.number) for point in points)
    lines = _head(study, options, size, "point-%a.out")
    lines += [
        f"#SBATCH --array={numbers}{'%1' * options.apart}",
        "",
        "# srun no longer takes this from sbatch by itself.",
        'if [ -n "${SLURM_CPUS_PER_TASK:-}" ]; then export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"; fi',
        f"srun {options.srun} {size} --ntasks={first.ranks} --kill-on-bad-exit=1 \\",
        f'    {PROGRAM} point {shlex.quote(str(study.directory))} "$SLURM_ARRAY_TASK_ID"',
    ]
    return "\n".join(lines) + "\n"


def report_script(study: Study, options: Options) -> str:
    """Return the batch script of the report."""
    lines = _head(study, options, "--nodes=1 --ntasks=1", "report.out")
    return "\n".join([*lines, "", f"{PROGRAM} report {shlex.quote(str(study.directory))}"]) + "\n"


def _head(study: Study, options: Options, size: str, output: str) -> list[str]:
    lines = ["#!/bin/bash", f"#SBATCH --job-name={job_name(study)}", f"#SBATCH --output={shlex.quote(str(study.jobs / output))}"]
    # Ours come last: the last of two that contradict each other holds.
    return [*lines, *([f"#SBATCH {options.sbatch}"] if options.sbatch else []), f"#SBATCH {size}"]


def submit(study: Study, options: Options) -> None:
    """Submit what of a study is missing and neither waits nor runs already, and the report behind it.

    Raises
    ------
    LaunchError
        There is no Slurm, or it does not answer.
    StageError
        It has refused some of the jobs; the others are submitted.
    """
    queued = read_queue(study)
    todo = [point for point in study.missing if point.number not in queued.points]
    if queued.points:
        print(f"scaling: {len(queued.points)} points wait or run already", flush=True)
    if not todo and queued.jobs:
        print("scaling: nothing to submit", flush=True)
        return
    sizes = defaultdict(list)
    for point in todo:
        sizes[point.nodes].append(point)
    jobs, refused = sorted(queued.jobs, key=int), []
    for nodes, points in sorted(sizes.items()):
        script = study.jobs / f"nodes-{nodes}.sbatch"
        write_text(script, array_script(study, points, options))
        try:
            jobs.append(_sbatch(script, [f"--dependency=afterany:{jobs[-1]}"] if options.apart and jobs else []))
            print(f"scaling: job {jobs[-1]}: {len(points)} points on {nodes} node{'s' * (nodes > 1)} ({script})", flush=True)
        except LaunchError as error:
            refused.append(f"\n  {script.name}: {error.problem}")
    script = study.jobs / "report.sbatch"
    write_text(script, report_script(study, options))
    if len(refused) < len(sizes) or not sizes:
        job = _sbatch(script, [f"--dependency=afterany:{':'.join(jobs)}"] if jobs else [])
        print(f"scaling: job {job}: the report, when they have ended, however they end ({script})", flush=True)
    if refused:
        problem = f"{len(refused)} of {len(sizes)} job arrays were refused:{''.join(refused)}\n"
        raise StageError("sbatch", problem, "mend --sbatch and run the command again: it submits what is missing")


def read_queue(study: Study) -> Queued:
    """Return what of a study waits or runs.

    Raises
    ------
    LaunchError
        There is no Slurm, or it does not answer.
    """
    # One line a task of an array; the second column of other jobs is N/A.
    command = ["squeue", "--noheader", "--array", f"--user={getpass.getuser()}", f"--name={job_name(study)}", "--format=%F %K"]
    lines = [line.split() for line in ask(command).splitlines()]
    return Queued({job for job, _ in lines}, {int(number) for _, number in lines if number.isdigit()})


def _sbatch(script: Path, options: Sequence[str]) -> str:
    """Submit a script, and return the job's number."""
    return ask(["sbatch", "--parsable", *options, str(script)]).strip().split(";")[0]
