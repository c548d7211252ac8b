"""``hpc-galaxy split``: cutout files in, shuffled numpy shards of 512 examples out, MPI over shards."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hpc_galaxy import __version__
from hpc_galaxy.config import Config
from hpc_galaxy.errors import InputError
from hpc_galaxy.files import shown
from hpc_galaxy.ledger import Ledger, fingerprint, read_ledger
from hpc_galaxy.schedule import deal
from hpc_galaxy.shards.layouts import existing_path, files_from_2018, is_from_2018, open_stamps
from hpc_galaxy.shards.manifest import SHARD_SIZE, SPLITS, Manifest, Shard
from hpc_galaxy.shards.numpy_shards import load_shard, write_shard
from hpc_galaxy.shards.schema import DEFAULT, LABELS, STAMP_DTYPE, StampFormat
from hpc_galaxy.splits.assign import assign_examples, hash_order, placed
from hpc_galaxy.splits.statistics import SAMPLE, finish, moments, scales, typical_invvar
from hpc_galaxy.tracing.spans import Stopwatch
from hpc_galaxy.world import World

Item = tuple[str, int]
"""A shard: its split, and its number in that."""

DROPPED_BECAUSE = {"overlap": "that could share sky with another split", "balance": "to balance the classes"}


@dataclass(frozen=True)
class Sources:
    """All sources of the cutout files.

    Attributes
    ----------
    files : list of Path
        The cutout files, sorted.
    table : ndarray, shape (N,), `StampFormat.source_dtype`
        Their source tables, one after another.
    file, row : ndarray, shape (N,), int
        Where each stamp is.
    format : StampFormat
        What the stamps of all files are made of.
    """

    files: list[Path]
    table: np.ndarray
    file: np.ndarray
    row: np.ndarray
    format: StampFormat

    def stamps(self, chosen: np.ndarray) -> np.ndarray:
        """Read the stamps of the chosen sources, in their order, shape (n, size, size, channels)."""
        out = np.empty((len(chosen), *self.format.shape), STAMP_DTYPE)
        for number in np.unique(self.file[chosen]):
            here = np.flatnonzero(self.file[chosen] == number)
            here = here[np.argsort(self.row[chosen[here]])]  # HDF5 reads increasing rows
            with open_stamps(self.files[number]) as cutouts:
                out[here] = cutouts.images(self.row[chosen[here]])
        return out


def split(config: Config, world: World, overwrite: bool = False) -> None:
    """Repackage ``paths.cutouts`` as shards in ``paths.shards``; continues where it stopped."""
    root = config.paths.shards
    files = world.bcast(cutout_files(config, world) if world.is_root else [])
    ledger = Ledger(root, "split", fingerprint(config, "split", config.paths.cutouts))
    watch = Stopwatch()
    with ledger.claim(config, world, overwrite, ("*.npy", "manifest.json")):
        manifest, done = _repackage(config, world, files, ledger.fingerprint, watch)
        if world.is_root:
            manifest.save(root)
        ledger.close(world, [{"split": name, "shard": number} for name, number in done])
    world.say(watch.summary(world, "split", "examples"))
    _say_report(world, manifest, root)


def _repackage(config: Config, world: World, files: list[Path], stamp: str, watch: Stopwatch) -> tuple[Manifest, list[Item]]:
    """Write all shards; return what is to be said of them, and which of them this rank wrote. Collective."""
    with watch.span("gather"):
        sources = gather_sources(world, files)
        side, dropped = assign_examples(sources.table, config.seed, config.split, sources.format.size)
        order = {name: _shuffled(sources.table, np.flatnonzero(side == number), config.seed) for number, name in enumerate(SPLITS)}
        scale = _scales(world, sources, order["train"])
    items = [(name, number) for name in SPLITS for number in range(-(-len(order[name]) // SHARD_SIZE))]
    dealt = deal(world, "split", "shards", items, watch)
    done = [_make_shard(config.paths.shards, sources, order, item, scale, watch) for item in dealt]
    made = {item: (shard, part) for rank in world.allgather(done) for item, shard, part in rank}
    shards = [(item, *made[item]) for item in items]
    manifest = Manifest(
        code_version=__version__,
        fingerprint=stamp,
        seed=config.seed,
        channels=list(sources.format.channels),
        stamp_shape=list(sources.format.shape),
        labels=LABELS,
        statistics=finish(scale, [part for (name, _), _, part in shards if name == "train"]),
        splits={name: [shard for (of, _), shard, _ in shards if of == name] for name in SPLITS},
        report=describe(sources.table, order, dropped),
    )
    return manifest, [item for item, _, _ in done]


def cutout_files(config: Config, world: World) -> list[Path]:
    """Return the cutout files of a complete extraction, or those of 2018, sorted by class and brick.

    Raises
    ------
    InputError
        The extraction is not complete, has failed bricks, or has only one class.
    """
    root = config.paths.cutouts
    if is_from_2018(root):
        files, on_edge = files_from_2018(root)
        world.say(f"split: {shown(root)} has the layout of 2018: {len(files)} files; {on_edge} with stamps at an edge are not read")
        return files
    entries = read_ledger(root, "extract")
    failed = [entry["error"] for entry in entries if "error" in entry]
    if failed:
        raise InputError(root, f"{len(failed)} of {len(entries)} bricks failed, first: {failed[0]}", "run 'hpc-galaxy extract' again")
    for label in LABELS:
        if not any(entry.get(label) for entry in entries):
            raise InputError(root, f"has no {label} galaxies, expected both classes", "set extract.classes = ['real', 'fake']")
    return [existing_path(root, label, entry["brick"]) for label in sorted(LABELS) for entry in entries if label in entry]


def gather_sources(world: World, files: list[Path]) -> Sources:
    """Read the source tables of all files, each on one rank, and share them. Collective.

    Raises
    ------
    InputError
        The files' stamps are made of different things, or a galaxy occurs twice.
    """
    mine = [(number, *_read_table(files[number])) for number in world.share(range(len(files)))]
    parts = sorted((entry for part in world.allgather(mine) for entry in part), key=lambda entry: entry[0])
    formats, tables = [stamps for _, stamps, _ in parts] or [DEFAULT], [table for *_, table in parts]
    _require_alike(files, formats)
    file = np.repeat(np.arange(len(files)), [len(table) for table in tables])
    row = np.concatenate([np.arange(len(table)) for table in tables])
    table = np.concatenate([np.empty(0, formats[0].source_dtype), *tables])
    sources = Sources(files, table, file, row, formats[0])
    _require_unique(sources)
    return sources


def _require_alike(files: list[Path], formats: list[StampFormat]) -> None:
    for path, stamps in zip(files, formats, strict=True):
        if stamps != formats[0]:
            problem = f"has stamps {stamps.shape} of {', '.join(stamps.channels)}, expected {formats[0].shape} of "
            problem += f"{', '.join(formats[0].channels)} as in {files[0]}"
            raise InputError(path, problem, "run 'hpc-galaxy extract --overwrite'")


def _require_unique(sources: Sources) -> None:
    """Refuse a galaxy that occurs twice: its copies could end on two sides of the split."""
    order = np.argsort(sources.table["id"], kind="stable")
    ids = sources.table["id"][order]
    twice = np.flatnonzero(ids[1:] == ids[:-1])
    if len(twice):
        one, other = (sources.files[sources.file[order[place]]] for place in (twice[0], twice[0] + 1))
        problem = f"id {ids[twice[0]].decode()} is also in {other}, expected each id once ({len(twice)} such)"
        raise InputError(one, problem, "run 'hpc-galaxy extract --overwrite'")


def _read_table(path: Path) -> tuple[StampFormat, np.ndarray]:
    with open_stamps(path) as cutouts:
        return cutouts.stamps, cutouts.sources()


def _shuffled(table: np.ndarray, rows: np.ndarray, seed: int) -> np.ndarray:
    return rows[np.argsort(hash_order(table["id"][rows], seed, "shuffle"), kind="stable")]


def _scales(world: World, sources: Sources, train: np.ndarray) -> np.ndarray:
    """Return each channel's scale from a few training stamps of every file. Collective."""
    ordered = train[np.lexsort((sources.row[train], sources.file[train]))]
    borders = np.flatnonzero(np.diff(sources.file[ordered])) + 1
    samples = [rows[:SAMPLE] for rows in np.split(ordered, borders)]
    medians = world.allgather([(n, typical_invvar(sources.stamps(samples[n]), sources.format)) for n in world.share(range(len(samples)))])
    return scales([median for _, median in sorted(entry for part in medians for entry in part)], sources.format)


def _make_shard(
    root: Path, sources: Sources, order: dict[str, np.ndarray], item: Item, scale: np.ndarray, watch: Stopwatch
) -> tuple[Item, Shard, np.ndarray]:
    """Write one shard (or find it written); return it with its pixel moments."""
    name, number = item
    rows = order[name][number * SHARD_SIZE : (number + 1) * SHARD_SIZE]
    with watch.span("read"):
        found = load_shard(root, name, number)
        x = found[0] if found else sources.stamps(rows)
    with watch.span("write"):
        shard = found[1] if found else write_shard(root, name, number, x, sources.table[rows])
    with watch.span("statistics"):
        part = moments(x, scale) if name == "train" else np.zeros((3, len(scale)))
    watch.count("examples", len(rows))
    return item, shard, part


def describe(table: np.ndarray, order: dict[str, np.ndarray], dropped: dict[str, int]) -> dict[str, Any]:
    """Return what the split achieved: examples and bricks by split and class, what was dropped and why, and what was not known."""
    report: dict[str, Any] = {"sources": len(table), "without_position": int((~placed(table)).sum()), "dropped": dropped}
    for name, rows in order.items():
        counts = {label: int((table["label"][rows] == value).sum()) for label, value in LABELS.items()}
        report[name] = {"examples": len(rows), "bricks": len(np.unique(table["brick"][rows])), **counts}
    return report


def _say_report(world: World, manifest: Manifest, root: Path) -> None:
    report = manifest.report
    for name in SPLITS:
        numbers = report[name]
        world.say(f"split: {name}: {numbers['real']} real and {numbers['fake']} fake galaxies of {numbers['bricks']} bricks")
    for reason, count in report["dropped"].items():
        world.say(f"split: dropped {count} {DROPPED_BECAUSE[reason]}")
    if report["without_position"]:
        world.say(
            f"split: WARNING: {report['without_position']} of {report['sources']} sources have no position: what they share with "
            "neighbouring bricks on the other side of the split could NOT be dropped"
        )
    world.say(f"split: {shown(root)} (seed {manifest.seed})")
