"""What can be scored: the splits of a directory of shards, and cutout files, read alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from hpc_galaxy.errors import FormatError, InputError
from hpc_galaxy.shards.layout_2018 import FILE
from hpc_galaxy.shards.layouts import open_stamps
from hpc_galaxy.shards.manifest import NAME, SHARD_SIZE, SPLITS, load_manifest
from hpc_galaxy.shards.numpy_shards import SplitReader
from hpc_galaxy.shards.schema import StampFormat
from hpc_galaxy.shards.stamp_files import StampFiles


@dataclass(frozen=True)
class Source:
    """Stamps in a row that belong together.

    Attributes
    ----------
    path : Path
        A directory of shards, or a cutout file.
    split : str
        Of the shards; empty for a file.
    count : int
        How many stamps.
    stamps : StampFormat
        What they are made of.
    """

    path: Path
    split: str
    count: int
    stamps: StampFormat


def find_sources(paths: Sequence[Path], split: str | None) -> list[Source]:
    """Return what is to be scored, in a stable order; of shards all splits, or only `split`.

    Raises
    ------
    InputError
        A path is not there, or holds nothing; or `split` is none.
    FormatError
        A file or a manifest is damaged.
    """
    if split is not None and split not in SPLITS:
        raise InputError("--split", f"'{split}', expected one of {', '.join(SPLITS)}", "leave it out for all of them")
    found = [source for path in paths for source in _of(path, [split] if split else list(SPLITS))]
    if not sum(source.count for source in found):
        raise InputError(", ".join(map(str, paths)), "no stamps there", "give shards, cutout files, or folders of them")
    return found


def _of(path: Path, splits: Sequence[str]) -> Iterator[Source]:
    if (path / NAME).is_file():
        manifest = load_manifest(path)
        yield from (Source(path, split, manifest.examples(split), manifest.stamps) for split in splits)
        return
    files = sorted(file for file in path.rglob("*") if _is_stamps(file)) if path.is_dir() else [path]
    if not files or not path.exists():
        raise InputError(path, f"no {NAME}, no .h5 file and no {FILE} there", "give shards, cutout files, or folders of them")
    for file in files:
        with open_stamps(file) as opened:
            yield Source(file, "", len(opened), opened.stamps)


def _is_stamps(path: Path) -> bool:
    return (path.suffix == ".h5" or path.name == FILE) and not path.name.startswith(".")


def require_stamps(sources: Sequence[Source], stamps: StampFormat) -> None:
    """Refuse stamps that are not those the network was trained on.

    Raises
    ------
    FormatError
        They have other channels or another size.
    """
    for source in sources:
        if source.stamps != stamps:
            got = f"has stamps {source.stamps.shape} of {', '.join(source.stamps.channels)}"
            problem = f"{got}; the network was trained on {stamps.shape} of {', '.join(stamps.channels)}"
            raise FormatError(source.path, problem, "extract and split these galaxies alike, or train anew")


class Stamps:
    """The stamps of all sources, read from where they are. Not to be used by two threads at a time.

    Parameters
    ----------
    sources : sequence of Source
        All of one format.

    Notes
    -----
    The table of one shard is held at a time: those of 60 million examples are 15 GB.
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = sources
        self._files = StampFiles([source.path for source in sources], sources[0].stamps)
        self._reader = lru_cache(self._open)
        self._shard_table = lru_cache(1)(lambda number, shard: self._reader(number).shard_table(shard))

    def read(self, number: int, rows: np.ndarray, out: np.ndarray) -> np.ndarray:
        """Read rows of a source into `out`, float32; return their source table, shape (n,).

        Parameters
        ----------
        number : int
            Of the source.
        rows : ndarray, shape (n,), int
            Increasing; of shards, within one.
        out : ndarray, shape (n, size, size, channels), float32
            Where to.
        """
        source = self._sources[number]
        if source.split:
            self._reader(number).stamps(rows, out=out)
            shard, first = divmod(int(rows[0]), SHARD_SIZE)
            return self._shard_table(number, shard)[rows - rows[0] + first]
        table = np.empty(len(rows), source.stamps.source_dtype)
        self._files.read(np.full(len(rows), number), rows, out, table)
        return table

    def _open(self, number: int) -> SplitReader:
        source = self._sources[number]
        return SplitReader(source.path, load_manifest(source.path), source.split)

    def close(self) -> None:
        """Close all files."""
        self._files.close()
