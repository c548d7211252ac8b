"""``manifest.json``: what a directory of shards holds. The manifest is written last, so where it is, the shards are whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from hpc_galaxy.errors import FormatError
from hpc_galaxy.files import read_json, write_json
from hpc_galaxy.shards.recognise import recognise
from hpc_galaxy.shards.schema import LABELS, StampFormat

NAME = "manifest.json"
SPLITS = ("train", "valid", "test")
SHARD_SIZE = 512


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Shard(_Record):
    """One shard: three files of the same number of examples, and the SHA-256 of each."""

    x: str
    y: str
    table: str
    examples: int
    sha256: dict[str, str]


class Statistics(_Record):
    """Per channel, over the pixels of the training split: ``(arcsinh(pixel / scale) - mean) / std`` is what a network sees."""

    scale: list[float]
    mean: list[float]
    std: list[float]


class Manifest(_Record):
    """The content of ``manifest.json``; ``README.md`` in this folder describes each field."""

    format: Literal["hpc_galaxy shards"] = "hpc_galaxy shards"
    version: Literal[2] = 2
    code_version: str
    fingerprint: str
    seed: int
    channels: list[str]
    stamp_shape: list[int]
    labels: dict[str, int]
    statistics: Statistics
    splits: dict[str, list[Shard]]
    report: dict[str, Any]

    @property
    def stamps(self) -> StampFormat:
        """What the stamps are made of.

        Raises
        ------
        ValueError
            `channels` and `stamp_shape` are of no such format; `load_manifest` refuses that.
        """
        stamps = recognise(self.channels, self.stamp_shape)
        if stamps is None:
            raise ValueError(f"no stamps have the channels {self.channels} and the shape {self.stamp_shape}")
        return stamps

    def examples(self, split: str) -> int:
        """Return the number of examples in a split."""
        return sum(shard.examples for shard in self.splits[split])

    def save(self, directory: Path) -> None:
        """Write ``manifest.json``."""
        write_json(directory / NAME, self.model_dump(mode="json"))


def load_manifest(directory: Path) -> Manifest:
    """Read and check ``manifest.json``.

    Raises
    ------
    InputError
        There is none.
    FormatError
        It is of another version, or describes stamps that there are not.
    """
    path = directory / NAME
    content = read_json(path, "hpc-galaxy split")
    remedy = "run 'hpc-galaxy split --overwrite'"
    try:
        manifest = Manifest.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise FormatError(path, f"'{key}': {first['msg']}", remedy) from None
    if recognise(manifest.channels, manifest.stamp_shape) is None:
        got = f"'channels' is {manifest.channels} and 'stamp_shape' is {manifest.stamp_shape}"
        raise FormatError(path, f"{got}, expected such as ['image_g'] and [64, 64, 1]", remedy)
    channels = len(manifest.channels)
    checks: list[tuple[str, Any, Any]] = [
        ("splits", sorted(manifest.splits), sorted(SPLITS)),
        ("labels", manifest.labels, LABELS),
        *((f"statistics.{name}", len(values), channels) for name, values in manifest.statistics),
    ]
    for name, got, expected in checks:
        if got != expected:
            raise FormatError(path, f"'{name}' is {got}, expected {expected}", remedy)
    return manifest
