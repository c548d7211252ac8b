"""``hpc-galaxy controls`` and ``replicate-2018``: which arms, where, and what comes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hpc_galaxy.config import Config, load_config
from hpc_galaxy.errors import InputError, StageError
from hpc_galaxy.files import shown
from hpc_galaxy.shards.manifest import load_manifest
from hpc_galaxy.slurm.submit import Request, submit
from hpc_galaxy.studies.arms import Arm
from hpc_galaxy.studies.collect import collect, put_into_report
from hpc_galaxy.studies.controls import controls
from hpc_galaxy.studies.replicate import replicate
from hpc_galaxy.studies.run import VERBS, Study, run_arms, select

TITLES = {"controls": "negative and positive controls, single bands, a deeper network", "replicate": "the test as it was done in 2018"}


@dataclass(frozen=True)
class Here:
    """How arms run on this machine.

    Attributes
    ----------
    ranks, at_once : int
        MPI ranks of a stage, and how many arms run side by side.
    every : bool
        Whether a defect's stronger arms are run as well once a weaker one was found.
    """

    ranks: int = 2
    at_once: int = 1
    every: bool = False


def make_study(name: str, config: Path, asked: Sequence[str], only: Sequence[str]) -> Study:
    """Return a study of the survey that a configuration describes.

    Raises
    ------
    InputError
        The survey was not taken through the stages yet, or `only` names what is not there.
    """
    settings = load_config(config, asked)
    arms = _arms(name, settings)
    chosen = frozenset(arm.name for arm in select(arms, only, VERBS[name]))
    return Study(name, arms, getattr(settings.paths, name), config, asked, chosen)


def _arms(name: str, settings: Config) -> list[Arm]:
    report = settings.paths.report / "report.json"
    if not report.exists():
        raise InputError(report, "no such file", "run the stages up to 'realism' first: controls are compared with its result")
    return controls(load_manifest(settings.paths.shards).stamps) if name == "controls" else replicate()


def show(study: Study) -> None:
    """Print the arms, and which of them have a result."""
    for arm in study.chosen:
        stages = " ".join(arm.stages)
        print(f"{arm.name:18} {arm.kind:9} {'done' if study.result(arm) else '-':5} {stages:38} {arm.purpose}")


def run(study: Study, here: Here) -> None:
    """Run what is missing on this machine, and put the result into the report.

    Raises
    ------
    StageError
        An arm failed; the others were run all the same.
    """
    print(f"{study.name}: {TITLES[study.name]}: {len(study.chosen)} arms into {shown(study.folder)}", flush=True)
    problems = run_arms(study, here.ranks, here.at_once, here.every)
    finish(study)
    if problems:
        raise StageError(f"{VERBS[study.name]}: {len(problems)} of {len(study.chosen)} arms", problems[0], "the others are in the report")


def finish(study: Study) -> None:
    """Print what has been found, and put it into the report."""
    found = collect(study)
    for row in found["thresholds"]:
        print(f"{study.name}: {row['sentence']}")
    for row in (row for row in found["arms"] if row["as_expected"] is False):
        print(f"{study.name}: {row['name']} should not have been found, and was: the test itself is not to be trusted")
    print(f"{study.name}: {shown(put_into_report(study, found))}", flush=True)


def send(study: Study, request: Request, dry_run: bool) -> None:
    """Submit every arm that has no result as a chain of jobs, side by side; `request` says where, how long and on how many nodes."""
    for arm in (arm for arm in study.chosen if study.result(arm) is None):
        overrides = arm.overrides(study.folder, study.asked)
        submit(replace(request, stages=arm.stages, label=arm.name, overrides=overrides), dry_run)
    print(f"{study.name}: when the jobs have ended, give the same command without --submit: it reads the results", flush=True)
