"""What a split writes: shards with a manifest, or the files of 2018, a folder a brick."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hpc_galaxy import __version__
from hpc_galaxy.config import Config
from hpc_galaxy.shards.layouts import brick_of
from hpc_galaxy.shards.manifest import SHARD_SIZE, SPLITS, Manifest, Shard
from hpc_galaxy.shards.numpy_shards import write_shard
from hpc_galaxy.shards.obiwan_shards import obiwan_folder, require_obiwan, write_brick_list, write_obiwan
from hpc_galaxy.shards.schema import LABELS
from hpc_galaxy.shards.storage import Storage, StorageError, encode, half_scale
from hpc_galaxy.splits.plan import Plan
from hpc_galaxy.splits.repackage import Piece, Record
from hpc_galaxy.splits.sources import PLACE, Sources
from hpc_galaxy.splits.statistics import finish


@dataclass(frozen=True)
class Shards:
    """Shuffled shards of 512 examples and ``manifest.json``.

    Attributes
    ----------
    config, fingerprint : Config, str
        Of the stage.
    sources : Sources
        What is known of the survey.
    scale : ndarray, shape (channels,)
        What pixels are divided by in the statistics.
    """

    config: Config
    fingerprint: str
    sources: Sources
    scale: np.ndarray

    @property
    def root(self) -> Path:
        """Where to."""
        return self.config.paths.shards

    @property
    def half(self) -> list[float] | None:
        """What pixels are divided by before they are stored as float16; None for float32."""
        return half_scale(self.scale.tolist()) if self.config.split.storage == "float16" else None

    @property
    def bytes_each(self) -> int:
        """Bytes of an example on disk."""
        stamps = self.sources.stamps
        return int(np.prod(stamps.shape)) * (2 if self.half else 4) + 1 + stamps.example_dtype.itemsize

    def pieces(self, plan: Plan) -> list[Piece]:
        """Return what has to be written."""
        return [
            Piece(name, start // SHARD_SIZE, places[start : start + SHARD_SIZE])
            for name, places in plan.places.items()
            for start in range(0, len(places), SHARD_SIZE)
        ]

    def write(self, piece: Piece, x: np.ndarray, table: np.ndarray) -> Record:
        """Write one shard; return its line of the manifest, and what float16 costs."""
        error: dict[str, Any] = {}
        if self.half:
            x, error = encode(x, self.half, self.sources.stamps)
        shard = write_shard(self.root, piece.split, piece.number, x, table)
        return {"shard": shard.model_dump(mode="json"), "error": error}

    def is_whole(self, record: Record) -> bool:
        """Return whether the files of an earlier run are there, with their sizes."""
        return all(_has_size(self.root / name, size) for name, size in record["shard"]["bytes"].items())

    def finish(self, plan: Plan, pieces: Sequence[Piece], records: dict[str, Record]) -> None:
        """Write the manifest: from then on the shards count."""
        train = [np.array(records[piece.key]["moments"]) for piece in pieces if piece.split == "train"]
        shards = {name: [Shard(**records[piece.key]["shard"]) for piece in pieces if piece.split == name] for name in SPLITS}
        error = StorageError(self.sources.stamps, [records[piece.key]["error"] for piece in pieces])
        storage = Storage(dtype="<f2", scale=self.half, error=error.attributes()) if self.half else Storage()
        Manifest(
            code_version=__version__,
            fingerprint=self.fingerprint,
            seed=self.config.seed,
            channels=list(self.sources.stamps.channels),
            stamp_shape=list(self.sources.stamps.shape),
            labels=LABELS,
            storage=storage,
            statistics=finish(self.scale, train),
            provenance=self.sources.facts,
            splits=shards,
            report=plan.report,
        ).save(self.root)


@dataclass(frozen=True)
class ObiwanFolders:
    """The files that the network of 2018 reads: a folder a brick, a list of the bricks of each split.

    Attributes
    ----------
    config, sources : Config, Sources
        Of the stage.
    files : sequence of Path
        All cutout files.
    """

    config: Config
    sources: Sources
    files: Sequence[Path]

    def __post_init__(self) -> None:
        require_obiwan(self.sources.stamps, self.config.split.storage)

    @property
    def root(self) -> Path:
        """Where to."""
        return self.config.paths.shards

    @property
    def bytes_each(self) -> int:
        """Bytes of an example on disk."""
        return int(np.prod(self.sources.stamps.shape)) * 4 + 8

    def pieces(self, plan: Plan) -> list[Piece]:
        """Return what has to be written: each split's bricks in the order of their names, their examples in the order of the plan."""
        return [piece for name, places in plan.places.items() for piece in self._of_split(name, places)]

    def _of_split(self, name: str, places: np.ndarray) -> Iterable[Piece]:
        bricks, brick = np.unique([brick_of(path) for path in self.files], return_inverse=True)
        mine = brick[places["file"]]
        for number in np.unique(mine):
            rows = np.ascontiguousarray(places[mine == number], PLACE)
            for start in range(0, len(rows), SHARD_SIZE):
                yield Piece(name, start // SHARD_SIZE + 1, rows[start : start + SHARD_SIZE], str(bricks[number]))

    def write(self, piece: Piece, x: np.ndarray, table: np.ndarray) -> Record:
        """Write two files of a brick; return their sizes."""
        write_obiwan(self.root, piece.split, piece.brick, piece.number, x, table["label"])
        paths = [obiwan_folder(self.root, piece.brick) / f"{kind}{piece.split}_{piece.number}.npy" for kind in "xy"]
        return {"bytes": {str(path.relative_to(self.root)): path.stat().st_size for path in paths}}

    def is_whole(self, record: Record) -> bool:
        """Return whether the files of an earlier run are there, with their sizes."""
        return all(_has_size(self.root / name, size) for name, size in record["bytes"].items())

    def finish(self, plan: Plan, pieces: Sequence[Piece], records: dict[str, Record]) -> None:
        """Write the lists of bricks."""
        for name in SPLITS:
            write_brick_list(self.root, name, sorted({piece.brick for piece in pieces if piece.split == name}))


def _has_size(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except FileNotFoundError:
        return False
