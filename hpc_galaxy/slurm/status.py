"""``hpc-galaxy status``: how the jobs of a run are, stage by stage."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hpc_galaxy.config import Config, load_config
from hpc_galaxy.errors import InputError
from hpc_galaxy.files import shown
from hpc_galaxy.ledger import LEDGER
from hpc_galaxy.slurm.queue import job_states, why_waiting
from hpc_galaxy.slurm.site import STAGES, load_site
from hpc_galaxy.slurm.submit import OUTPUT, RECORD, read_record
from hpc_galaxy.training.networks import network_path

MARKER = {"train": "DONE", "realism": "report.json"}
"""The file in a stage's output that says that it is complete, where it is not the ledger."""
STOPPED = re.compile(r"^hpc-galaxy: (.*: stopped by .*)$")
OURS = re.compile(
    r"^(hpc-galaxy: .*: stopped by .*|hpc-galaxy: error: .*|hpc-galaxy: watchdog: .*the job ends here.*|rank \d+: \w*(Error|Exception).*)$",
    re.MULTILINE,
)
LOST = re.compile(r"^(.*DUE TO (TIME LIMIT|NODE FAILURE).*|srun: error: Node failure.*)$", re.MULTILINE)
KILLED = re.compile(r"^srun: error: .*: (Killed|Out Of Memory)$", re.MULTILINE)
CANCELLED = re.compile(r"^slurmstepd\S*: error: (?!.*JOB REQUEUE).*$", re.MULTILINE)
REASONS = (OURS, LOST, KILLED, CANCELLED)
"""What says why a job has ended, in the order of how much it says: a step is also cancelled because a rank was killed."""
START = re.compile(r"^job \S+, start \d+", re.MULTILINE)
TAIL_BYTES = 100_000


@dataclass(frozen=True)
class Line:
    """How a stage is.

    Attributes
    ----------
    stage, job, state : str
        The newest job of the stage, and its state in the scheduler's words; of one that waits, also why.
    done : bool
        Whether the stage is complete: its own marker counts, not what a job's exit code says.
    said, error : str
        The last line of its log, and the last error in it.
    output : str
        The directory that it writes.
    """

    stage: str
    job: str
    state: str
    done: bool
    said: str
    error: str
    output: str


def status(run: Path) -> None:
    """Print how the jobs are that were submitted from a directory.

    Parameters
    ----------
    run : Path
        Where the configuration lies, with ``jobs/`` beside it.

    Raises
    ------
    InputError
        Nothing has been submitted from there.
    """
    print("\n".join(describe(examine(run))), flush=True)


def examine(run: Path) -> list[Line]:
    """Return how each submitted stage is."""
    folder = run / "jobs"
    record = read_record(folder)
    if not record:
        raise InputError(folder / RECORD, "no such file", "give the directory of the configuration that 'hpc-galaxy submit -c' was given")
    newest = {(str(entry["stage"]), str(entry.get("output", "")), "array" in entry): entry for entry in record}
    lines = []
    for (stage, output, is_array), entry in newest.items():
        job, site = str(entry["job"]), load_site(str(entry["site"]))
        label = f"-{entry['label']}" if "label" in entry else ""
        stem = f"hpc-galaxy-{stage}{label}"
        name = f"{stem}-{job}{'_*' if is_array else ''}.log" if site.scheduler == "slurm" else f"{stem}.log"
        said, error = read_logs(sorted(folder.glob(name)))
        config = load_config(Path(str(entry["config"])), [str(one) for one in _sequence(entry["overrides"])])
        number = f"{job}_[1-{entry['array']}]" if is_array else job
        lines.append(Line(stage, number, _state(job, site.scheduler), is_done(config, stage), said, error, output))
    return sorted(lines, key=lambda line: STAGES.index(line.stage))


def _state(job: str, scheduler: str) -> str:
    state = job_states([job], scheduler)[job]
    why = why_waiting(job, scheduler) if state == "PENDING" else ""
    return f"{state} ({why})" if why else state


def _sequence(value: object) -> Sequence[object]:
    return value if isinstance(value, list) else ()


def is_done(config: Config, stage: str) -> bool:
    """Return whether a stage's outputs are complete."""
    directory: Path = getattr(config.paths, OUTPUT[stage])
    several = config.train.networks if stage == "train" else 1
    return all((network_path(directory, number) / MARKER.get(stage, LEDGER)).exists() for number in range(1, several + 1))


def read_logs(paths: Sequence[Path]) -> tuple[str, str]:
    """Return the last line of some logs, and the last error in any of them; see `read_log`."""
    found = [read_log(path) for path in paths]
    said, errors = ([text for text in texts if text] for texts in zip(*found, strict=True)) if found else ([], [])
    return said[-1] if said else "", errors[-1] if errors else ""


def read_log(path: Path) -> tuple[str, str]:
    """Return the last line of a log, and the last error in it; nothing where there is no log yet."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return "", ""
    # What Slurm says of a job that it queues again hides what the ranks have said.
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith(("srun: ", "slurmstepd"))]
    errors = [found for found in (_last(reason, text) for reason in REASONS) if found]
    return lines[-1] if lines else "", errors[0] if errors else ""


def _last(reason: re.Pattern[str], text: str) -> str:
    """Return the last line with such a reason. Of ranks killed since the last start it is the first: Slurm has killed the others."""
    found = [match[0] for match in reason.finditer(text)]
    if reason is KILLED and found:
        begun = max((match.start() for match in START.finditer(text)), default=0)
        since = reason.search(text, begun)
        return since[0] if since else found[-1]
    return found[-1] if found else ""


def _shown(line: Line) -> str:
    return shown(Path(line.output)) if line.output else ""


def describe(lines: Sequence[Line]) -> list[str]:
    """Return a table, and below it what each stage said last; an error only where the stage is not done."""
    width = max(16, *(len(line.state) for line in lines))
    table = [f"{'stage':8} {'job':>10}  {'state':{width}} {'done':4}  output"]
    table += [f"{line.stage:8} {line.job:>10}  {line.state:{width}} {'yes' if line.done else 'no':4}  {_shown(line)}" for line in lines]
    for line in lines:
        if line.error and not line.done:
            stopped = STOPPED.match(line.error)
            table.append(f"{line.stage}: {stopped[1].removeprefix(f'{line.stage}: ') if stopped else f'last error: {line.error}'}")
        elif line.said:
            table.append(f"{line.stage}: {line.said.removeprefix(f'{line.stage}: ')}")
    return table
