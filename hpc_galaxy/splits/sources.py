"""Pass 1: what every rank keeps of the sources in its share of the cutout files, some hundred bytes each and no pixels."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from hpc_galaxy.config import Config
from hpc_galaxy.errors import InputError
from hpc_galaxy.shards.layouts import is_2018, open_stamps
from hpc_galaxy.shards.places import Places, find_places
from hpc_galaxy.shards.schema import CLASSES, LABELS, StampFormat
from hpc_galaxy.splits.columns import expand_columns, features
from hpc_galaxy.splits.groups import (
    DROPPED,
    assign,
    chosen_side,
    hash_names,
    near_other_tiles,
    one_side_each,
    overlap_arcsec,
    placed,
    require_positions,
)
from hpc_galaxy.splits.guard import BOX_DTYPE, Guard, box_around
from hpc_galaxy.world import World

PLACE = np.dtype([("file", "<u4"), ("row", "<u4"), ("label", "u1")])
"""Where a stamp is: the number of its cutout file in the sorted list, its row there; and the class that it counts as."""
SOURCE = np.dtype([*PLACE.descr, ("order", "<u8"), ("group", "<u8"), ("injected", "<u8"), ("side", "i1")])
"""What is kept of a source: a seeded hash of its id, one of its sky group's name, what was injected, class, and place in `SPLITS`."""

FACTS = ("code_version", "fingerprint", "compression", "mantissa_bits", "selection", "where", "release", "layout", "control", "defects")
CLASS_NAMES = {value: name for name, value in CLASSES.items()}


@dataclass
class Sources:
    """The sources of this rank's share of the files.

    Attributes
    ----------
    table : ndarray, shape (n,), `SOURCE`
        Sorted by file and row; ``side`` is `DROPPED` where a source has to go.
    features : ndarray, shape (n, k), float32
        The columns on which real and fake are matched.
    columns : list of str
        Their names.
    stamps : StampFormat
        What all stamps of the survey are made of.
    facts : dict
        Of the whole survey: by class, and for each of `FACTS` the values that its files have.
    dropped : dict of str to int
        How many sources of this rank have to go, by reason.
    unplaced : int
        How many of this rank have no position.
    area : float
        Of the boxes around the survey's files, square degrees.
    places : dict of int to Places
        Where the chunks of this rank's files lie.
    """

    table: np.ndarray
    features: np.ndarray
    columns: list[str]
    stamps: StampFormat
    facts: dict[str, dict[str, list[Any]]]
    dropped: dict[str, int]
    unplaced: int
    area: float
    places: dict[int, Places]

    @property
    def bytes_each(self) -> int:
        """Memory of a source, bytes."""
        return self.table.itemsize + 4 * len(self.columns)

    @property
    def state(self) -> int:
        """A hash of the sizes and dates of this rank's files, to be added up over the ranks: a file that was made again changes it."""
        known = (f"{number} {places.size} {places.modified}" for number, places in self.places.items())
        return sum(xxhash.xxh3_64_intdigest(text.encode()) for text in known)

    def kept(self) -> np.ndarray:
        """Return which sources stay so far, shape (n,), bool."""
        return np.asarray(self.table["side"] != DROPPED)

    def drop(self, rows: np.ndarray, reason: str) -> None:
        """Mark sources that have to go: a mask of shape (n,)."""
        self.dropped[reason] = self.dropped.get(reason, 0) + int((rows & self.kept()).sum())
        self.table["side"][rows] = DROPPED


@dataclass
class _Part:
    """One file's sources."""

    number: int
    table: np.ndarray
    features: np.ndarray
    near: np.ndarray
    positions: np.ndarray
    places: Places
    boxes: list[np.ndarray] = field(default_factory=list)


def gather_sources(config: Config, world: World, files: Sequence[Path]) -> Sources:
    """Read the source tables of this rank's share of the files, and drop what would leak. Collective.

    Raises
    ------
    InputError
        The files' stamps are made of different things, a galaxy occurs twice, or a position is missing that is needed.
    """
    formats: dict[StampFormat, int] = {}
    facts: dict[str, dict[str, set[str]]] = {}
    parts = [_read(config, number, files[number], formats, facts) for number in world.share(range(len(files)))]
    stamps = _common_format(world, files, formats)
    boxes = np.concatenate(world.allgather(_boxes(parts)))
    if config.split.groups == "brick":
        _keep_apart(parts, Guard(boxes, overlap_arcsec(stamps.size) + config.split.guard_arcsec))
    columns = _columns(config, stamps)
    sources = Sources(
        table=np.concatenate([np.empty(0, SOURCE), *[part.table for part in parts]]),
        features=np.concatenate([np.empty((0, len(columns)), np.float32), *[part.features for part in parts]]),
        columns=columns,
        stamps=stamps,
        facts=_merge_facts(world.allgather(facts)),
        dropped={},
        unplaced=sum(int((~placed(part.positions)).sum()) for part in parts),
        places={part.number: part.places for part in parts},
        area=float(np.prod(np.degrees(boxes["high"] - boxes["low"]), axis=1).sum()),
    )
    sources.drop(np.concatenate([np.empty(0, bool), *[part.near for part in parts]]), "overlap")
    _require_unique(world, files, sources.table)
    sources.drop(_repeats_elsewhere(config, world, sources), "repeat")
    return sources


def _columns(config: Config, stamps: StampFormat) -> list[str]:
    return expand_columns(config.split.match_columns, stamps) if config.split.match != "none" else []


def _read(config: Config, number: int, path: Path, formats: dict[StampFormat, int], facts: dict[str, dict[str, set[str]]]) -> _Part:
    with open_stamps(path) as cutouts:
        stamps, table, attributes, places = cutouts.stamps, cutouts.sources(), cutouts.attributes, find_places(cutouts)
    formats.setdefault(stamps, number)
    _note_facts(facts, table, attributes | {"layout": "2018" if is_2018(path) else "brick"})
    require_positions(table, config.split, path)
    kept = np.zeros(len(table), SOURCE)
    kept["file"], kept["row"], kept["label"], kept["injected"] = number, np.arange(len(table)), table["label"], table["injected"]
    kept["order"] = hash_names(config.seed, "shuffle", table["id"])
    kept["group"], kept["side"] = assign(table, config.seed, config.split)
    tiles = config.split.groups == "tile"
    near = near_other_tiles(table, kept["side"], config.seed, config.split, stamps.size) if tiles else np.zeros(len(table), bool)
    part = _Part(number, kept, features(table, _columns(config, stamps)), near, np.array(table[["ra", "dec"]]), places)
    part.boxes = [box_around(part.positions[kept["side"] == side], side) for side in np.unique(kept["side"])]
    return part


def _boxes(parts: Iterable[_Part]) -> np.ndarray:
    return np.concatenate([np.empty(0, BOX_DTYPE), *(box for part in parts for box in part.boxes)])


def _keep_apart(parts: Iterable[_Part], guard: Guard) -> None:
    for part in parts:
        for side in np.unique(part.table["side"]):
            here = part.table["side"] == side
            part.near[here] = guard.too_near(part.positions[here], int(side))


def _note_facts(facts: dict[str, dict[str, set[str]]], table: np.ndarray, attributes: Mapping[str, Any]) -> None:
    for label in np.unique(table["label"]).tolist():
        mine = facts.setdefault(CLASS_NAMES.get(label, str(label)), {name: set() for name in FACTS})
        for name in FACTS:
            mine[name].add(json.dumps(_plain(attributes.get(name)), sort_keys=True))


def _plain(value: Any) -> Any:
    """Return an attribute as JSON has it; lists and tables are stored as JSON text."""
    if isinstance(value, str) and value[:1] in ("[", "{"):
        return json.loads(value)
    return value


def _merge_facts(ranks: Iterable[dict[str, dict[str, set[str]]]]) -> dict[str, dict[str, list[Any]]]:
    merged: dict[str, dict[str, set[str]]] = {label: {name: set() for name in FACTS} for label in LABELS}
    for rank in ranks:
        for label, values in rank.items():
            for name, texts in values.items():
                merged.setdefault(label, {}).setdefault(name, set()).update(texts)
    return {label: {name: [json.loads(text) for text in sorted(texts)] for name, texts in of.items()} for label, of in merged.items()}


def _common_format(world: World, files: Sequence[Path], formats: dict[StampFormat, int]) -> StampFormat:
    """Return the format of all files' stamps; the number that goes with a format is the first file's that has it."""
    first: dict[StampFormat, int] = {}
    for rank in world.allgather(formats):
        for stamps, number in rank.items():
            first[stamps] = min(number, first.get(stamps, number))
    (expected, one), *others = sorted(first.items(), key=lambda entry: entry[1])
    for stamps, number in others:
        problem = f"has stamps {stamps.shape} of {', '.join(stamps.channels)}, expected {expected.shape} of "
        problem += f"{', '.join(expected.channels)} as in {files[one]}"
        raise InputError(files[number], problem, "run 'hpc-galaxy extract --overwrite'")
    return expected


def _require_unique(world: World, files: Sequence[Path], table: np.ndarray) -> None:
    """Refuse a galaxy that occurs twice: its copies could end on two sides of the split."""
    met = exchange(world, table[["order", "file", "row"]], table["order"])
    met = met[np.lexsort((met["row"], met["file"], met["order"]))]
    twice = np.flatnonzero(met["order"][1:] == met["order"][:-1])
    pairs = [(met[place], met[place + 1]) for place in twice[:100]]
    # Equal hashes of different ids happen once in ten thousand surveys of 60 million sources.
    found = [pair for rank in world.allgather(pairs) for pair in rank if _id_at(files, pair[0]) == _id_at(files, pair[1])]
    if found:
        one, other = found[0]
        problem = f"id {_id_at(files, one)} is also in {files[other['file']]}, expected each id once ({len(found)} such)"
        raise InputError(files[one["file"]], problem, "run 'hpc-galaxy extract --overwrite'")


def _id_at(files: Sequence[Path], place: np.void) -> str:
    with open_stamps(files[place["file"]]) as cutouts:
        return str(cutouts.sources()["id"][place["row"]].decode())


def _repeats_elsewhere(config: Config, world: World, sources: Sources) -> np.ndarray:
    """Return which sources are repeats of an injected galaxy whose other copies stay on another side, shape (n,), bool. Collective."""
    mine = sources.table[sources.kept() & (sources.table["injected"] > 0)]
    met = exchange(world, mine[["injected", "side", "file", "row"]], mine["injected"])
    goes = met[one_side_each(met["injected"], met["side"], chosen_side(config.seed, config.split))]
    back = exchange(world, goes[["file", "row"]], goes["file"])  # files are shared out in turn
    return np.isin(codes(sources.table), codes(back))


def codes(places: np.ndarray) -> np.ndarray:
    """Return one number for each place, shape (n,), uint64."""
    return places["file"].astype(np.uint64) << np.uint64(32) | places["row"]


def exchange(world: World, records: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Send each record to rank ``key % size``, in order; return what came here. Collective.

    Parameters
    ----------
    records, keys : structured ndarray, ndarray, shape (n,)
        What is sent, and what decides where.
    """
    packed = np.array(records, np.dtype([(name, records.dtype[name]) for name in records.dtype.names or ()]))
    return world.exchange([packed[keys % world.size == rank] for rank in range(world.size)])
