"""``hpc-galaxy demo``: every stage, one after another, each on a few MPI ranks of this machine."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from hpc_galaxy.errors import StageError
from hpc_galaxy.files import read_json, write_text
from hpc_galaxy.launch import environment, stages_on_ranks

STAGES = ("survey", "inject", "extract", "split", "audit", "train", "realism")
CONTROL = "control"


def demo(out: Path, ranks: int) -> None:
    """Run the pipeline into the directory `out`, and a positive control; a second run continues or finds everything done.

    Parameters
    ----------
    out : Path
        Made if it is not there; ``out/demo.toml`` is the configuration, to be edited and run again.
    ranks : int
        MPI ranks of every stage.
    """
    config = out / "demo.toml"
    if not config.exists():
        write_text(config, resources.files("hpc_galaxy").joinpath("demo.toml").read_text())
    start = time.monotonic()
    run_stages(STAGES, config, ranks)
    run_control(config, ranks)
    print(f"\ndemo: finished in {time.monotonic() - start:.0f} s. Can the network tell fake from real?", flush=True)
    for name, report in (("faithful fakes", out / "report"), ("one pixel off", out / CONTROL / "report")):
        print(f"  {name}: {result(report / 'report.json')}", flush=True)
    print("demo: to look at, in a browser:", flush=True)
    for folder in (out, out / CONTROL):
        print(f"  {folder / 'report' / 'report.html'}", flush=True)
    print(f"demo: what else such a network finds, and from which strength on: hpc-galaxy controls -c {config}", flush=True)


def run_control(config: Path, ranks: int) -> None:
    """Run the same once more, with fakes drawn one pixel off as in 2018: it shows that the network can learn to see a defect."""
    print("\n== control: the same survey, with fakes drawn one pixel off", flush=True)
    run_stages(("inject", "extract", "split"), config, ranks, control_overrides())
    if run(stages_on_ranks(ranks, ("audit",), config, control_overrides()), ranks):
        print("demo: the audit has found what is wrong with the control, as it should", flush=True)
    run_stages(("train", "realism"), config, ranks, control_overrides())


def control_overrides() -> list[str]:
    """Return the overrides of the positive control: the defect, and directories of its own."""
    names = ("obiwan", "cutouts", "shards", "run", "report")
    return ["injection.defects.centroid=1.0", *[f"paths.{name}='{CONTROL}/{name}'" for name in names]]


def result(report: Path) -> str:
    """Return the verdict of a report with the AUC, as text."""
    numbers = read_json(report, "hpc-galaxy realism")
    verdict = str(numbers["verdict"]["sentence"])
    if numbers["auc"] is None or verdict.startswith("AUC"):
        return verdict
    interval = " [{:.3f}, {:.3f}]".format(*numbers["auc_interval"]) if numbers["auc_interval"] else ""
    return f"AUC {numbers['auc']:.3f}{interval}; {verdict}"


def run_stages(stages: Sequence[str], config: Path, ranks: int, overrides: Sequence[str] = ()) -> None:
    """Run stages under mpirun.

    Raises
    ------
    StageError
        They ended with a non-zero exit code.
    """
    code = run(stages_on_ranks(ranks, stages, config, overrides), ranks)
    if code:
        raise StageError("demo", f"ended with exit code {code}, expected 0", "see the message of its last stage above")


def run(command: Sequence[str], ranks: int) -> int:
    """Run a command that starts so many ranks; return its exit code."""
    return subprocess.run(command, env=environment(ranks), check=False).returncode
