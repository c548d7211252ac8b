"""``hpc-galaxy bench point``: one measurement, by all ranks of one job."""

from __future__ import annotations

import os
import platform
import shutil
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from hpc_galaxy.bench.environment import describe
from hpc_galaxy.bench.scaling.data import WARM_UP, extract_config, shards_of, train_config, write_view
from hpc_galaxy.bench.scaling.plan import UNITS, VERSION, Point, Study, count, load_study
from hpc_galaxy.bench.scaling.timing import node_name, read_extraction, read_training, sweep_links
from hpc_galaxy.errors import ConfigError, LaunchError
from hpc_galaxy.files import lock, write_json
from hpc_galaxy.ledger import LOCK, read_ledger
from hpc_galaxy.shards.schema import CLASSES
from hpc_galaxy.world import World


def run_point(directory: Path, number: int, world: World) -> None:
    """Measure a point of a study, and write its ``result.json`` last. Collective.

    Raises
    ------
    ConfigError
        There is no such point.
    LaunchError
        There are other ranks than it wants.
    OutputError
        Another job is measuring it.
    """
    study = load_study(directory.absolute())
    if not 0 <= number < len(study.points):
        raise ConfigError(
            f"point {number}", f"not in the plan, which has 0 to {len(study.points) - 1}", f"see {study.directory}/study.json"
        )
    point = study.points[number]
    require_ranks(point, world, os.environ)
    with _claim(study, point, world) as work:
        if work is None:
            world.say(f"{point.sentence}: done already")
            return
        # Before the training binds its ranks to cores.
        allowed, environment = os.sched_getaffinity(0), describe() if world.is_root else {}
        result = MEASURE[point.stage](study, point, work, world)
        hosts = _hosts(world, allowed)
        if world.is_root:
            about = {"version": VERSION, "number": point.number, "name": point.name, "ranks": world.size, "nodes": point.nodes}
            about |= {"unit": UNITS[point.stage], "hosts": hosts, "environment": environment}
            write_json(study.result(point), about | result)
            shutil.rmtree(work, ignore_errors=True)
    world.meet()
    if world.is_root:
        world.say(f"{point.sentence}: {result['amount']:,} {UNITS[point.stage]} in {statistics.median(result['times']):.3f} s")


def require_ranks(point: Point, world: World, environ: Mapping[str, str]) -> None:
    """Refuse other ranks, or under srun other nodes, than a point wants.

    Raises
    ------
    LaunchError
        As said.
    """
    nodes = environ.get("SLURM_STEP_NUM_NODES", "") if world.launcher == "srun" else ""
    wrong = [count(world.size, "rank")] * (world.size != point.ranks)
    wrong += [count(int(nodes), "node")] if nodes.isdigit() and int(nodes) != point.nodes else []
    if wrong:
        want = f"{count(point.ranks, 'rank')} on {count(point.nodes, 'node')}"
        remedy = f"start it with srun --nodes={point.nodes} --ntasks-per-node={point.ranks_per_node}, or by 'hpc-galaxy bench scaling'"
        raise LaunchError(f"point {point.number}", f"started with {' and '.join(wrong)}, expected {want}", remedy)


@contextmanager
def _claim(study: Study, point: Point, world: World) -> Iterator[Path | None]:
    """Own a point's directory, without what a killed attempt has left; yield where to work, or None if it is done. Collective."""
    work = study.folder(point) / "work"
    with lock(study.folder(point) / LOCK) if world.is_root else nullcontext():
        done = world.is_root and study.result(point).exists()
        if world.is_root and not done:
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir(parents=True)
        yield None if world.bcast(done) else work


def measure_training(study: Study, point: Point, work: Path, world: World) -> dict[str, Any]:
    """Train for as many steps as are timed, and those before them, and read the trace. Collective."""
    from hpc_galaxy.training.train import train

    config = train_config(study, point.work, work)
    if world.is_root:
        write_view(shards_of(study), config.paths.shards, (WARM_UP + study.asked.steps) * point.work)
    seconds = _timed(lambda: train(config, world, False), world)
    times = read_training(config.paths.run, world)
    links = sweep_links(world, point.ranks_per_node) if world.size > 1 else {}
    return {"amount": point.work, "seconds": seconds} | times | {"allreduce": links}


def measure_extraction(study: Study, point: Point, work: Path, world: World) -> dict[str, Any]:
    """Cut so many bricks, and read the trace. Collective."""
    from hpc_galaxy.cutouts.extract import extract

    config = extract_config(study, point.work, work)
    seconds = _timed(lambda: extract(config, world), world)
    spans = read_extraction(config.paths.cutouts, world)
    if not world.is_root:
        return {}
    entries = read_ledger(config.paths.cutouts, "extract")
    amount = sum(entry.get(label, 0) for entry in entries for label in CLASSES)
    return {"amount": amount, "bricks": len(entries), "seconds": seconds, "times": [seconds]} | spans


MEASURE = {"train": measure_training, "extract": measure_extraction}


def _timed(work: Callable[[], None], world: World) -> float:
    """Return the seconds from when all ranks begin until the last one has ended. Collective."""
    world.meet()
    start = time.perf_counter()
    work()
    world.meet()
    return time.perf_counter() - start


def _hosts(world: World, allowed: set[int]) -> list[dict[str, Any]]:
    """Return, on rank 0, the nodes that took part: by Slurm's name and the machine's own, ranks, and cores they may use. Collective."""
    here = node_name(), platform.node()
    cores: dict[tuple[str, str], set[int]] = {}
    ranks = Counter[tuple[str, str]]()
    for place, numbers in world.gather((here, allowed)):
        cores[place] = cores.get(place, set()) | numbers
        ranks[place] += 1
    return [{"node": node, "host": host, "ranks": ranks[node, host], "cores": len(cores[node, host])} for node, host in ranks]
