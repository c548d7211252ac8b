"""``manifest.json``: what a directory of shards holds. The manifest is written last, so where it is, the shards are whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from hpc_galaxy.collector import uncollected
from hpc_galaxy.errors import FormatError
from hpc_galaxy.files import is_plain_name, read_json, write_json
from hpc_galaxy.shards.recognise import recognise
from hpc_galaxy.shards.schema import LABELS, StampFormat
from hpc_galaxy.shards.storage import Storage

NAME = "manifest.json"
VERSION: Literal[3] = 3
SPLITS = ("train", "valid", "test")
SHARD_SIZE = 512
REMEDY = "run 'hpc-galaxy split --overwrite'"


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Shard(_Record):
    """One shard: three files of the same number of examples.

    Attributes
    ----------
    x, y, table : str
        Their names.
    examples : int
        In each of them.
    bytes : dict
        The size of each file, by its name.
    xxh128 : dict
        The checksum of each file, by its name: XXH128, 32 hexadecimal digits, as ``xxhsum -H2`` prints it.
    """

    x: str
    y: str
    table: str
    examples: int
    bytes: dict[str, int]
    xxh128: dict[str, str]

    @property
    def files(self) -> tuple[str, str, str]:
        """The names of the three files."""
        return self.x, self.y, self.table

    @model_validator(mode="after")
    def _all_three(self) -> Shard:
        # Shards are read, and copied to other directories, under these names.
        for name in self.files:
            if not is_plain_name(name) or not name.endswith(".npy") or name.startswith("."):
                raise ValueError(f"{name!r} is not the name of a shard's file")
        for key, names in (("bytes", self.bytes), ("xxh128", self.xxh128)):
            if set(names) != set(self.files):
                raise ValueError(f"'{key}' has {sorted(names)}, expected {sorted(self.files)}")
        return self


class Statistics(_Record):
    """Per channel, over the pixels of the training split: ``(arcsinh(pixel / scale) - mean) / std`` is what a network sees."""

    scale: list[float]
    mean: list[float]
    std: list[float]


class Manifest(_Record):
    """The content of ``manifest.json``; ``README.md`` in this folder describes each field."""

    format: Literal["hpc_galaxy shards"] = "hpc_galaxy shards"
    version: Literal[3] = VERSION
    code_version: str
    fingerprint: str
    seed: int
    channels: list[str]
    stamp_shape: list[int]
    labels: dict[str, int]
    storage: Storage = Storage()
    statistics: Statistics
    provenance: dict[str, dict[str, list[Any]]]
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

    @property
    def total_examples(self) -> int:
        """The number of examples in all splits."""
        return sum(self.examples(split) for split in self.splits)

    @property
    def total_bytes(self) -> int:
        """The size of all files of all shards."""
        return sum(sum(shard.bytes.values()) for shards in self.splits.values() for shard in shards)

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
        It is of another version, contradicts itself, or describes stamps that there are not.
    """
    path = directory / NAME
    content = read_json(path, "hpc-galaxy split")
    # Before all else: the fields of another version would only be complained of one by one.
    version = content.get("version") if isinstance(content, dict) else None
    if version != VERSION:
        raise FormatError(path, f"'version' is {version}, expected {VERSION}", REMEDY)
    try:
        with uncollected():
            manifest = Manifest.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise FormatError(path, f"'{key}': {first['msg']}", REMEDY) from None
    if recognise(manifest.channels, manifest.stamp_shape) is None:
        got = f"'channels' is {manifest.channels} and 'stamp_shape' is {manifest.stamp_shape}"
        raise FormatError(path, f"{got}, expected such as ['image_g'] and [64, 64, 1]", REMEDY)
    for name, found, expected in (*_fields(manifest), *_sizes(manifest)):
        if found != expected:
            raise FormatError(path, f"'{name}' is {found}, expected {expected}", REMEDY)
    return manifest


def _fields(manifest: Manifest) -> Iterator[tuple[str, Any, Any]]:
    """Yield name, value and expected value of what has to agree with something else."""
    channels = len(manifest.channels)
    yield "splits", sorted(manifest.splits), sorted(SPLITS)
    yield "labels", manifest.labels, LABELS
    yield "provenance", sorted(manifest.provenance), sorted(LABELS)
    for name, values in manifest.statistics:
        yield f"statistics.{name}", len(values), channels
    if manifest.storage.scale is not None:
        yield "storage.scale", len(manifest.storage.scale), channels


def _sizes(manifest: Manifest) -> Iterator[tuple[str, Any, Any]]:
    """Yield the same of the shards' sizes: an example is found by dividing its number by 512."""
    for split, shards in manifest.splits.items():
        for number, shard in enumerate(shards):
            full = shard.examples == SHARD_SIZE or (number == len(shards) - 1 and 0 < shard.examples < SHARD_SIZE)
            expected = shard.examples if full else f"{SHARD_SIZE}, and 1 to {SHARD_SIZE} in a split's last shard"
            yield f"splits.{split}.{number}.examples", shard.examples, expected
