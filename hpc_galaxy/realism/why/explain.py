"""All that is said of why fakes are told apart, for the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from hpc_galaxy.config import Config
from hpc_galaxy.realism.mosaic import brightness_band, colour_pictures
from hpc_galaxy.realism.why.galleries import GALLERIES, choose_galleries, list_galaxies
from hpc_galaxy.realism.why.occlusion import most_certain, occlude
from hpc_galaxy.realism.why.pictures import draw_gallery, draw_occlusion, draw_stacks
from hpc_galaxy.realism.why.sensitivity import sensitivity
from hpc_galaxy.realism.why.stacks import add_up, largest_by_chance, make_stacks, membership
from hpc_galaxy.realism.why.truth import UNITS, join_truth, read_truth, wanted_copies
from hpc_galaxy.shards.numpy_shards import SplitReader
from hpc_galaxy.splits.columns import features
from hpc_galaxy.training.data.inputs import Inputs
from hpc_galaxy.world import World

Part = dict[str, Any] | str
"""What is said, or why nothing can be."""


def explain(
    config: Config,
    reader: SplitReader,
    model: nn.Module,
    inputs: Inputs,
    device: torch.device,
    logits: np.ndarray | None,
    world: World,
) -> dict[str, Any] | None:
    """Say why fakes are told apart, and draw it into ``paths.report``. Collective.

    Parameters
    ----------
    config : Config
        `Realism.occlusion_galaxies`, ``paths.obiwan`` and ``paths.report`` matter here.
    reader : SplitReader
        The test split.
    model, device : Module, device
        The network that is looked at, on its device; of several, the first.
    inputs : Inputs
        What it sees.
    logits : ndarray, shape (N, 2) or (networks, N, 2), float64, or None
        On rank 0 those of the split, in its order; elsewhere None. A galaxy's score is the mean over the networks of the logit of fake
        minus that of real.
    world : World
        Every rank must call this.

    Returns
    -------
    dict or None
        On rank 0, ready for JSON: ``stacks``, ``occlusion``, ``galleries`` and ``sensitivity``. What cannot be said is None, with the
        reason as ``<part>_missing`` beside it. None on the other ranks.

    Raises
    ------
    FormatError
        A shard is damaged.
    OutputError
        A picture cannot be written.
    """
    scores = None if logits is None else mean_scores(logits)
    parts = {
        "stacks": _stacks(config.paths.report, reader, world),
        "occlusion": _occlusion(config, reader, model, inputs, device, scores, world),
        "galleries": _galleries(config.paths.report, reader, scores),
        "sensitivity": _sensitivity(config.paths.obiwan, reader, scores, world),
    }
    if not world.is_root:
        return None
    found: dict[str, Any] = {}
    for name, part in parts.items():
        found |= {name: None, f"{name}_missing": part} if isinstance(part, str) else {name: part}
    return found


def mean_scores(logits: np.ndarray) -> np.ndarray:
    """Return the logit of fake minus that of real, the mean over networks, shape (N,), of logits of shape (N, 2) or (networks, N, 2)."""
    return np.asarray((logits[..., 1] - logits[..., 0]).reshape(-1, logits.shape[-2]).mean(axis=0))


def _stacks(out: Path, reader: SplitReader, world: World) -> Part:
    stamps = reader.stamp_format
    members = world.bcast(membership(reader.table, reader.labels, stamps) if world.is_root else "")
    if isinstance(members, str):
        return members
    sums = add_up(reader, members, world)
    if sums is None:
        return ""
    stacks = make_stacks(sums, members)
    draw_stacks(stacks, stamps.bands, out / "stacks.png")
    rows = [row for stack in stacks for row in stack.rows(stamps.bands)]
    return {"picture": "stacks.png", "rows": rows, "largest_by_chance": largest_by_chance(stamps.size**2)}


def _occlusion(
    config: Config,
    reader: SplitReader,
    model: nn.Module,
    inputs: Inputs,
    device: torch.device,
    scores: np.ndarray | None,
    world: World,
) -> Part:
    count = config.realism.occlusion_galaxies
    if not count:
        return "realism.occlusion_galaxies is 0"
    chosen = None
    if scores is not None:
        rows = most_certain(reader.labels, scores, count)
        chosen = rows, reader.labels[rows]
    both = world.bcast(chosen)
    assert both is not None
    found = occlude(model, device, reader, inputs, *both, world)
    if found is None:
        return ""
    draw_occlusion(found, both[1], config.paths.report / "occlusion.png")
    return {"picture": "occlusion.png", "galaxies": len(both[0]), "patch_pixels": found.patch, "rows": found.rows()}


def _galleries(out: Path, reader: SplitReader, scores: np.ndarray | None) -> Part:
    stamps = reader.stamp_format
    if scores is None:
        return ""
    if "image" not in stamps.planes:
        return "the shards hold no images"
    chosen = choose_galleries(reader.labels, scores)
    # At once, so that all share one colour scale.
    pictures = colour_pictures(reader.stamps(np.concatenate(list(chosen.values()))), stamps)
    found: dict[str, Any] = {"pictures": [f"{name}.png" for name in chosen], **{name: [] for name in GALLERIES}}
    for name, rows in chosen.items():
        found[name] = list_galaxies(reader.table, scores, rows, stamps)
        draw_gallery(name, pictures[: len(rows)], found[name], brightness_band(stamps), out / f"{name}.png")
        pictures = pictures[len(rows) :]
    return found


def _sensitivity(root: Path, reader: SplitReader, scores: np.ndarray | None, world: World) -> Part:
    both_classes = scores is not None and len(np.unique(reader.labels)) == 2
    wanted = world.bcast(wanted_copies(reader.table, reader.labels) if both_classes else None)
    if wanted is None:
        return "one class is missing"
    truth = read_truth(root, wanted, world)
    if isinstance(truth, str) or scores is None:
        return truth if isinstance(truth, str) else ""
    return _weigh(reader, scores, truth)


def _weigh(reader: SplitReader, scores: np.ndarray, truth: np.ndarray) -> Part:
    table, labels, stamps = reader.table, reader.labels, reader.stamp_format
    fakes = np.flatnonzero(labels == 1)
    rows = join_truth(table[fakes], truth)
    if isinstance(rows, str):
        return rows
    parameters = {name: np.full(len(table), np.nan) for name in UNITS}
    for name, values in parameters.items():
        values[fakes[rows >= 0]] = truth[name][rows[rows >= 0]]
    band = stamps.bands[len(stamps.bands) // 2]
    columns = (f"psfsize_{band}", f"depth_{band}")
    conditions = dict(zip(columns, features(table, columns).T.astype(np.float64), strict=True))
    return sensitivity(labels, scores, table["brick"], parameters, conditions, UNITS)
