"""The result of a training: weights as safetensors, with all inside that is needed to use them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import xxhash
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, safe_open, save
from torch import nn

from hpc_galaxy.errors import FormatError
from hpc_galaxy.files import whole_file
from hpc_galaxy.training.data.inputs import Inputs
from hpc_galaxy.training.model import make_model

NAME = "weights.safetensors"
FORMAT: Literal["hpc_galaxy weights"] = "hpc_galaxy weights"
VERSION: Literal[1] = 1
KEY = "hpc_galaxy"  # of the metadata, whose values are strings
REMEDY = "give the weights.safetensors of a run of 'hpc-galaxy train', or train again"


class About(BaseModel):
    """What is said of weights, inside their file.

    Attributes
    ----------
    model : str
        As ``train.model``.
    inputs : dict
        `Inputs.to_json`: from the pixels of which stamps, and how, the network's inputs are made.
    epoch, steps, seed : int
        When these weights were reached, and from which seed.
    metrics : dict
        The row of ``metrics.jsonl`` of that epoch.
    fingerprint, shards : str
        Of the training, and of the shards it was done on.
    config : dict
        The whole configuration.
    code_version : str
        Of the package.
    xxh128 : str
        Of the names and bytes of all tensors; made by `save_weights`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["hpc_galaxy weights"] = FORMAT
    version: Literal[1] = VERSION
    model: str
    inputs: dict[str, Any]
    epoch: int
    steps: int
    seed: int
    metrics: dict[str, Any]
    fingerprint: str
    shards: str
    config: dict[str, Any]
    code_version: str
    xxh128: str = ""


@dataclass(frozen=True)
class Weights:
    """Weights as read.

    Attributes
    ----------
    path : Path
        The file.
    state : dict of str to Tensor
        The network's parameters, on the CPU.
    about : About
        What the file says of them.
    """

    path: Path
    state: dict[str, torch.Tensor]
    about: About

    @property
    def inputs(self) -> Inputs:
        """What the network has to be given."""
        return Inputs.from_json(self.about.inputs)


def save_weights(path: Path, state: Mapping[str, torch.Tensor], about: About) -> None:
    """Write weights, whole or not at all.

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    described = about.model_copy(update={"xxh128": _digest(tensors)}).model_dump_json()
    with whole_file(path) as temporary:
        temporary.write_bytes(save(tensors, {KEY: described}))


def load_weights(path: Path) -> Weights:
    """Read weights and verify them.

    Raises
    ------
    FormatError
        They are missing, damaged, somebody else's, or of another version.
    """
    try:
        with safe_open(path, "pt") as file:
            described = (file.metadata() or {}).get(KEY)
        state = load(path.read_bytes())
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise FormatError(path, f"not a readable file of weights ({str(error).partition(chr(10))[0]})", REMEDY) from error
    if described is None:
        raise FormatError(path, f"its metadata have no '{KEY}': it was not written by this package", REMEDY)
    try:
        about = About.model_validate_json(described)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise FormatError(path, f"its metadata: '{key}': {first['msg']}, got {str(first['input'])[:40]!r}", REMEDY) from None
    if _digest(state) != about.xxh128:
        raise FormatError(path, f"its tensors have checksum {_digest(state)}, expected {about.xxh128}", REMEDY)
    return Weights(path, state, about)


def restore_model(weights: Weights) -> nn.Module:
    """Return the network with these weights, ready to score; on the CPU.

    Raises
    ------
    FormatError
        The weights are not those of the network that the file names.
    """
    inputs = weights.inputs
    model = make_model(weights.about.model, len(inputs.channels), inputs.size)
    try:
        model.load_state_dict(weights.state)
    except RuntimeError as error:
        raise FormatError(
            weights.path, f"does not hold a '{weights.about.model}' ({str(error).splitlines()[-1].strip()})", REMEDY
        ) from error
    return model.eval()


def _digest(tensors: Mapping[str, torch.Tensor]) -> str:
    digest = xxhash.xxh3_128()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
