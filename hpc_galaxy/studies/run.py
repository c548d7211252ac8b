"""Run the arms of a study on this machine, or send them to a queue; read what has come out."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from hpc_galaxy.config import Config, load_config
from hpc_galaxy.errors import ConfigError, InputError, StageError
from hpc_galaxy.files import lock, read_object, shown
from hpc_galaxy.launch import HEADING, environment, stages_on_ranks
from hpc_galaxy.ledger import LOCK
from hpc_galaxy.realism.baselines import Baseline
from hpc_galaxy.realism.power import SIGNIFICANCE
from hpc_galaxy.realism.verdict import surest
from hpc_galaxy.studies.arms import CHANCE, Arm

SECTIONS = ("survey", "injection", "extract", "split", "train", "realism")
CONFIGURATION, MADE_BY = "config.toml", "hpc-galaxy realism"  # of a report: written last, so that it is never older than the numbers
LOG = "log.txt"
VERBS = {"controls": "controls", "replicate": "replicate-2018"}  # of each study


@dataclass(frozen=True)
class Study:
    """Arms, and what they have in common.

    Attributes
    ----------
    name : str
        ``controls`` or ``replicate``: the key of its results in the report.
    arms : sequence of Arm
        All there are; those of one defect follow each other, the weakest first.
    folder : Path
        Where they work.
    config : Path
        The configuration of the survey's own test.
    asked : sequence of str
        ``section.key=value`` on top of it.
    only : frozenset of str
        Names of the arms that are to be run; all where there are none. Results of the others are collected all the same.
    """

    name: str
    arms: Sequence[Arm]
    folder: Path
    config: Path
    asked: Sequence[str] = ()
    only: frozenset[str] = frozenset()

    @property
    def chosen(self) -> list[Arm]:
        """The arms that are to be run."""
        return [arm for arm in self.arms if not self.only or arm.name in self.only]

    def command(self, arm: Arm) -> str:
        """Return what runs just this arm, for the report."""
        settings = [part for setting in self.asked for part in ("--set", setting)]
        return shlex.join(["hpc-galaxy", VERBS[self.name], "-c", self.config.name, *settings, "--only", arm.name])

    def settings(self, arm: Arm) -> Config:
        """Return the configuration that an arm's stages get."""
        return load_config(self.config, arm.overrides(self.folder, self.asked))

    def result(self, arm: Arm) -> dict[str, Any] | None:
        """Return an arm's report, None where there is none of just this arm; whoever has run its stages, here or in a queue."""
        path, own = arm.report(self.folder), load_config(self.config, self.asked).paths.report / "report.json"
        with suppress(InputError, ConfigError):
            if load_config(path.with_name(CONFIGURATION)).fingerprint(*SECTIONS) != self.settings(arm).fingerprint(*SECTIONS):
                return None
            report = read_object(path, MADE_BY, examples=int, provenance=dict)
            if (
                arm.begins != "train"
                or report["provenance"]["shards"] == read_object(own, MADE_BY, provenance=dict)["provenance"]["shards"]
            ):
                return report
        return None


def select(arms: Sequence[Arm], wanted: Sequence[str], what: str) -> list[Arm]:
    """Return the arms with these names, of these kinds or of these defects; all where none are given.

    Raises
    ------
    InputError
        One is not known.
    """
    known = {word for arm in arms for word in (arm.name, arm.kind, arm.defect) if word}
    unknown = sorted(set(wanted) - known)
    if unknown:
        raise InputError(
            "--only", f"there is no '{unknown[0]}', expected some of {', '.join(sorted(known))}", f"see 'hpc-galaxy {what} --list'"
        )
    return [arm for arm in arms if not wanted or {arm.name, arm.kind, arm.defect} & set(wanted)]


def is_found(arm: Arm, report: dict[str, Any], tries: int) -> bool:
    """Return whether the network tells the classes apart, by a p-value that is corrected for the number of tries."""
    return report["p_value"] is not None and report["p_value"] <= SIGNIFICANCE / tries


def found_by(report: dict[str, Any], tries: int) -> Baseline | None:
    """Return the simpler classifier that tells the classes apart, None where none does; see `hpc_galaxy.realism.verdict.surest`."""
    return surest([Baseline(**row) for row in report.get("baselines") or ()], tries)


def tries(arm: Arm, arms: Sequence[Arm]) -> int:
    """Return how many arms ask the same question: the strengths of a defect, the negative controls; otherwise 1."""
    if arm.defect:
        return sum(one.defect == arm.defect for one in arms)
    return sum(one.kind == arm.kind for one in arms) if arm.expected == CHANCE else 1


def run_arms(study: Study, ranks: int, at_once: int, every: bool) -> list[str]:
    """Run all arms here that have no result yet; return what went wrong, a sentence an arm.

    Parameters
    ----------
    study : Study
        What to do.
    ranks, at_once : int
        MPI ranks of a stage, and how many arms run side by side.
    every : bool
        Whether a defect's stronger arms are run as well once a weaker one was found.
    """
    chains = [list(chain) for _, chain in groupby(study.chosen, key=lambda arm: arm.defect or arm.name)]
    study.folder.mkdir(parents=True, exist_ok=True)
    with lock(study.folder / LOCK), ThreadPoolExecutor(at_once) as pool:
        return [
            problem for problems in pool.map(lambda chain: list(_run_chain(study, chain, ranks, every)), chains) for problem in problems
        ]


def _run_chain(study: Study, chain: Sequence[Arm], ranks: int, every: bool) -> Iterator[str]:
    for arm in chain:
        try:
            report = study.result(arm) or _run_arm(study, arm, ranks)
        except StageError as error:
            yield str(error)
            continue
        found, simpler = is_found(arm, report, tries(arm, study.arms)), found_by(report, tries(arm, study.arms))
        also = f"; {simpler.name}: AUC {simpler.auc:.3f}" if simpler else ""
        print(f"{study.name}: {arm.name}: {_outcome(report)}, {'found' if found else 'not found'}{also}", flush=True)
        if found and arm.defect and not every:
            return


def _outcome(report: dict[str, Any]) -> str:
    if report["auc"] is None or report["auc_interval"] is None:
        return "no AUC"
    return "AUC {:.3f} [{:.3f}, {:.3f}], p = {:.2g}".format(report["auc"], *report["auc_interval"], report["p_value"])


def _run_arm(study: Study, arm: Arm, ranks: int) -> dict[str, Any]:
    folder = study.folder / arm.name
    folder.mkdir(parents=True, exist_ok=True)
    _run_stages(arm.stages, study.config, arm.overrides(study.folder, study.asked), ranks, folder / LOG)
    report = study.result(arm)
    assert report is not None
    return report


def _run_stages(stages: Sequence[str], config: Path, overrides: Sequence[str], ranks: int, log: Path) -> None:
    command = stages_on_ranks(ranks, stages, config, overrides)
    with open(log, "a", encoding="utf-8") as file:
        begin = file.tell()
        done = subprocess.run(command, env=environment(ranks), stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        lines = log.read_bytes()[begin:].decode(errors="replace").splitlines()
        stage = _last(lines, HEADING).removeprefix(HEADING).partition(":")[0] or "the start"
        said = _last(lines, "error:")
        problem = f"{stage} ended with exit code {done.returncode}, expected 0{f' ({said})' if said else ''}"
        raise StageError(log.parent, problem, f"read {shown(log)}, and give the same command again: it does what is missing")


def _last(lines: Sequence[str], word: str) -> str:
    """Return the last line with `word` in it, or nothing."""
    return next((line.strip() for line in reversed(lines) if word in line), "")
