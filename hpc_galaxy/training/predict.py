"""The verb ``predict``; what it does is in `score`. This sets the node up first, because torch reads its settings when it is imported."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hpc_galaxy.config import Train
from hpc_galaxy.training.node import prepare_node
from hpc_galaxy.world import World


def predict(weights: Path, paths: Sequence[Path], out: Path, world: World, split: str | None = None) -> None:
    """Score shards or cutout files with a trained network. Collective.

    Parameters
    ----------
    weights : Path
        ``weights.safetensors``, or the run's directory.
    paths : sequence of Path
        Directories of shards, cutout files of either layout, folders of them.
    out : Path
        The table to write, a row a stamp: id, brick, label (0 real, 1 fake, 255 neither is known), and the score, the probability of
        'fake'. ``.csv``, or ``.npy``: a structured array. Its bytes do not depend on the number of ranks.
    world : World
        Every rank must call this; each scores a part.
    split : str, optional
        Of shards, only this one.

    Raises
    ------
    InputError, FormatError
        Something is missing, damaged, or not what the network was trained on.
    OutputError
        `out` cannot be written.
    """
    layout = prepare_node(Train(), world)
    from hpc_galaxy.training.score import score

    score(weights, paths, out, world, split, layout.threads)
