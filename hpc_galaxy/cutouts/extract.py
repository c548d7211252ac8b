"""``hpc-galaxy extract``: stamps of real and fake galaxies, one HDF5 file a brick and class, MPI over bricks.

Both classes come out of the same catalogs through the same cuts, at measured positions, by one pixel convention. By default
they also come out of the same coadds, those with the fakes in them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from hpc_galaxy.bricks.layout import read_bricks
from hpc_galaxy.bricks.positions import group_by_brick, read_positions
from hpc_galaxy.bricks.views import list_bricks, list_injected_bricks, list_without_catalog
from hpc_galaxy.config import Config
from hpc_galaxy.cutouts.brick import Extractor, Started, Work, input_trees, views_by_class
from hpc_galaxy.cutouts.selection import require_valid
from hpc_galaxy.errors import ConfigError, HpcGalaxyError, InputError, StageError
from hpc_galaxy.files import shown
from hpc_galaxy.ledger import Ledger, fingerprint, require_complete
from hpc_galaxy.schedule import Part, deal
from hpc_galaxy.shards.schema import CLASSES
from hpc_galaxy.tracing.attempt import recording
from hpc_galaxy.tracing.progress import FAILED
from hpc_galaxy.tracing.recorder import WRITER
from hpc_galaxy.tracing.spans import Stopwatch
from hpc_galaxy.world import World

PIXELS_COST = 200_000  # of a copy of a brick, in bytes of its catalog: its pixels take time even where it has few sources


def extract(config: Config, world: World, overwrite: bool = False) -> None:
    """Cut every selected source of every brick into ``paths.cutouts``; does what is missing or older than its inputs.

    Raises
    ------
    StageError
        Some bricks failed; all others are done, and the ledger names the failures.
    """
    ledger, root = _open(config), config.paths.cutouts
    with ledger.claim(config, world, overwrite, list(CLASSES)), recording(config.trace, root, "extract", world) as recorder:
        watch = Stopwatch(recorder)
        work = list_work(config, world) if world.is_root else []
        entries = ledger.close(world, _cut(config, world, work, Extractor(config, ledger.fingerprint, watch)))
    world.say(watch.summary(world, "extract", "cutouts"))
    if world.is_root:
        _say_cut_flow(world, entries)
        world.say(f"extract: {shown(root)}")
        _require_success(entries)
    world.barrier()


def extract_part(config: Config, world: World, part: Part) -> None:
    """Do a part of what `extract` does, at the same time as other jobs do others. `extract`, after them all, then closes the ledger.

    Raises
    ------
    ConfigError
        A trace is asked for: jobs in one directory would write the same one.
    StageError
        Some bricks failed; all others of this part are done.
    """
    if config.trace.on:
        raise ConfigError("--part", "got together with a trace, expected one of them", "trace 'hpc-galaxy extract' without --part")
    ledger, name = _open(config), f"extract {part.number}/{part.of}"
    with ledger.claim_part(config, world, part, list(CLASSES)):
        watch = Stopwatch(None)
        work = part.share(list_work(config, world)) if world.is_root else []
        mine = _cut(config, world, work, Extractor(config, ledger.fingerprint, watch))
        entries = [entry for entries in world.gather(mine) for entry in entries]
    world.say(watch.summary(world, name, "cutouts"))
    if world.is_root:
        world.say(f"{name}: {len(entries):,} bricks; 'hpc-galaxy extract' completes them when all parts are done")
        _require_success(entries)
    world.barrier()


def _open(config: Config) -> Ledger:
    """Return the ledger of the cutouts, once their inputs are known to be complete."""
    inputs = input_trees(config)
    require_valid(config.extract)
    for stage, directory in inputs.items():
        require_complete(directory, stage)
    return Ledger(config.paths.cutouts, "extract", fingerprint(config, "extract", *inputs.values()))


def _cut(config: Config, world: World, work: list[Work], extractor: Extractor) -> list[dict[str, Any]]:
    """Cut rank 0's work list on all ranks; return the lines of this rank's bricks for the ledger. Collective."""
    weights = costs(config, world, world.bcast([item.brick for item in work]))
    return cut_bricks(extractor, deal(world, "extract", "bricks", work, extractor.watch, weights))


def list_work(config: Config, world: World) -> list[Work]:
    """Return the bricks to be cut, sorted by name; at most ``extract.bricks`` of them where that is set.

    Raises
    ------
    InputError
        There is none.
    """
    trees, classes = input_trees(config), set(config.extract.classes)
    bricks: dict[str, Work] = {}
    if "inject" in trees:
        bricks |= {name: Work(name) for name in list_injected_bricks(trees["inject"])}
    elif classes != {"user"}:
        bricks |= {name: Work(name) for name in list_bricks(trees["survey"])}
        if left_out := list_without_catalog(trees["survey"]):
            world.say(f"extract: {len(left_out):,} bricks have coadds and no catalog, and are left out; the first is {left_out[0]}")
    if "user" in classes:
        bricks |= _positions_by_brick(config, world)
    chosen = sorted(bricks)[: config.extract.bricks or None]
    if len(chosen) < len(bricks):
        world.say(f"extract: the first {len(chosen):,} of {len(bricks):,} bricks, by extract.bricks")
    return [bricks[name] for name in chosen]


def _positions_by_brick(config: Config, world: World) -> dict[str, Work]:
    positions = read_positions(config.paths.positions)
    groups = group_by_brick(positions, read_bricks(config.paths.survey))
    present = set(list_bricks(config.paths.survey))
    found = {name: Work(name, positions[rows]) for name, rows in groups.items() if name in present}
    count = sum(len(work.positions) for work in found.values() if work.positions is not None)
    if count < len(positions):
        world.say(f"extract: {len(positions) - count:,} of {len(positions):,} positions lie in no brick of {shown(config.paths.survey)}")
    if not found:
        raise InputError(
            config.paths.positions, "has no position in any brick of the survey", "check ra and dec, degrees, and paths.survey"
        )
    return found


def costs(config: Config, world: World, bricks: list[str]) -> list[float]:
    """Return, on rank 0, how heavy each brick is: the size of its catalogs, which says how many sources there are. Collective."""
    mine = [(number, _cost(config, bricks[number])) for number in world.share(range(len(bricks)))]
    return [cost for _, cost in sorted(entry for part in world.gather(mine) for entry in part)]


def _cost(config: Config, brick: str) -> float:
    try:
        views = {view for found in views_by_class(config, brick).values() for view in found}
        return float(sum(PIXELS_COST + view.catalog.stat().st_size for view in views))
    except (HpcGalaxyError, OSError):
        return 0.0  # what is wrong with it will be said when it is cut


def cut_bricks(extractor: Extractor, bricks: Iterable[Work]) -> list[dict[str, Any]]:
    """Cut bricks, and return their lines for the ledger; what is wrong with one does not stop the others.

    While a brick is cut the files of the one before are flushed to disk, which takes as long where the disk is far away.
    """
    entries = []
    with ThreadPoolExecutor(1, "flush") as thread:
        flushing: list[Future[dict[str, Any]]] = []
        for work in bricks:
            finish = _start(extractor, work)
            entries += [_counted(extractor.watch, future.result()) for future in flushing]
            flushing = [thread.submit(finish)]
        entries += [_counted(extractor.watch, future.result()) for future in flushing]
    return entries


def _start(extractor: Extractor, work: Work) -> Callable[[], dict[str, Any]]:
    """Cut a brick; return what is left to be done for its line in the ledger."""
    try:
        started = extractor.start(work)
    except (HpcGalaxyError, OSError) as error:
        failure = _failure(work.brick, error)
        return lambda: failure
    return lambda: _finish(started, extractor.watch)


def _finish(started: Started, watch: Stopwatch) -> dict[str, Any]:
    try:
        with watch.span("flush", WRITER, started.entry["brick"]):
            return started.finish()
    except (HpcGalaxyError, OSError) as error:
        return _failure(started.entry["brick"], error)


def _failure(brick: str, error: HpcGalaxyError | OSError) -> dict[str, Any]:
    where = error.where if isinstance(error, HpcGalaxyError) else str(error.filename or brick)
    return {"brick": brick, "file": where, "error": str(error)}


def _counted(watch: Stopwatch, entry: dict[str, Any]) -> dict[str, Any]:
    if "error" in entry:
        watch.count(FAILED)
    for label in CLASSES:
        watch.count("cutouts", entry.get(label, 0))
    return entry


def _say_cut_flow(world: World, entries: list[dict[str, Any]]) -> None:
    for label in CLASSES:
        flow = _sum_flows(entry[f"{label}_cut_flow"] for entry in entries if label in entry)
        if flow:
            found = flow.pop("catalog")
            steps = ", ".join(f"{name} -{count}" for name, count in flow.items() if count)
            world.say(f"extract: {label}: {found} in the catalogs, {found - sum(flow.values())} cut out ({steps or 'none removed'})")


def _sum_flows(flows: Iterable[dict[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for flow in flows:
        for name, count in flow.items():
            total[name] = total.get(name, 0) + count
    return total


def _require_success(entries: list[dict[str, Any]]) -> None:
    failed = [entry for entry in entries if "error" in entry]
    if failed:
        listing = "".join(f"\n  {entry['brick']}: {entry['error']}" for entry in failed[:10])
        more = f"\n  and {len(failed) - 10} more, see ledger.json" if len(failed) > 10 else ""
        raise StageError(
            "extract",
            f"{len(failed)} of {len(entries)} bricks failed:{listing}{more}\n",
            "mend them and run the command again: it continues",
        )
