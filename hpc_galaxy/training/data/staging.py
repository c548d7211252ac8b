"""Copy the shards to each node's own disk or memory before the training reads them again and again."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import xxhash

from hpc_galaxy.errors import FormatError, OutputError
from hpc_galaxy.files import whole_file
from hpc_galaxy.shards.manifest import REMEDY, Manifest, Shard
from hpc_galaxy.shards.numpy_shards import PIECE
from hpc_galaxy.world import World

SPARE = 1 << 28  # bytes that are left free: a file system that is full stops others too


def stage(directory: Path, manifest: Manifest, splits: Sequence[str], target: Path, world: World) -> Path:
    """Copy the splits' shards below `target` on every node, and return where they are. Collective.

    The ranks of a node copy a share each. A file is verified while it is copied, and has its name only when it is whole, so what is
    there is not copied again.

    Parameters
    ----------
    directory, manifest : Path, Manifest
        The shards.
    splits : sequence of str
        Which of them are wanted.
    target : Path
        A directory of the node's own, such as ``/tmp``.
    world : World
        Every rank must call this.

    Raises
    ------
    OutputError
        There is not enough space, or `target` cannot be written.
    FormatError
        A shard is missing or damaged.
    """
    start, shards = time.perf_counter(), [shard for split in splits for shard in manifest.splits[split]]
    # The name holds every byte's checksum: another set of shards goes elsewhere.
    digest = xxhash.xxh3_128("".join(sum_ for shard in shards for sum_ in shard.xxh128.values()).encode()).hexdigest()[:16]
    staged = target / f"hpc_galaxy-{digest}"
    missing = [shard for shard in shards if not _is_there(staged, shard)]
    world.barrier()  # all have looked before the first one writes
    _require_space(staged, sum(sum(shard.bytes.values()) for shard in missing))
    world.barrier()
    for shard in missing[world.local_rank :: world.local_size]:
        for name in shard.files:
            _copy(directory / name, staged / name, shard.bytes[name], shard.xxh128[name])
    if world.local_rank == 0:
        manifest.save(staged)
    copied = sum(world.allgather(sum(sum(shard.bytes.values()) for shard in missing[world.local_rank :: world.local_size])))
    seconds = time.perf_counter() - start
    world.say(f"training: {copied / 1e9:.2f} GB copied to {staged} in {seconds:.1f} s; {len(shards)} shards are there on every node")
    return staged


def _is_there(staged: Path, shard: Shard) -> bool:
    return all((staged / name).is_file() and (staged / name).stat().st_size == shard.bytes[name] for name in shard.files)


def _require_space(staged: Path, needed: int) -> None:
    try:
        staged.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(staged).free
    except OSError as error:
        raise OutputError(staged, f"cannot be written ({error.strerror})", "choose another train.data.stage") from error
    if needed and needed + SPARE > free:
        problem = f"has {free / 1e9:.2f} GB free, expected {(needed + SPARE) / 1e9:.2f} GB for the shards"
        raise OutputError(staged, problem, "choose another train.data.stage, or leave it empty")


def _copy(source: Path, destination: Path, size: int, checksum: str) -> None:
    digest, copied = xxhash.xxh3_128(), 0
    with whole_file(destination) as temporary:
        with _open(source) as read, open(temporary, "wb", buffering=0) as write:
            while piece := read.read(PIECE):
                digest.update(piece)
                copied += write.write(piece)
        if (copied, digest.hexdigest()) != (size, checksum):
            raise FormatError(source, f"has {copied} bytes of checksum {digest.hexdigest()}, expected {size} of {checksum}", REMEDY)


def _open(source: Path) -> BinaryIO:
    try:
        return open(source, "rb", buffering=0)
    except OSError as error:
        raise FormatError(source, f"cannot be read ({error.strerror})", REMEDY) from error
