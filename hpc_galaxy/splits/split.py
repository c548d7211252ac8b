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
from hpc_galaxy.shards.cutout_file import cutout_path, open_cutouts
from hpc_galaxy.shards.manifest import SHARD_SIZE, SPLITS, Manifest, Shard
from hpc_galaxy.shards.numpy_shards import load_shard, write_shard
from hpc_galaxy.shards.schema import CHANNELS, LABELS, SOURCE_DTYPE, STAMP_DTYPE, STAMP_SHAPE
from hpc_galaxy.splits.assign import assign_examples, hash_order
from hpc_galaxy.splits.statistics import SAMPLE, finish, moments, scales, typical_invvar
from hpc_galaxy.tracing.progress import track
from hpc_galaxy.tracing.spans import Stopwatch
from hpc_galaxy.world import World

DROPPED_BECAUSE = {"overlap": "that could share sky with another split", "balance": "to balance the classes"}


@dataclass(frozen=True)
class Sources:
    """All sources of the cutout files.

    Attributes
    ----------
    files : list of Path
        The cutout files, sorted.
    table : ndarray, shape (N,), `SOURCE_DTYPE`
        Their source tables, one after another.
    file, row : ndarray, shape (N,), int
        Where each stamp is.
    """

    files: list[Path]
    table: np.ndarray
    file: np.ndarray
    row: np.ndarray

    def stamps(self, chosen: np.ndarray) -> np.ndarray:
        """Read the stamps of the chosen sources, in their order, shape (n, 64, 64, 6)."""
        out = np.empty((len(chosen), *STAMP_SHAPE), STAMP_DTYPE)
        for number in np.unique(self.file[chosen]):
            here = np.flatnonzero(self.file[chosen] == number)
            here = here[np.argsort(self.row[chosen[here]])]  # HDF5 reads increasing rows
            with open_cutouts(self.files[number]) as cutouts:
                out[here] = cutouts.images(self.row[chosen[here]])
        return out


def split(config: Config, world: World, overwrite: bool = False) -> None:
    """Repackage ``paths.cutouts`` as shards in ``paths.shards``; continues where it stopped."""
    root = config.paths.shards
    files = cutout_files(config)
    ledger = Ledger(root, "split", fingerprint(config, "split", config.paths.cutouts))
    ledger.open(config, world, overwrite, ("*.npy", "manifest.json"))
    watch = Stopwatch()
    with watch.span("gather"):
        sources = gather_sources(world, files)
        side, dropped = assign_examples(sources.table, config.seed, config.split)
        order = {name: _shuffled(sources.table, np.flatnonzero(side == number), config.seed) for number, name in enumerate(SPLITS)}
        scale = _scales(world, sources, order["train"])
    items = [(name, number) for name in SPLITS for number in range(-(-len(order[name]) // SHARD_SIZE))]
    done = [_make_shard(root, sources, order, item, scale, watch) for item in track(world, "split", items)]
    made = {item: (shard, part) for rank in world.allgather(done) for item, shard, part in rank}
    shards = [(item, *made[item]) for item in items]
    statistics = finish(scale, [part for (name, _), _, part in shards if name == "train"])
    manifest = Manifest(
        code_version=__version__,
        fingerprint=ledger.fingerprint,
        seed=config.seed,
        channels=list(CHANNELS),
        stamp_shape=list(STAMP_SHAPE),
        labels=LABELS,
        statistics=statistics,
        splits={name: [shard for (of, _), shard, _ in shards if of == name] for name in SPLITS},
        report=describe(sources.table, order, dropped),
    )
    if world.is_root:
        manifest.save(root)
    ledger.close(world, [{"split": name, "shard": number} for (name, number), _, _ in done])
    world.say(watch.summary(world, "split", "examples"))
    _say_report(world, manifest, root)


def cutout_files(config: Config) -> list[Path]:
    """Return the cutout files of a complete extraction, sorted by class and brick.

    Raises
    ------
    InputError
        The extraction is not complete, has failed bricks, or has only one class.
    """
    root = config.paths.cutouts
    entries = read_ledger(root, "extract")
    failed = [entry["error"] for entry in entries if "error" in entry]
    if failed:
        raise InputError(root, f"{len(failed)} of {len(entries)} bricks failed, first: {failed[0]}", "run 'hpc-galaxy extract' again")
    for label in LABELS:
        if not any(entry.get(label) for entry in entries):
            raise InputError(root, f"has no {label} galaxies, expected both classes", "set extract.classes = ['real', 'fake']")
    return [cutout_path(root, label, entry["brick"]) for label in sorted(LABELS) for entry in entries if label in entry]


def gather_sources(world: World, files: list[Path]) -> Sources:
    """Read the source tables of all files, each on one rank, and share them. Collective."""
    mine = [(number, _read_table(files[number])) for number in world.share(range(len(files)))]
    tables = [table for _, table in sorted((entry for part in world.allgather(mine) for entry in part), key=lambda entry: entry[0])]
    file = np.repeat(np.arange(len(files)), [len(table) for table in tables])
    row = np.concatenate([np.arange(len(table)) for table in tables])
    table = np.concatenate([np.empty(0, SOURCE_DTYPE), *tables])
    sources = Sources(files, table, file, row)
    _require_unique(sources)
    return sources


def _require_unique(sources: Sources) -> None:
    """Refuse a galaxy that occurs twice: its copies could end on two sides of the split."""
    order = np.argsort(sources.table["id"], kind="stable")
    ids = sources.table["id"][order]
    twice = np.flatnonzero(ids[1:] == ids[:-1])
    if len(twice):
        one, other = (sources.files[sources.file[order[place]]] for place in (twice[0], twice[0] + 1))
        problem = f"id {ids[twice[0]].decode()} is also in {other}, expected each id once ({len(twice)} such)"
        raise InputError(one, problem, "run 'hpc-galaxy extract --overwrite'")


def _read_table(path: Path) -> np.ndarray:
    with open_cutouts(path) as cutouts:
        return cutouts.sources()


def _shuffled(table: np.ndarray, rows: np.ndarray, seed: int) -> np.ndarray:
    return rows[np.argsort(hash_order(table["id"][rows], seed, "shuffle"), kind="stable")]


def _scales(world: World, sources: Sources, train: np.ndarray) -> np.ndarray:
    """Return each channel's scale from a few training stamps of every file. Collective."""
    ordered = train[np.lexsort((sources.row[train], sources.file[train]))]
    borders = np.flatnonzero(np.diff(sources.file[ordered])) + 1
    samples = [rows[:SAMPLE] for rows in np.split(ordered, borders)]
    medians = world.allgather([(n, typical_invvar(sources.stamps(samples[n]))) for n in world.share(range(len(samples)))])
    return scales([median for _, median in sorted(entry for part in medians for entry in part)])


Item = tuple[str, int]


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
    """Return what the split achieved: examples and bricks by split and class, and what was dropped and why."""
    report: dict[str, Any] = {"sources": len(table), "dropped": dropped}
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
    world.say(f"split: {shown(root)} (seed {manifest.seed})")
