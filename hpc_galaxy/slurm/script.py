"""A stage as a job script: readable, with the reason for each line, and fit to be edited by hand."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TypeVar

from hpc_galaxy.slurm.site import Line, Site, Variable

LEAD = 4  # the warning comes at the last quarter of a limit, or later
T = TypeVar("T", Line, Variable)
WARNINGS = {
    "USR1": "It passes that on to the\n# ranks, which save together and leave with exit code 75.",
    "TERM": "It ends the ranks;\n# what was written is whole, and the job, started again, does what is missing.",
}


@dataclass(frozen=True)
class Job:
    """A stage on so many nodes.

    Attributes
    ----------
    stage : str
        A verb of ``hpc-galaxy``.
    site : Site
        Where.
    nodes : int
        So many.
    time : str
        Its limit, ``HH:MM:SS``.
    account : str
        What it is charged to; empty: the user's default.
    config : Path
        The configuration; the job runs in its directory.
    overrides : sequence of str
        ``section.key=value``.
    program : str
        How ``hpc-galaxy`` is called.
    restarts : int
        How often it is queued again at most.
    array : int
        An array of so many such jobs, which share the stage's bricks; 0: one job.
    label : str
        Tells it from other jobs of this stage.
    """

    stage: str
    site: Site
    nodes: int
    time: str
    account: str
    config: Path
    overrides: Sequence[str] = ()
    program: str = "hpc-galaxy"
    restarts: int = 100
    array: int = 0
    label: str = ""

    @property
    def ranks_per_node(self) -> int:
        """MPI ranks."""
        return self.site.ranks_per_node(self.stage)

    @property
    def threads(self) -> int:
        """Cores of each rank."""
        return max(1, self.site.cores_per_node // self.ranks_per_node)

    @property
    def warning_seconds(self) -> int:
        """How long before the limit Slurm warns: the site's time, less where the limit is short (Slurm itself may be 30 s early)."""
        return min(self.site.warning_seconds, limit_seconds(self.time) // LEAD)

    @property
    def folder(self) -> Path:
        """Where scripts, logs and the record of jobs go: beside the configuration."""
        return self.config.absolute().parent / "jobs"

    @property
    def stem(self) -> str:
        """What its script and its log are called."""
        return f"{self.stage}-{self.label}" if self.label else self.stage

    @property
    def name(self) -> str:
        """The job's name in the queue."""
        return f"hpc-galaxy-{self.stem}"


def render(job: Job, command: str) -> str:
    """Return the script of a job.

    Parameters
    ----------
    job : Job
        What it does.
    command : str
        What the user has typed to get it.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, undefined=StrictUndefined)
    environment.filters["quote"] = shlex.quote
    text = resources.files("hpc_galaxy.slurm").joinpath("templates", "job.sh.j2").read_text()
    site, slurm = job.site, job.site.scheduler == "slurm"
    share = f' --part "$SLURM_ARRAY_TASK_ID/{job.array}"' if job.array else ""
    options = [part for override in job.overrides for part in ("--set", override)]
    signal = "USR1" if job.stage == "train" else "TERM"
    return environment.from_string(text).render(
        job=job,
        site=site,
        command=command,
        directory=str(job.config.absolute().parent),
        prefix="SBATCH" if slurm else "PBS",
        directives=for_stage(site.directive, job.stage),
        setup=for_stage(site.setup, job.stage),
        environment=for_stage(site.environment, job.stage),
        standard=slurm_lines(job) if slurm else pbs_lines(job),
        launcher=site.launcher.line.replace("{ranks}", str(job.nodes * job.ranks_per_node)).replace(
            "{ranks_per_node}", str(job.ranks_per_node)
        ),
        program=f"{job.program} {shlex.join([job.stage, '-c', job.config.name, *options])}{share}",
        signal=signal,
        warning=WARNINGS[signal],
    )


def limit_seconds(time: str) -> int:
    """Return a limit, ``[D-]HH:MM:SS``, in seconds."""
    days, _, clock = time.rpartition("-")
    hours, minutes, seconds = map(int, clock.split(":"))
    return int(days or 0) * 86_400 + hours * 3600 + minutes * 60 + seconds


def for_stage(lines: Sequence[T], stage: str) -> list[T]:
    """Return those lines that are for a stage."""
    return [one for one in lines if not one.stages or stage in one.stages]


def slurm_lines(job: Job) -> list[str]:
    """Return what every script says to Slurm."""
    return [
        f"--job-name={job.name}",
        f"--nodes={job.nodes}",
        f"--ntasks-per-node={job.ranks_per_node}",
        f"--cpus-per-task={job.threads}",
        f"--time={job.time}",
        *([f"--account={job.account}"] if job.account else []),
        *([f"--array=1-{job.array}"] if job.array else []),
        f"--output={job.folder}/%x-{'%A_%a' if job.array else '%j'}.log",
        "--open-mode=append",
        "--requeue",
        f"--signal=B:USR1@{job.warning_seconds}",
    ]


def pbs_lines(job: Job) -> list[str]:
    """Return what every script says to PBS."""
    return [
        f"-N {job.name}",
        f"-l select={job.nodes}",
        f"-l walltime={job.time}",
        *([f"-A {job.account}"] if job.account else []),
        "-j oe",
        f"-o {job.folder}/{job.name}.log",
    ]
