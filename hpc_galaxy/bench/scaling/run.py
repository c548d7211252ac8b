"""``hpc-galaxy bench scaling``: plan a study, and submit or run what of it is missing."""

from __future__ import annotations

import subprocess
from pathlib import Path

from hpc_galaxy.bench.scaling.data import find_synthetic, make_synthetic, require_bricks
from hpc_galaxy.bench.scaling.plan import NAME, Asked, Point, Study, load_study, make_study, require_same
from hpc_galaxy.bench.scaling.report import write_report
from hpc_galaxy.bench.scaling.submit import Options, submit
from hpc_galaxy.config import Config
from hpc_galaxy.errors import LaunchError, StageError
from hpc_galaxy.files import lock, shown
from hpc_galaxy.launch import environment, on_ranks
from hpc_galaxy.world import World

SHOWN = 5  # last lines of what a point that failed has said


def run_study(directory: Path, asked: Asked, config: Config, jobs: Options | None, world: World) -> None:
    """Plan a study, or find that it is the one that is there, and do what is missing.

    Parameters
    ----------
    directory : Path
        Of the study.
    asked, config : Asked, Config
        What is to be measured.
    jobs : Options or None
        How to submit it to Slurm; None: run it here, a point after the other.
    world : World
        A single process.

    Raises
    ------
    StaleOutputError
        The directory holds another plan.
    LaunchError
        This was started as several ranks, or Slurm does not answer.
    StageError
        Some points failed; all others are measured, and the report is written.
    """
    if world.size > 1:
        raise LaunchError(
            "bench scaling", f"started as {world.size} ranks, expected 1", "start it without mpirun or srun: it starts the ranks"
        )
    directory = directory.absolute()
    with lock(directory / ".lock"):
        study = plan(directory, asked, config)
        make_synthetic(study)
        if jobs is not None:
            submit(study, jobs)
            return
        failed = run_here(study)
    write_report(study)
    if failed:
        listing = "".join(f"\n  point {point.number}, {point.sentence}: {said}" for point, said in failed)
        problem = f"{len(failed)} of {len(study.points)} points failed:{listing}\n"
        raise StageError("bench scaling", problem, f"see {shown(study.jobs)}; the same command does what is missing")


def plan(directory: Path, asked: Asked, config: Config) -> Study:
    """Return the plan that is there, if it is the one asked for; or make it."""
    if (directory / NAME).exists():
        study = load_study(directory)
        require_same(study, asked, config)
        print(f"scaling: {len(study.points) - len(study.missing)} of {len(study.points)} points have been measured before", flush=True)
        return study
    synthetic = find_synthetic(asked, config)
    if "extract" in asked.stages and "extract" not in synthetic:
        require_bricks(asked, config)
    for stage in synthetic:
        where = {"train": config.paths.shards, "extract": config.paths.survey}[stage]
        print(f"scaling: {stage}: there are no data in {shown(where)}; synthetic ones are made in {shown(directory)}", flush=True)
    study = make_study(directory, asked, config, synthetic)
    print(f"scaling: {len(study.points)} points planned in {shown(directory / NAME)}", flush=True)
    return study


def run_here(study: Study) -> list[tuple[Point, str]]:
    """Run the points that are missing, one after the other, under mpirun; return those that failed, and what they said last."""
    study.jobs.mkdir(exist_ok=True)
    failed = []
    for point in study.missing:
        said = study.jobs / f"point-{point.number}.out"
        command = on_ranks(point.ranks, ["-m", "hpc_galaxy", "bench", "point", str(study.directory), str(point.number)])
        with said.open("w") as output:
            done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment(point.ranks))
        lines = said.read_text(errors="replace").splitlines()
        if done.returncode or not study.result(point).exists():
            errors = [line for line in lines if "error" in line.lower()] or lines or ["nothing"]
            failed.append((point, errors[0]))
            print(f"scaling: point {point.number} failed:\n" + "\n".join(f"  {line}" for line in lines[-SHOWN:]), flush=True)
        else:
            print(f"scaling: {lines[-1]}", flush=True)
    return failed
