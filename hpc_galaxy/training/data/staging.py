"""Copy the shards to each node's own disk or memory before the training reads them again and again."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import xxhash

from hpc_galaxy.errors import FormatError, OutputError
from hpc_galaxy.files import lock, remove_partials, whole_file
from hpc_galaxy.ledger import LOCK
from hpc_galaxy.shards.manifest import REMEDY, Manifest, Shard
from hpc_galaxy.shards.numpy_shards import PIECE
from hpc_galaxy.world import World

SPARE = 1 << 28  # bytes that are left free: a file system that is full stops others too


def stage(
    directory: Path, manifest: Manifest, splits: Sequence[str], target: Path, world: World, beat: Callable[[str], None] = lambda _: None
) -> Path:
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
    beat : callable
        Is told of each file that is copied.

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
    with _cleared(staged, world):
        copied = sum(world.allgather(_fill(directory, staged, shards, world, beat)))
    if world.local_rank == 0:
        # After all shards, as always: where it is, they are whole.
        wanted = {split: manifest.splits[split] if split in splits else [] for split in manifest.splits}
        manifest.model_copy(update={"splits": wanted}).save(staged)
    world.barrier()
    seconds = time.perf_counter() - start
    world.say(f"training: {copied / 1e9:.2f} GB copied to {staged} in {seconds:.1f} s; {len(shards)} shards are there on every node")
    return staged


@contextmanager
def _cleared(staged: Path, world: World) -> Iterator[None]:
    """Make the directory and remove what killed jobs have left in it, unless another job is copying to it now. Collective."""
    with ExitStack() as held:
        if world.local_rank == 0:
            _make(staged)
            with suppress(OutputError):  # the lock is another job's: each file becomes whole by itself, so both may copy
                held.enter_context(lock(staged / LOCK))
                remove_partials(staged)
        world.barrier()
        yield


def _make(staged: Path) -> None:
    try:
        staged.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(staged, f"cannot be written ({error.strerror})", "choose another train.data.stage") from error


def _fill(directory: Path, staged: Path, shards: Sequence[Shard], world: World, beat: Callable[[str], None]) -> int:
    """Copy this rank's share of what its node lacks; return how many bytes that was. Collective."""
    missing = [shard for shard in shards if not _is_there(staged, shard)]
    _require_space(staged, _size(missing))
    world.barrier()  # all have looked before the first one writes
    mine = missing[world.local_rank :: world.local_size]
    for shard in mine:
        for name in shard.files:
            beat(f"copying {name}")
            _copy(directory / name, staged / name, shard.bytes[name], shard.xxh128[name])
    return _size(mine)


def _size(shards: Sequence[Shard]) -> int:
    return sum(sum(shard.bytes.values()) for shard in shards)


def _is_there(staged: Path, shard: Shard) -> bool:
    # What has its name was verified while it was written, and no other shards are written here.
    return all(_found_size(staged / name) == shard.bytes[name] for name in shard.files)


def _found_size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _require_space(staged: Path, needed: int) -> None:
    free = shutil.disk_usage(staged).free
    if needed and needed + SPARE > free:
        problem = f"has {free / 1e9:.2f} GB free, expected {(needed + SPARE) / 1e9:.2f} GB for the shards"
        raise OutputError(staged, problem, "choose another train.data.stage, or leave it empty")


def _copy(source: Path, destination: Path, size: int, checksum: str) -> None:
    digest, copied = xxhash.xxh3_128(), 0
    with whole_file(destination) as temporary:
        with open(temporary, "wb", buffering=0) as file:
            for piece in _pieces(source):
                digest.update(piece)
                copied += len(piece)
                while piece:  # a write may take less than it was given
                    piece = piece[file.write(piece) :]
        if (copied, digest.hexdigest()) != (size, checksum):
            raise FormatError(source, f"has {copied} bytes of checksum {digest.hexdigest()}, expected {size} of {checksum}", REMEDY)


def _pieces(source: Path) -> Iterator[memoryview]:
    """Yield the content of a file, each piece being valid until the next one is asked for."""
    buffer = memoryview(bytearray(PIECE))
    try:
        with open(source, "rb", buffering=0) as file:
            while count := file.readinto(buffer):
                yield buffer[:count]
    except OSError as error:
        raise FormatError(source, f"cannot be read ({error.strerror})", REMEDY) from error
