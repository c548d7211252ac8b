"""``hpc-galaxy demo``: every stage, one after another, each on a few MPI ranks of this machine."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from hpc_galaxy.errors import StageError
from hpc_galaxy.files import read_json, write_text
from hpc_galaxy.launch import environment, on_ranks

STAGES = {
    "survey": "render a synthetic survey with GalSim",
    "inject": "draw fake galaxies into copies of its coadds",
    "extract": "cut 64 x 64 x 6 stamps of real and fake galaxies",
    "split": "match real to fake, assign bricks to train, valid and test, and write shuffled shards",
    "train": "train the CNN, data-parallel",
    "realism": "ask it to tell fake from real on bricks it never saw",
}
# The same once more with fakes that are drawn one pixel off, as in 2018: can the network learn to see a defect at all?
CONTROL = "control"
CONTROL_STAGES = ("inject", "extract", "split", "train", "realism")


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
    for stage, purpose in STAGES.items():
        print(f"\n== {stage}: {purpose}", flush=True)
        run_stage(stage, config, ranks)
        if stage == "split":
            print("\n== audit: look for leaks, by which a network could win without looking at galaxies", flush=True)
            require_success("audit", audit(out / "shards", ranks))
    print("\n== control: the same survey, with fakes drawn one pixel off", flush=True)
    for stage in CONTROL_STAGES:
        run_stage(stage, config, ranks, control_overrides())
        if stage == "split" and audit(out / CONTROL / "shards", ranks):
            print("demo: the audit has found what is wrong with the control, as it should", flush=True)
    print(f"\ndemo: finished in {time.monotonic() - start:.0f} s. Can the network tell fake from real?", flush=True)
    for name, report in (("faithful fakes", out / "report"), ("one pixel off", out / CONTROL / "report")):
        print(f"  {name}: {result(report / 'report.json')}", flush=True)
    print("demo: pictures to look at:", flush=True)
    for picture in sorted(picture for folder in ("shards", "run", "report", CONTROL) for picture in (out / folder).rglob("*.png")):
        print(f"  {picture}", flush=True)


def control_overrides() -> list[str]:
    """Return the overrides of the positive control: the defect, and directories of its own."""
    names = ("obiwan", "cutouts", "shards", "run", "report")
    return ["injection.offset_pixels=1.0", *[f"paths.{name}='{CONTROL}/{name}'" for name in names]]


def result(report: Path) -> str:
    """Return the verdict of a report with the AUC, as text."""
    numbers = read_json(report, "hpc-galaxy realism")
    verdict = str(numbers["verdict"]["sentence"])
    if numbers["auc"] is None or verdict.startswith("AUC"):
        return verdict
    interval = " [{:.3f}, {:.3f}]".format(*numbers["auc_interval"]) if numbers["auc_interval"] else ""
    return f"AUC {numbers['auc']:.3f}{interval}; {verdict}"


def run_stage(stage: str, config: Path, ranks: int, overrides: Sequence[str] = ()) -> None:
    """Run one stage under mpirun.

    Raises
    ------
    StageError
        It ended with a non-zero exit code.
    """
    settings = [part for override in overrides for part in ("--set", override)]
    require_success(stage, run([stage, "-c", str(config), *settings], ranks))


def audit(shards: Path, ranks: int) -> int:
    """Run ``hpc-galaxy audit`` on a directory of shards; return its exit code."""
    return run(["audit", str(shards)], ranks)


def run(arguments: Sequence[str], ranks: int) -> int:
    """Run ``hpc-galaxy`` with these arguments under mpirun; return its exit code."""
    return subprocess.run(on_ranks(ranks, ["-m", "hpc_galaxy", *arguments]), env=environment(ranks), check=False).returncode


def require_success(stage: str, code: int) -> None:
    """Refuse to go on after a stage that failed.

    Raises
    ------
    StageError
        Its exit code is not 0.
    """
    if code:
        raise StageError(f"demo, stage {stage}", f"ended with exit code {code}, expected 0", "see its message above")
