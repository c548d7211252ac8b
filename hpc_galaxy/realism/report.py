"""The stage ``realism``: score the held-out test split with the networks of a run, and report."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hpc_galaxy import __version__
from hpc_galaxy.config import Config
from hpc_galaxy.files import lock, shown, whole_file, write_json
from hpc_galaxy.ledger import LOCK
from hpc_galaxy.realism.baselines import Baseline, ladder, run_baselines
from hpc_galaxy.realism.checksums import compute_checksums
from hpc_galaxy.realism.gate import find_leaks, read_checks, require_audit
from hpc_galaxy.realism.html.build import write_html
from hpc_galaxy.realism.html.shards import describe_shards
from hpc_galaxy.realism.mosaic import brightness_band
from hpc_galaxy.realism.networks import compute_all_logits, load_networks
from hpc_galaxy.realism.pictures import draw_pictures
from hpc_galaxy.realism.statistics import summarise
from hpc_galaxy.realism.where import describe, locate, quantities
from hpc_galaxy.realism.why.explain import explain
from hpc_galaxy.shards.numpy_shards import SplitReader, open_split
from hpc_galaxy.tracing.attempt import recording
from hpc_galaxy.tracing.spans import Stopwatch
from hpc_galaxy.training.data.batches import Dataset
from hpc_galaxy.training.node import threads_per_rank
from hpc_galaxy.training.parallel.choose import pick_device
from hpc_galaxy.training.scores import fake_probability
from hpc_galaxy.training.weights import About, Weights, restore_model
from hpc_galaxy.world import World

CONFIGURATION = "config.toml"  # beside the report: all that the stages need to make it again
AGAIN = ("inject", "extract", "split", "train", "realism")


def report(config: Config, world: World, overwrite: bool) -> None:
    """Score the test split of ``paths.shards`` with the networks of ``paths.run`` and write ``paths.report``.

    Each network is the one of its training's best epoch; there have to be as many as ``train.networks``.

    Parameters
    ----------
    config : Config
        The sections [realism], [train] (networks, threads) and [paths], and the seed, matter here.
    world : World
        Every rank must call this; each scores a part.
    overwrite : bool
        Makes no difference: a report is cheap, and always made anew.

    Raises
    ------
    InputError
        A training is not done, or was done on other shards or with another configuration than the first.
    FormatError
        The weights or the shards are damaged.
    OutputError
        Another job writes there, or the files cannot be written.
    """
    # Two reports at a time would leave the numbers of one beside the pictures of the other.
    held = lock(config.paths.report / LOCK) if world.is_root else nullcontext()
    with held, recording(config.trace, config.paths.report, "realism", world) as recorder:
        _report(config, world, Stopwatch(recorder))


def _report(config: Config, world: World, watch: Stopwatch) -> None:
    reader = open_split(config.paths.shards, "test")
    networks = world.bcast(load_networks(config, reader) if world.is_root else [])
    dataset = Dataset(reader, networks[0].inputs, config.train.data)
    dataset.check()
    audit = require_audit(reader, world, config.seed, config.paths.report)
    torch.set_num_threads(threads_per_rank(world, config.train.threads))
    with watch.span("score"):
        logits = compute_all_logits(networks, dataset, world)
    with watch.span("explain"):
        why = _explain(config, reader, networks[0], logits, world)
    if logits is not None:
        with watch.span("draw and write"):
            _write(config, reader, logits, [network.about for network in networks], audit, why)


def _explain(config: Config, reader: SplitReader, network: Weights, logits: np.ndarray | None, world: World) -> dict[str, Any]:
    """Return the key ``why`` of the report, on rank 0; nothing where it is not asked for. Collective."""
    if not config.realism.explain:
        return {}
    device = pick_device(world)
    found = explain(config, reader, restore_model(network).to(device), network.inputs, device, logits, world)
    return {} if found is None else {"why": found}


def _write(config: Config, reader: SplitReader, logits: np.ndarray, networks: list[About], audit: Path, why: dict[str, Any]) -> None:
    labels, bricks, scores, out = reader.labels, reader.table["brick"], fake_probability(logits), config.paths.report
    values = quantities(reader.table, reader.stamp_format)
    bins = locate(labels, scores, bricks, values, config.realism.permutations, config.seed)
    where = describe(bins, next(iter(values)))
    simpler = _run_baselines(config, reader)
    numbers = summarise(labels, logits, bricks, config.realism, config.seed, find_leaks(audit), where, simpler)
    line = headline(numbers)
    pictures = [path.name for path in draw_pictures(config, reader, scores, bins, line)] + list(why_pictures(why))
    _write_scores(reader.table, scores, brightness_band(reader.stamp_format), out / "scores.csv")
    pairs = zip(networks, numbers["networks"], strict=True)
    content = {
        **numbers,
        "networks": [{"seed": about.seed, "epoch": about.epoch} | mine for about, mine in pairs],
        "bins": [asdict(each) for each in bins],
        "baselines": [asdict(each) for each in simpler],
        # Relative to the report, so that it is the same wherever that lies.
        "audit": {"path": os.path.relpath(audit, out), "checks": read_checks(audit)},
        **describe_shards(reader.manifest),
        **why,
        "provenance": _provenance(config, networks[0]),
        "commands": [f"hpc-galaxy {stage} -c {CONFIGURATION}" for stage in AGAIN],
        "pictures": pictures,
        "checksums": compute_checksums(config.paths, pictures),
    }
    write_json(out / "report.json", content)
    page = write_html(content, out)
    config.save(out / CONFIGURATION)
    print(confusion_text(numbers["confusion"]), line, *network_lines(content["networks"]), *ladder(simpler), sep="\n")
    print(f"realism: {shown(out)}: {', '.join([page.name, 'report.json', 'scores.csv', *pictures])}")
    print(f"realism: {numbers['verdict']['sentence']}", flush=True)


def why_pictures(content: dict[str, Any]) -> Iterator[str]:
    """Yield the names of the pictures that a report's explanations have made."""
    for part in (content.get("why") or {}).values():
        if isinstance(part, dict):
            yield from part.get("pictures") or ([part["picture"]] if part.get("picture") else [])


def _provenance(config: Config, about: About) -> dict[str, Any]:
    return {
        "code_version": __version__,
        "seed": config.seed,
        "configuration": config.fingerprint("realism"),
        "training": about.fingerprint,
        "shards": about.shards,
        "checkpoint_epoch": about.epoch,
    }


def _run_baselines(config: Config, reader: SplitReader) -> list[Baseline]:
    if not config.realism.baselines:
        return []
    return run_baselines(open_split(config.paths.shards, "train"), reader, config.realism.permutations, config.seed)


def headline(numbers: dict[str, Any]) -> str:
    """Return the result as one line."""
    value, interval = numbers["auc"], numbers["auc_interval"]
    area = "AUC undefined (one class is missing)" if value is None else f"AUC {value:.3f}"
    bounds = f"[{interval[0]:.3f}, {interval[1]:.3f}] " if interval else ""
    several = f", mean of {len(numbers['networks'])} networks" if len(numbers["networks"]) > 1 else ""
    method, accuracy = numbers["auc_interval_method"], numbers["accuracy"]
    return f"test {area} {bounds}({method}{several}), accuracy {accuracy:.3f}, {numbers['examples']} examples"


def network_lines(networks: list[dict[str, Any]]) -> list[str]:
    """Return a line for each network, as text; none where there is one alone."""
    lines = []
    for each in networks if len(networks) > 1 else ():
        value, interval = each["auc"], each["auc_interval"]
        bounds = f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else ""
        area = "undefined" if value is None else f"{value:.3f}{bounds}"
        lines.append(f"  network of seed {each['seed']}, epoch {each['epoch']}: AUC {area}")
    return lines


def confusion_text(table: dict[str, dict[str, int]]) -> str:
    """Return the confusion table as text, a row for each true class."""
    columns = list(table["real"])
    lines = [" " * 6 + "".join(f"{column:>14}" for column in columns)]
    return "\n".join(lines + [f"{name:6}" + "".join(f"{table[name][column]:14d}" for column in columns) for name in table])


def _write_scores(table: np.ndarray, scores: np.ndarray, band: str, path: Path) -> None:
    """Write a line a stamp: its mean score and, of several networks, that of each."""
    columns = [scores.mean(axis=0), *(scores if len(scores) > 1 else ())]
    names = ["score", *(f"score_{number}" for number in range(1, len(columns)))]
    with whole_file(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "brick", "label", f"mag_{band}", *names])
        for row, *values in zip(table, *columns, strict=True):
            known = [row["id"].decode(), row["brick"].decode(), row["label"], f"{row[f'mag_{band}']:.4f}"]
            writer.writerow([*known, *(f"{value:.9g}" for value in values)])
