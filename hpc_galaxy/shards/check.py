"""``hpc-galaxy check``: read every byte of cutout files and shards, and name every problem."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpc_galaxy.errors import HpcGalaxyError, InputError, StageError
from hpc_galaxy.files import read_json
from hpc_galaxy.ledger import LEDGER, MARKER
from hpc_galaxy.schedule import deal
from hpc_galaxy.shards.check_cutouts import check_stamps
from hpc_galaxy.shards.check_shards import check_manifest, check_shard, list_shards, manifest_of
from hpc_galaxy.shards.layout_2018 import FILE
from hpc_galaxy.shards.layouts import existing_path
from hpc_galaxy.shards.manifest import NAME
from hpc_galaxy.shards.schema import CLASSES
from hpc_galaxy.tracing.spans import Stopwatch
from hpc_galaxy.world import World

SERIAL = World()


@dataclass(frozen=True)
class Item:
    """Something to be checked by one rank.

    Attributes
    ----------
    shown : Path
        The file or directory that the result is printed for.
    kind : str
        ``stamps``, ``manifest``, ``shard`` or ``ledger``.
    details : dict
        What the directory says of a file of stamps; split and number of a shard; what was found wrong with a ledger.
    """

    shown: Path
    kind: str
    details: dict[str, Any] = field(default_factory=dict)


@dataclass
class Result:
    """What came out of an item: what it holds, and all that is wrong with it."""

    description: str = ""
    problems: list[str] = field(default_factory=list)


def check(paths: Sequence[Path], world: World = SERIAL) -> None:
    """Verify cutout files, shard directories (with ``manifest.json``), and whatever of both lies in folders. Collective.

    Every rank checks its share; rank 0 prints all results, in the order of the paths.

    Parameters
    ----------
    paths : sequence of Path
        Files, or folders of them. Of a folder that ``hpc-galaxy extract`` made, what its ledger says is checked too.
    world : World
        Whose ranks share the work.

    Raises
    ------
    InputError
        A path is not there, or holds nothing to be checked.
    StageError
        Something is wrong; every problem has been printed.
    """
    manifest_of.cache_clear()
    # Only rank 0 looks for the files: hundreds of ranks that list and stat them all would be a load of its own.
    items = list_items(paths) if world.is_root else []
    dealt = deal(world, "check", "files", list(enumerate(items)), Stopwatch(), [_cost(item) for item in items])
    gathered = world.gather([(number, run(item)) for number, item in dealt])
    results = sorted((pair for part in gathered for pair in part), key=lambda pair: pair[0])
    failed, total = world.bcast(_print(items, [result for _, result in results]) if world.is_root else (0, 0))
    if failed:
        raise StageError("check", f"{failed} of {total} failed", "see the lines above")


def _cost(item: Item) -> float:
    return item.shown.stat().st_size if item.kind == "stamps" and item.shown.exists() else 0.0


def run(item: Item) -> Result:
    """Check one item."""
    try:
        if item.kind == "stamps":
            return Result(*check_stamps(item.shown, item.details))
        if item.kind == "manifest":
            return Result(*check_manifest(item.shown.parent))
        if item.kind == "shard":
            return Result("", check_shard(item.shown.parent, item.details["split"], item.details["number"]))
        return Result(item.details["description"], item.details["problems"])
    except HpcGalaxyError as error:
        return Result("", [f"{error.problem}; {error.remedy}" if error.where == str(item.shown) else str(error)])
    except OSError as error:
        return Result("", [f"cannot be read ({error.strerror or error}); check permissions and the disk"])


def _print(items: Sequence[Item], results: Sequence[Result]) -> tuple[int, int]:
    """Print what came out, in the items' order; return how many files and directories failed, and of how many."""
    combined: dict[Path, Result] = {}
    for item, result in zip(items, results, strict=True):
        whole = combined.setdefault(item.shown, Result())
        whole.description = whole.description or result.description
        whole.problems += result.problems
    for path, whole in combined.items():
        for problem in whole.problems:
            print(f"FAILED: {path}: {problem}", flush=True)
        if not whole.problems:
            print(f"ok: {path}: {whole.description}", flush=True)
    return sum(bool(whole.problems) for whole in combined.values()), len(combined)


def list_items(paths: Sequence[Path]) -> list[Item]:
    """Return what is to be checked, in a stable order, nothing twice.

    Raises
    ------
    InputError
        A path is not there, or holds nothing to be checked.
    """
    items: dict[tuple[Any, ...], Item] = {}
    for path in paths:
        found = list(_of_file(path) if path.is_file() else _of_folder(path))
        if not found:
            problem = f"no .h5 file, no {FILE} and no {NAME} here"
            raise InputError(path, problem, "give a cutout file, a shard directory, or a folder of them")
        for item in found:
            items.setdefault((item.shown, item.kind, item.details.get("split"), item.details.get("number")), item)
    return list(items.values())


def _of_file(path: Path) -> Iterator[Item]:
    if path.name == NAME:
        yield from _of_shards(path)
    elif path.name in (MARKER, LEDGER):
        yield from _of_folder(path.parent)
    else:
        yield Item(path, "stamps")


def _of_folder(root: Path) -> Iterator[Item]:
    files = list(_walk(root, set()))
    expected: dict[Path, dict[str, Any]] = {}
    for marker in (path for path in files if path.name == MARKER):
        below = [path for path in files if _is_stamps(path) and marker.parent in path.parents]
        item, details = _of_stage(marker.parent, below)
        expected |= details
        yield from [item] if item else []
    for path in files:
        if path.name == NAME:
            yield from _of_shards(path)
        elif _is_stamps(path):
            yield Item(path, "stamps", expected.get(path, {}))


def _walk(folder: Path, seen: set[str]) -> Iterator[Path]:
    """Yield the files that matter, folder by folder, in order. Links to folders are followed: 2018's classes may be such."""
    real = os.path.realpath(folder)
    if real in seen or not folder.is_dir():
        return
    seen.add(real)
    with os.scandir(folder) as entries:
        # What a killed job was writing has a name that begins with a dot, and nobody reads it.
        names = sorted((not entry.is_file(), entry.name) for entry in entries if not entry.name.startswith("."))
    for is_folder, name in names:
        path = folder / name
        if is_folder:
            yield from _walk(path, seen)
        elif name in (MARKER, NAME) or _is_stamps(path):
            yield path


def _is_stamps(path: Path) -> bool:
    return path.suffix == ".h5" or path.name == FILE


def _of_shards(manifest: Path) -> Iterator[Item]:
    yield Item(manifest, "manifest")
    try:
        shards = list_shards(manifest.parent)
    except HpcGalaxyError:
        return  # the manifest's own check says why
    for split, number in shards:
        yield Item(manifest, "shard", {"split": split, "number": number})


def _of_stage(root: Path, found: Sequence[Path]) -> tuple[Item | None, dict[Path, dict[str, Any]]]:
    """Compare the files of stamps below a stage's directory with its ledger; return the outcome and what each file has to be."""
    try:
        stage = read_json(root / MARKER, "hpc-galaxy extract")
        if stage["stage"] != "extract":
            return None, {}
        promise = {"fingerprint": stage["fingerprint"]}
        expected: dict[Path, dict[str, Any]] = dict.fromkeys(found, promise)
        if not (root / LEDGER).exists():
            return _ledger(root, "", [f"has no {LEDGER}: 'hpc-galaxy extract' did not finish here, run it again"]), expected
        entries = read_json(root / LEDGER, "hpc-galaxy extract")["items"]
        listed, problems = _listed(root, entries)
    except HpcGalaxyError as error:
        return _ledger(root, "", [str(error)]), {}
    except (KeyError, TypeError, AttributeError):
        return _ledger(root, "", [f"{MARKER} or {LEDGER} is not as 'hpc-galaxy extract' writes it"]), {}
    problems += [f"{path.relative_to(root)} is not in the ledger" for path in found if path not in listed]
    counts = {path: promise | {"count": count} for path, count in listed.items()}
    return _ledger(root, f"{len(entries)} bricks in the ledger", problems), expected | counts


def _listed(root: Path, entries: Sequence[dict[str, Any]]) -> tuple[dict[Path, int], list[str]]:
    """Return the files that a ledger lists with their numbers of cutouts, and which of them are missing or failed."""
    listed: dict[Path, int] = {}
    problems = []
    for entry in entries:
        if "error" in entry:
            problems.append(f"brick {entry['brick']} failed: {entry['error']}")
            continue
        for label in (label for label in CLASSES if label in entry):
            try:
                listed[existing_path(root, label, str(entry["brick"]))] = entry[label]
            except InputError as error:
                problems.append(f"{os.path.relpath(error.where, root)}: {error.problem}")
    return listed, problems


def _ledger(root: Path, description: str, problems: list[str]) -> Item:
    return Item(root, "ledger", {"description": description, "problems": problems})
