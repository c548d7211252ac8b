"""``hpc-galaxy split``: cutout files in, shuffled numpy shards of 512 examples out, MPI over shards.

Pass 1 reads the source tables and decides where each stamp goes; pass 2 moves the pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hpc_galaxy.config import Config
from hpc_galaxy.errors import InputError
from hpc_galaxy.files import PathList, remove_partials, shown
from hpc_galaxy.ledger import Ledger, fingerprint, read_ledger
from hpc_galaxy.schedule import deal
from hpc_galaxy.shards.layouts import existing_path, files_from_2018, is_from_2018
from hpc_galaxy.shards.manifest import NAME, SHARD_SIZE, SPLITS
from hpc_galaxy.shards.schema import STAMP_DTYPE
from hpc_galaxy.shards.stamp_files import StampFiles
from hpc_galaxy.splits.audit.audit import NAME as AUDIT
from hpc_galaxy.splits.balance import balance_lines, draw_balance
from hpc_galaxy.splits.control import READ_BY, relabel
from hpc_galaxy.splits.journal import PATTERN, Journal, merge_journals, plan_digest, read_journals, remove_journals
from hpc_galaxy.splits.outputs import ObiwanFolders, Shards
from hpc_galaxy.splits.plan import FEW_GROUPS, Plan, make_plan
from hpc_galaxy.splits.repackage import Piece, Record, Repackager, require_space
from hpc_galaxy.splits.sources import Sources, gather_sources
from hpc_galaxy.splits.statistics import scales, typical_invvar
from hpc_galaxy.tracing.attempt import recording
from hpc_galaxy.tracing.spans import Stopwatch
from hpc_galaxy.world import World

PICTURE = "matching.png"
BRICK_LISTS = "bricks_*.txt"
OUTPUTS = ("*.npy", NAME, "testtrain", BRICK_LISTS, PICTURE, AUDIT, PATTERN)
DROPPED_BECAUSE = {
    "overlap": "that could share sky with another split",
    "repeat": "whose injected galaxy is kept in another split",
    "match": "that have no partner in the other class",
    "balance": "to balance the classes",
}


def split(config: Config, world: World, overwrite: bool = False) -> None:
    """Repackage ``paths.cutouts`` as shards in ``paths.shards``; continues where it stopped.

    Raises
    ------
    InputError
        The extraction is not complete, or the survey is too small to be split.
    OutputError
        There is not enough space, or files cannot be written.
    """
    root = config.paths.shards
    files = world.bcast(cutout_files(config, world) if world.is_root else PathList(config.paths.cutouts, ()))
    ledger = Ledger(root, "split", fingerprint(config, "split", config.paths.cutouts))
    with ledger.claim(config, world, overwrite, OUTPUTS), recording(config.trace, root, "split", world) as recorder:
        watch = Stopwatch(recorder)
        with watch.span("gather"):
            sources = gather_sources(config, world, files)
            relabel(config, world, files, sources)
        with watch.span("shuffle"):
            plan = make_plan(config, world, files, sources)
        _say_plan(world, config, sources, plan)
        state = sum(world.allgather(sources.state))  # now, while each file is known to one rank alone
        scale = world.bcast(_scale(files, sources, plan) if world.is_root else np.empty(0))
        output = (
            Shards(config, ledger.fingerprint, sources, scale) if config.split.layout == "shards" else ObiwanFolders(config, sources, files)
        )
        records = _repackage(world, output, Repackager(config, files, sources, scale, output.write, watch), plan, state)
        ledger.close(world, [{"piece": record["piece"]} for record in records])
    world.say(watch.summary(world, "split", "examples"))
    world.say(f"split: {shown(root)} (seed {config.seed})")


def _repackage(world: World, output: Shards | ObiwanFolders, repackager: Repackager, plan: Plan, state: int) -> list[Record]:
    """Write everything that is not there yet, then what holds it together; return all records on rank 0. Collective."""
    pieces = output.pieces(plan)
    digest = world.bcast(plan_digest(plan.places, state) if world.is_root else "")
    found = _continue(output, pieces, digest) if world.is_root else {}
    missing = [piece for piece in pieces if piece.key not in found]
    if world.is_root:
        require_space(output.root, sum(len(piece.places) for piece in missing) * output.bytes_each)
        if missing:
            # Nothing must vouch for what is about to be made.
            for path in (output.root / NAME, output.root / AUDIT, *output.root.glob(BRICK_LISTS)):
                path.unlink(missing_ok=True)
        if found:
            world.say(f"split: {len(found):,} of {len(pieces):,} files are there already")
    dealt = deal(world, "split", "shards", missing, repackager.watch)
    with Journal(output.root, world.rank, digest) as journal:
        records = repackager.run(dealt, journal)
    made = {record["piece"]: record for rank in world.gather(records) for record in rank}
    if world.is_root:
        if "matching" in plan.report:
            draw_balance(plan.report["matching"], output.root / PICTURE)
        whole = found | made
        records = [whole[piece.key] for piece in pieces]
        output.finish(plan, pieces, whole)
        merge_journals(output.root, digest, records)
        return records
    return []


def _continue(output: Shards | ObiwanFolders, pieces: Sequence[Piece], digest: str) -> dict[str, Record]:
    """Return what an earlier run has left whole; what followed another plan, or came from other cutout files, is removed."""
    for folder in (output.root, *output.root.glob("testtrain/*/*")):
        remove_partials(folder)
    records = read_journals(output.root, digest)
    if records is None:
        remove_journals(output.root)
        for path in [*output.root.glob("*.npy"), *output.root.glob("testtrain/*/*/*.npy")]:
            path.unlink()
        return {}
    wanted = {piece.key for piece in pieces}
    return {record["piece"]: record for record in records if record["piece"] in wanted and output.is_whole(record)}


def cutout_files(config: Config, world: World) -> PathList:
    """Return the cutout files of a complete extraction, or those of 2018, sorted by class and brick.

    Raises
    ------
    InputError
        The extraction is not complete, has failed bricks, or has only one class.
    """
    root, labels = config.paths.cutouts, READ_BY[config.split.control]
    if is_from_2018(root):
        files, on_edge = files_from_2018(root)
        world.say(f"split: {shown(root)} has the layout of 2018: {len(files)} files; {on_edge} with stamps at an edge are not read")
        return PathList(root, [path for path in files if path.relative_to(root).parts[0] in labels])
    entries = read_ledger(root, "extract")
    failed = [entry["error"] for entry in entries if "error" in entry]
    if failed:
        raise InputError(root, f"{len(failed)} of {len(entries)} bricks failed, first: {failed[0]}", "run 'hpc-galaxy extract' again")
    for label in labels:
        if not any(entry.get(label) for entry in entries):
            problem = f"has no {label} galaxies, expected {' and '.join(labels)}"
            raise InputError(root, problem, "set extract.classes = ['real', 'fake'], and a selection that keeps some")
    listed = ((label, entry.get("brick", "")) for label in sorted(labels) for entry in entries if label in entry)
    return PathList(root, (existing_path(root, label, brick) for label, brick in listed))


def _scale(files: Sequence[Path], sources: Sources, plan: Plan) -> np.ndarray:
    """Return each channel's scale, from the first training shard: a sample of all bricks."""
    places = plan.places["train"][:SHARD_SIZE]
    x, table = np.empty((len(places), *sources.stamps.shape), STAMP_DTYPE), np.empty(len(places), sources.stamps.source_dtype)
    with StampFiles(files, sources.stamps, sources.places) as source:
        source.read(places["file"], places["row"], x, table)
    return scales([typical_invvar(x, sources.stamps)], sources.stamps)


def _say_plan(world: World, config: Config, sources: Sources, plan: Plan) -> None:
    if not world.is_root:
        return
    report = plan.report
    world.say(
        f"split: {report['sources']:,} sources in {report['groups']['count']:,} {_kinds(report)}, {sources.bytes_each} bytes each in memory"
    )
    for name in SPLITS:
        world.say(f"split: {name}: {_numbers(report[name], _kinds(report))}")
    for reason, count in report["dropped"].items():
        world.say(f"split: dropped {count:,} {DROPPED_BECAUSE[reason]}")
    for line in balance_lines(report["matching"]) if "matching" in report else ["the classes are not matched (split.match is 'none')"]:
        world.say(f"split: {line}")
    if config.split.control != "none":
        world.say(f"split: the labels are those of a negative control, split.control = '{config.split.control}'")
    for line in _warnings(config, report):
        world.say(f"split: WARNING: {line}")


def _kinds(report: dict[str, Any]) -> str:
    """Return what the sky groups are, in the plural."""
    return {"galaxy": "galaxies"}.get(report["groups"]["kind"], f"{report['groups']['kind']}s")


def _numbers(part: dict[str, Any], kinds: str) -> str:
    groups = f"{part['groups']:,} {kinds} ({part['share']:.1%} of all, {part['asked']:.0%} asked for)"
    return f"{part['real']:,} real and {part['fake']:,} fake galaxies of {groups}"


def _warnings(config: Config, report: dict[str, Any]) -> list[str]:
    lines = []
    few = [name for name in SPLITS if 0 < report[name]["groups"] < FEW_GROUPS]
    if few:
        lines.append(f"{' and '.join(few)}: fewer than {FEW_GROUPS} {_kinds(report)} say little about the scatter between them")
    if report["without_position"]:
        lines.append(
            f"{report['without_position']:,} of {report['sources']:,} sources have no position: what they share with neighbouring bricks "
            "on the other side of the split could NOT be dropped"
        )
    return lines
