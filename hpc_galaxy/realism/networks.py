"""The networks of a run, which differ in their seed alone: read, compared with each other, and asked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from hpc_galaxy.config import Config
from hpc_galaxy.errors import InputError
from hpc_galaxy.files import read_object
from hpc_galaxy.shards.manifest import Manifest
from hpc_galaxy.shards.numpy_shards import SplitReader
from hpc_galaxy.training.checkpoint import shards_fingerprint, training_fingerprint
from hpc_galaxy.training.data.batches import Dataset
from hpc_galaxy.training.networks import network_config, network_path
from hpc_galaxy.training.parallel.choose import pick_device
from hpc_galaxy.training.scores import compute_logits
from hpc_galaxy.training.weights import NAME, Weights, load_weights, restore_model
from hpc_galaxy.world import World

MADE_BY, DONE = "hpc-galaxy train", "DONE"
AGAIN = "run 'hpc-galaxy train --overwrite'"


def load_networks(config: Config, reader: SplitReader) -> list[Weights]:
    """Read the best weights of each of ``train.networks`` networks, and see to it that the test split was held out from all.

    Raises
    ------
    InputError
        A training is not done, was done on other shards, or with another configuration than the first.
    FormatError
        Weights are damaged.
    """
    run, count = config.paths.run, config.train.networks
    read_object(run / DONE, MADE_BY, epochs=int)
    paths = {number: network_path(run, number) for number in range(1, count + 1)}
    missing = [str(number) for number, path in paths.items() if not (path / DONE).exists()]
    if missing:
        problem = f"lacks network{'s' * (len(missing) > 1)} {', '.join(missing)} of train.networks = {count}"
        raise InputError(run, problem, f"run '{MADE_BY}', which trains what is missing, or set train.networks to what is there")
    networks = [_load(path, reader) for path in paths.values()]
    for number, path in list(paths.items())[1:]:
        _require_same_training(networks[0], networks[number - 1], number, path, reader.manifest)
    return networks


def _load(path: Path, reader: SplitReader) -> Weights:
    """Read the weights with the lowest validation loss."""
    read_object(path / DONE, MADE_BY, epochs=int)
    weights = load_weights(path / NAME)
    if weights.about.shards != shards_fingerprint(reader.manifest):
        problem = f"was trained on other shards than {reader.directory}, so their test split may not have been held out"
        raise InputError(path, problem, f"{AGAIN}, or give the paths.shards it was trained on")
    return weights


def _require_same_training(first: Weights, other: Weights, number: int, path: Path, manifest: Manifest) -> None:
    """See to it that a network is what the first would have been with its seed."""
    try:
        asked = network_config(Config.model_validate(first.about.config), number)
    except ValidationError as error:
        problem = f"holds a configuration that this version does not know ({error.errors()[0]['msg']})"
        raise InputError(path.parent / NAME, problem, AGAIN) from None
    if other.about.fingerprint != training_fingerprint(asked, manifest):
        problem = f"was trained with another configuration than the first network, or not from seed {asked.seed}"
        raise InputError(path, problem, AGAIN)


def compute_all_logits(networks: Sequence[Weights], dataset: Dataset, world: World) -> np.ndarray | None:
    """Return the logits of a whole split by each network on rank 0, None elsewhere. Collective.

    Returns
    -------
    ndarray, shape (networks, N, 2), float64
        In the order of the split; column 1 is 'fake'.
    """
    device = pick_device(world)
    found = [compute_logits(restore_model(weights).to(device), dataset, world, device) for weights in networks]
    return np.stack([logits for logits in found if logits is not None]) if world.is_root else None
