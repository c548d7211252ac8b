"""The result of a training: weights as safetensors, with all inside that is needed to use them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import xxhash
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator
from safetensors import SafetensorError
from safetensors.torch import load, safe_open, save
from torch import nn

from hpc_galaxy.errors import FormatError
from hpc_galaxy.files import whole_file
from hpc_galaxy.training.data.inputs import SOURCES, Inputs
from hpc_galaxy.training.model import make_model

NAME = "weights.safetensors"
FORMAT: Literal["hpc_galaxy weights"] = "hpc_galaxy weights"
VERSION: Literal[1] = 1
KEY, CHECKSUM = "hpc_galaxy", "xxh128"  # of the metadata, whose values are strings
LARGEST = 4096  # pixels: no stamp is larger, and a file that says so would only exhaust the memory
REMEDY = "give the weights.safetensors of a run of 'hpc-galaxy train', or train again"


class About(BaseModel):
    """What is said of weights, inside their file.

    Attributes
    ----------
    model : str
        As ``train.model``.
    inputs : Inputs
        From the pixels of which stamps, and how, the network's inputs are made.
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
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["hpc_galaxy weights"] = FORMAT
    version: Literal[1] = VERSION
    model: Literal["cnn2018", "resnet", "dummy"]
    inputs: Inputs
    epoch: int
    steps: int
    seed: int
    metrics: dict[str, Any]
    fingerprint: str
    shards: str
    config: dict[str, Any]
    code_version: str

    @field_validator("inputs")
    @classmethod
    def _usable(cls, inputs: Inputs) -> Inputs:
        """Refuse what would end in a traceback, or in scores that mean nothing, when stamps are looked at."""
        if not 0 < inputs.size <= LARGEST:
            raise ValueError(f"stamps of {inputs.size} pixels, expected 1 to {LARGEST}")
        if inputs.kind not in ("arcsinh", "standard"):
            raise ValueError(f"kind '{inputs.kind}', expected 'arcsinh' or 'standard'")
        lacking = {plane for name in inputs.inputs for plane in SOURCES.get(name, (name,))} - set(inputs.planes)
        if lacking or not inputs.channels:
            raise ValueError(f"inputs {list(inputs.inputs)} of planes {list(inputs.planes)} in bands {list(inputs.bands)}")
        if set(inputs.seen_bands) - set(inputs.bands) or len(set(inputs.seen_bands)) < len(inputs.seen_bands):
            raise ValueError(f"bands {list(inputs.seen_bands)} of {list(inputs.bands)}")
        if not 0 <= inputs.mask_centre < math.inf:
            raise ValueError(f"a mask of {inputs.mask_centre} arcsec, expected 0 or more")
        factors = (inputs.scale, inputs.mean, inputs.std)
        if {len(values) for values in factors} != {len(inputs.channels)}:
            raise ValueError(f"{[len(values) for values in factors]} numbers to normalise {len(inputs.channels)} channels")
        if not all(math.isfinite(value) for values in factors for value in values) or min(*inputs.scale, *inputs.std) <= 0:
            raise ValueError("numbers to normalise with that are not finite, or not positive")
        return inputs


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
        return self.about.inputs


def save_weights(path: Path, state: Mapping[str, torch.Tensor], about: About) -> None:
    """Write weights, whole or not at all.

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    described = about.model_dump_json()
    with whole_file(path) as temporary:
        temporary.write_bytes(save(tensors, {KEY: described, CHECKSUM: _digest(described, tensors)}))


def load_weights(path: Path) -> Weights:
    """Read weights and verify them.

    Raises
    ------
    FormatError
        They are missing, damaged, somebody else's, or of another version.
    """
    with _readable(path), safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
    # Before the tensors: somebody else's may be larger than the memory.
    about = _about(path, metadata)
    with _readable(path):
        state = load(path.read_bytes())
    found, expected = _digest(metadata[KEY], state), metadata.get(CHECKSUM)
    if found != expected:
        raise FormatError(path, f"its content has checksum {found}, expected {expected}", REMEDY)
    return Weights(path, state, about)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise FormatError(path, f"not a readable file of weights ({str(error).partition(chr(10))[0]})", REMEDY) from error


def _about(path: Path, metadata: Mapping[str, str]) -> About:
    if KEY not in metadata:
        raise FormatError(path, f"its metadata have no '{KEY}': it was not written by this package", REMEDY)
    try:
        return About.model_validate_json(metadata[KEY])
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        problem = first["msg"].removeprefix("Value error, ")
        raise FormatError(path, f"its metadata: '{key}': {problem}, got {str(first['input'])[:40]!r}", REMEDY) from None


def restore_model(weights: Weights) -> nn.Module:
    """Return the network with these weights, ready to score; on the CPU.

    Raises
    ------
    FormatError
        The weights are not those of the network that the file names.
    """
    inputs = weights.inputs
    try:
        # Without memory of its own, whatever size the file claims; it takes copies of the tensors, if they fit.
        with torch.device("meta"):
            model = make_model(weights.about.model, len(inputs.channels), inputs.size)
        state = {name: tensor.to(torch.float32, copy=True) for name, tensor in weights.state.items()}
        model.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise FormatError(
            weights.path, f"does not hold a '{weights.about.model}' ({str(error).splitlines()[-1].strip()})", REMEDY
        ) from error
    return model.eval()


def _digest(described: str, tensors: Mapping[str, torch.Tensor]) -> str:
    """Return the XXH128 of what is said of the weights, and of all tensors: a changed digit in the normalisation spoils scores as well."""
    digest = xxhash.xxh3_128(described.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
