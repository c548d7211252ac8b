"""``hpc-galaxy extract``: stamps of real and fake galaxies, one HDF5 file a brick and class, MPI over bricks.

Both classes come out of the same catalogs through the same cuts, at measured positions, by one pixel convention. By default
they also come out of the same coadds, those with the fakes in them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from hpc_galaxy import __version__
from hpc_galaxy.bricks.catalog import read_catalog
from hpc_galaxy.bricks.images import BANDS, read_planes
from hpc_galaxy.bricks.layout import list_bricks, list_injected_bricks, list_realisations, tractor_path
from hpc_galaxy.bricks.simcat import read_injected
from hpc_galaxy.config import Config
from hpc_galaxy.cutouts.selection import SELECTIONS, apply_cuts
from hpc_galaxy.cutouts.sources import fake_ids, isolated, match_injected, real_ids, source_table
from hpc_galaxy.cutouts.stamps import cut_stamps, inside
from hpc_galaxy.errors import HpcGalaxyError, StageError
from hpc_galaxy.files import shown
from hpc_galaxy.ledger import Ledger, fingerprint, require_complete
from hpc_galaxy.shards.cutout_file import cutout_path, open_cutouts, write_cutouts
from hpc_galaxy.shards.schema import LABELS
from hpc_galaxy.tracing.progress import track
from hpc_galaxy.tracing.spans import Stopwatch
from hpc_galaxy.world import World

Part = tuple[np.ndarray, np.ndarray, dict[str, int]]
"""Stamps, their source table, and how many sources each cut removed."""


def extract(config: Config, world: World, overwrite: bool = False) -> None:
    """Cut every selected source of every brick into ``paths.cutouts``; continues where it stopped.

    Raises
    ------
    StageError
        Some bricks failed; all others are done, and the ledger names the failures.
    """
    root = config.paths.cutouts
    inputs = input_trees(config)
    for stage, directory in inputs.items():
        require_complete(directory, stage)
    bricks = list_injected_bricks(inputs["inject"]) if "inject" in inputs else list_bricks(inputs["survey"])
    ledger = Ledger(root, "extract", fingerprint(config, "extract", *inputs.values()))
    ledger.open(config, world, overwrite, list(LABELS))
    watch = Stopwatch()
    entries = [_try_brick(config, brick, ledger.fingerprint, watch) for brick in track(world, "extract", bricks)]
    entries = ledger.close(world, entries)
    world.say(watch.summary(world, "extract", "cutouts"))
    if world.is_root:
        _say_cut_flow(world, entries)
        world.say(f"extract: {shown(root)}")
        _require_success(entries)
    world.barrier()


def input_trees(config: Config) -> dict[str, Path]:
    """Return the directories that stamps are cut from, by the stage that makes them: ``survey``, ``inject`` (obiwan's), or both."""
    real_from_survey = "real" in config.extract.classes and config.extract.real_from == "survey"
    trees = {}
    if "fake" in config.extract.classes or not real_from_survey:
        trees["inject"] = config.paths.obiwan
    if real_from_survey:
        trees["survey"] = config.paths.survey
    return trees


def _try_brick(config: Config, brick: str, stamp: str, watch: Stopwatch) -> dict[str, Any]:
    """Extract one brick; a bad one is noted in the ledger and does not stop the others."""
    try:
        return _extract_brick(config, brick, stamp, watch)
    except HpcGalaxyError as error:
        return {"brick": brick, "error": str(error)}


def _extract_brick(config: Config, brick: str, stamp: str, watch: Stopwatch) -> dict[str, Any]:
    paths: dict[str, Path] = {label: cutout_path(config.paths.cutouts, label, brick) for label in config.extract.classes}
    missing = [label for label, path in paths.items() if not path.exists()]
    for label, (images, table, flow) in cut_brick(config, brick, missing, watch).items():
        attributes = {"brick": brick, "label": label, "fingerprint": stamp, "code_version": __version__, "cut_flow": flow}
        with watch.span("write"):
            write_cutouts(paths[label], images, table, attributes)
    entry: dict[str, Any] = {"brick": brick}
    for label, path in paths.items():
        with open_cutouts(path) as cutouts:
            entry |= {label: len(cutouts), f"{label}_cut_flow": json.loads(cutouts.attributes["cut_flow"])}
        watch.count("cutouts", entry[label])
    return entry


def cut_brick(config: Config, brick: str, labels: list[str], watch: Stopwatch) -> dict[str, Part]:
    """Cut the stamps of one brick.

    Returns
    -------
    dict of str to (images, table, flow)
        By class: stamps of shape (N, 64, 64, 6), their source table, and how many sources each cut removed.
    """
    parts: dict[str, list[Part]] = {label: [] for label in labels}
    if not labels:
        return {}
    inputs = input_trees(config)
    if "real" in labels and "survey" in inputs:
        parts["real"].append(_cut_tree(config, brick, "", ["real"], watch)["real"])
    if "inject" in inputs:
        for number, rs in enumerate(list_realisations(config.paths.obiwan, brick)):
            # Realisations show the same real galaxies: those of the first are enough.
            wanted = [label for label in labels if label == "fake" or (number == 0 and config.extract.real_from == "injected")]
            if wanted:
                for label, part in _cut_tree(config, brick, rs, wanted, watch).items():
                    parts[label].append(part)
    return {label: _join(found) for label, found in parts.items()}


def _join(parts: list[Part]) -> Part:
    images, tables, flows = zip(*parts, strict=True)
    return np.concatenate(images), np.concatenate(tables), _sum_flows(flows)


def _sum_flows(flows: Iterable[dict[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for flow in flows:
        for name, count in flow.items():
            total[name] = total.get(name, 0) + count
    return total


def _cut_tree(config: Config, brick: str, rs: str, labels: list[str], watch: Stopwatch) -> dict[str, Part]:
    """Cut the wanted classes of one brick out of the survey (`rs` empty) or out of one of obiwan's realisations."""
    root = config.paths.obiwan if rs else config.paths.survey
    with watch.span("read"):
        catalog = read_catalog(tractor_path(root, brick, rs))
        injected = read_injected(root, brick, rs) if rs else None
        planes = read_planes(root, brick, rs)
    shape = planes[f"image_{BANDS[0]}"].shape
    match, best = match_injected(catalog, catalog[:0] if injected is None else injected, config.extract.match_arcsec)
    cuts = {
        "nearest to the injected position": best,
        "on the coadd": inside(catalog["bx"], catalog["by"], shape),
        "isolated": isolated(catalog, config.extract.match_arcsec),
        **SELECTIONS[config.extract.selection](catalog),
    }
    parts = {}
    for label in labels:
        rows = np.flatnonzero((match >= 0) == bool(LABELS[label]))
        keep, flow = apply_cuts(catalog[rows], {name: cut[rows] for name, cut in cuts.items()})
        chosen = rows[keep]
        ids = real_ids(catalog[chosen]) if injected is None or label == "real" else fake_ids(injected[match[chosen]], brick, rs)
        table = source_table(catalog[chosen], label, brick, rs, ids)
        with watch.span("cut"):
            images, table["edge"] = cut_stamps(planes, catalog["bx"][chosen], catalog["by"][chosen])
        parts[label] = images, table, {"catalog": len(rows), **flow}
    return parts


def _say_cut_flow(world: World, entries: list[dict[str, Any]]) -> None:
    for label in LABELS:
        flow = _sum_flows(entry[f"{label}_cut_flow"] for entry in entries if label in entry)
        if flow:
            found = flow.pop("catalog")
            steps = ", ".join(f"{name} -{count}" for name, count in flow.items() if count)
            world.say(f"extract: {label}: {found} in the catalogs, {found - sum(flow.values())} cut out ({steps or 'none removed'})")


def _require_success(entries: list[dict[str, Any]]) -> None:
    failed = [entry for entry in entries if "error" in entry]
    if failed:
        listing = "".join(f"\n  {entry['error']}" for entry in failed[:10])
        more = f"\n  and {len(failed) - 10} more, see ledger.json" if len(failed) > 10 else ""
        raise StageError(
            "extract",
            f"{len(failed)} of {len(entries)} bricks failed:{listing}{more}\n",
            "mend them and run the command again: it continues",
        )
