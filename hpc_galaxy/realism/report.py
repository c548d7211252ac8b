"""The stage ``realism``: score the held-out test split with the best network of a run, and report."""

from __future__ import annotations

import csv
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hpc_galaxy import __version__
from hpc_galaxy.config import Config
from hpc_galaxy.errors import InputError
from hpc_galaxy.files import lock, read_object, shown, whole_file, write_json
from hpc_galaxy.ledger import LOCK
from hpc_galaxy.realism.baselines import Baseline, ladder, run_baselines
from hpc_galaxy.realism.gate import find_leaks, require_audit
from hpc_galaxy.realism.mosaic import brightness_band, draw_mosaic
from hpc_galaxy.realism.pairs import choose_pairs, magnitude_at
from hpc_galaxy.realism.plots import draw_bins, draw_roc, draw_scores
from hpc_galaxy.realism.statistics import summarise
from hpc_galaxy.realism.where import Bin, describe, locate, quantities
from hpc_galaxy.shards.numpy_shards import SplitReader, open_split
from hpc_galaxy.tracing.attempt import recording
from hpc_galaxy.tracing.spans import Stopwatch
from hpc_galaxy.training.checkpoint import shards_fingerprint
from hpc_galaxy.training.data.batches import Dataset
from hpc_galaxy.training.node import threads_per_rank
from hpc_galaxy.training.parallel.choose import pick_device
from hpc_galaxy.training.scores import compute_logits, fake_probability
from hpc_galaxy.training.weights import NAME, About, Weights, load_weights, restore_model
from hpc_galaxy.world import World


def report(config: Config, world: World, overwrite: bool) -> None:
    """Score the test split of ``paths.shards`` with the best network of ``paths.run`` and write ``paths.report``.

    Parameters
    ----------
    config : Config
        The sections [realism], [train] (threads) and [paths], and the seed, matter here.
    world : World
        Every rank must call this; each scores a part.
    overwrite : bool
        Makes no difference: a report is cheap, and always made anew.

    Raises
    ------
    InputError
        The training is not done, or was done on other shards.
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
    weights = world.bcast(_load_best(config.paths.run, reader) if world.is_root else None)
    assert weights is not None
    dataset = Dataset(reader, weights.inputs, config.train.data)
    dataset.check()
    audit = require_audit(reader, world, config.seed, config.paths.report)
    device = pick_device(world)
    torch.set_num_threads(threads_per_rank(world, config.train.threads))
    with watch.span("score"):
        logits = compute_logits(restore_model(weights).to(device), dataset, world, device)
    if logits is not None:
        with watch.span("draw and write"):
            _write(config, reader, logits, weights.about, find_leaks(audit))


def _load_best(run: Path, reader: SplitReader) -> Weights:
    """Read the weights with the lowest validation loss, and see to it that the test split was held out."""
    read_object(run / "DONE", "hpc-galaxy train", epochs=int)
    weights = load_weights(run / NAME)
    if weights.about.shards != shards_fingerprint(reader.manifest):
        problem = f"was trained on other shards than {reader.directory}, so their test split may not have been held out"
        raise InputError(run, problem, "run 'hpc-galaxy train --overwrite', or give the paths.shards it was trained on")
    return weights


def _write(config: Config, reader: SplitReader, logits: np.ndarray, about: About, leaks: list[str]) -> None:
    labels, scores, out = reader.labels, fake_probability(logits), config.paths.report
    values = quantities(reader.table, reader.stamp_format)
    bins = locate(labels, scores, reader.table["brick"], values, config.realism.permutations, config.seed)
    where = describe(bins, next(iter(values)))
    numbers = summarise(labels, logits, reader.table["brick"], config.realism, config.seed, leaks, where)
    simpler, line = _run_baselines(config, reader), headline(numbers)
    pictures = _draw_curves(labels, scores, line, out) + _draw_bins(bins, line, out) + _draw_mosaics(config, reader)
    _write_scores(reader.table, scores, brightness_band(reader.stamp_format), out / "scores.csv")
    content = {
        **numbers,
        "bins": [asdict(each) for each in bins],
        "baselines": [asdict(each) for each in simpler],
        "provenance": _provenance(config, about),
        "pictures": [path.name for path in pictures],
    }
    write_json(out / "report.json", content)
    print(confusion_text(numbers["confusion"]), line, *ladder(simpler), sep="\n")
    print(f"realism: {shown(out)}: {', '.join(['report.json', 'scores.csv', *[path.name for path in pictures]])}")
    print(f"realism: {numbers['verdict']['sentence']}", flush=True)


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
    return f"test {area} {bounds}({numbers['auc_interval_method']}), accuracy {numbers['accuracy']:.3f}, {numbers['examples']} examples"


def confusion_text(table: dict[str, dict[str, int]]) -> str:
    """Return the confusion table as text, a row for each true class."""
    columns = list(table["real"])
    lines = [" " * 6 + "".join(f"{column:>14}" for column in columns)]
    return "\n".join(lines + [f"{name:6}" + "".join(f"{table[name][column]:14d}" for column in columns) for name in table])


def _draw_curves(labels: np.ndarray, scores: np.ndarray, line: str, out: Path) -> list[Path]:
    draw_scores(labels, scores, line, out / "scores.png")
    if len(np.unique(labels)) < 2:
        return [out / "scores.png"]
    draw_roc(labels, scores, line, out / "roc.png")
    return [out / "roc.png", out / "scores.png"]


def _draw_bins(bins: list[Bin], line: str, out: Path) -> list[Path]:
    if not bins:
        return []
    draw_bins(bins, line, out / "where.png")
    return [out / "where.png"]


def _draw_mosaics(config: Config, reader: SplitReader) -> list[Path]:
    """Draw a mosaic for each percentile; none where no pair has magnitudes."""
    table, paths, stamps = reader.table, [], reader.stamp_format
    band = brightness_band(stamps)
    magnitudes = table[f"mag_{band}"]
    if not np.isfinite(magnitudes).any():
        print(f"realism: no galaxy has a {band} magnitude, so there are no mosaics", flush=True)
        return []
    for percentile in config.realism.percentiles:
        target = magnitude_at(magnitudes, percentile)
        rows = choose_pairs(table, target, config.realism.pairs, band).ravel()
        if not len(rows):
            print(f"realism: no pair of real and fake for percentile {percentile:g}, so it has no mosaic", flush=True)
            continue
        path = config.paths.report / f"mosaic_p{percentile:g}.png"
        title = f"Test galaxies near percentile {percentile:g} of brightness in {band}: {target:.2f} mag (percentile 99 is bright)"
        letters = ["RF"[label] for label in table["label"][rows]]
        draw_mosaic(reader.stamps(rows), letters, magnitudes[rows], title, path, stamps)
        paths.append(path)
    return paths


def _write_scores(table: np.ndarray, scores: np.ndarray, band: str, path: Path) -> None:
    with whole_file(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "brick", "label", f"mag_{band}", "score"])
        for row, score in zip(table, scores, strict=True):
            writer.writerow([row["id"].decode(), row["brick"].decode(), row["label"], f"{row[f'mag_{band}']:.4f}", f"{score:.9g}"])
