"""All pictures of a report, from scores to files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hpc_galaxy.config import Config
from hpc_galaxy.realism.mosaic import brightness_band, draw_mosaic
from hpc_galaxy.realism.pairs import choose_pairs, magnitude_at
from hpc_galaxy.realism.plots import draw_bins, draw_roc, draw_scores
from hpc_galaxy.realism.where import Bin
from hpc_galaxy.shards.numpy_shards import SplitReader


def draw_pictures(config: Config, reader: SplitReader, scores: np.ndarray, bins: list[Bin], line: str) -> list[Path]:
    """Draw the ROC curves, the scores, the AUC in bins, and mosaics into ``paths.report``; return what has been drawn.

    Parameters
    ----------
    config : Config
        The sections [realism] and [paths] matter here.
    reader : SplitReader
        Of the test split.
    scores : ndarray, shape (networks, N)
        Of its stamps.
    bins : list of Bin
        See `hpc_galaxy.realism.where.locate`.
    line : str
        The result, above the curves.
    """
    out = config.paths.report
    return [*_draw_curves(reader.labels, scores, line, out), *_draw_bins(bins, line, out), *_draw_mosaics(config, reader)]


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
