"""Score any number of stamps in bounded memory, on all ranks, into one table."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

import numpy as np
import torch
from torch import nn

from hpc_galaxy.auc import auc
from hpc_galaxy.errors import FormatError, InputError
from hpc_galaxy.files import shown, whole_file
from hpc_galaxy.tracing.progress import announce
from hpc_galaxy.tracing.spans import Stopwatch
from hpc_galaxy.training.data.batches import read_ahead
from hpc_galaxy.training.data.order import rank_part
from hpc_galaxy.training.parallel.choose import pick_device
from hpc_galaxy.training.scores import BLOCK, fake_probability
from hpc_galaxy.training.sources import Source, Stamps, find_sources, require_stamps
from hpc_galaxy.training.weights import NAME, Weights, load_weights, restore_model
from hpc_galaxy.world import World

ROUND = 32  # blocks a rank scores before rank 0 writes what all have: some seconds, and 2 MB a rank
AHEAD = 3
ROW = np.dtype([("id", "S48"), ("brick", "S8"), ("label", "u1"), ("score", "<f4")])


@dataclass(frozen=True)
class Block:
    """Stamps of one source that go through the network together, so that each gets the same bits at any number of ranks."""

    source: int
    start: int
    stop: int


def score(path: Path, paths: Sequence[Path], out: Path, world: World, split: str | None, threads: int) -> None:
    """Do what `hpc_galaxy.training.predict.predict` says, with so many threads a rank."""
    _require_suffix(out)
    watch = Stopwatch()
    found = (load_weights(path / NAME if path.is_dir() else path), find_sources(paths, split)) if world.is_root else None
    both = world.bcast(found)
    assert both is not None
    weights, sources = both
    require_stamps(sources, weights.inputs.stamps)
    device = pick_device(world)
    # Threads take whole blocks: shared among threads, a block's sums would come out differently for another number of them.
    workers = threads if device.type == "cpu" else 1
    model = restore_model(weights).to(device)
    stamps, labels, scores = Stamps(sources), [np.empty(0, "u1")], [np.empty(0, "<f4")]
    with closing(stamps), _table(out, sum(source.count for source in sources), world) as table:
        for blocks in announce(world, "predict", "rounds", rounds(sources, world), -(-count_blocks(sources) // (ROUND * world.size))):
            read = _read(stamps, weights, sources, blocks, world)
            with watch.span("score"):
                mine = list(read_ahead(lambda block: _score(model, device, *block), read, workers, workers))
            watch.count("images", sum(map(len, mine)))
            with watch.span("collect and write"):
                rows = np.concatenate([np.empty(0, ROW), *world.gather(np.concatenate([np.empty(0, ROW), *mine]))])
                table.append(rows)
            labels.append(rows["label"])
            scores.append(rows["score"])
    summary = watch.summary(world, "predict", "images")
    world.say(f"{summary}\npredict: {shown(out)}{_verdict(np.concatenate(labels), np.concatenate(scores))}")


def count_blocks(sources: Sequence[Source]) -> int:
    """Return how many blocks the sources make."""
    return sum(-(-source.count // BLOCK) for source in sources)


def rounds(sources: Sequence[Source], world: World) -> Iterator[list[Block]]:
    """Yield the blocks of the whole job, as many at a time as all ranks score before something is written."""
    waiting: list[Block] = []
    for number, source in enumerate(sources):
        for start in range(0, source.count, BLOCK):
            waiting.append(Block(number, start, min(start + BLOCK, source.count)))
            if len(waiting) == ROUND * world.size:
                yield waiting
                waiting = []
    if waiting:
        yield waiting


def _read(
    stamps: Stamps, weights: Weights, sources: Sequence[Source], blocks: list[Block], world: World
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield what the network sees of this rank's blocks, and their rows of the source tables; the next ones are read meanwhile."""
    inputs, shape = weights.inputs, weights.inputs.stamps.shape

    def load(block: Block) -> tuple[np.ndarray, np.ndarray]:
        rows = np.arange(block.start, block.stop)
        pixels = np.empty((len(rows), *shape), np.float32)
        table = stamps.read(block.source, rows, pixels)
        seen = np.empty((*pixels.shape[:3], len(inputs.channels)), np.float32)
        finite = inputs.apply(pixels, seen)
        if not finite.all():
            identity = table["id"][~finite][0].decode(errors="replace")
            problem = f"row {rows[~finite][0]} (id {identity}) has pixels that are not finite after normalisation"
            raise FormatError(sources[block.source].path, problem, "run 'hpc-galaxy check' on it")
        return seen, table

    return read_ahead(load, blocks[rank_part(len(blocks), world)], AHEAD)


def _score(model: nn.Module, device: torch.device, seen: np.ndarray, table: np.ndarray) -> np.ndarray:
    # Of this thread: of each that does not say so, OpenMP would make OMP_NUM_THREADS.
    torch.set_num_threads(1)
    with torch.inference_mode():
        logits = model(torch.from_numpy(seen).permute(0, 3, 1, 2).to(device)).float().cpu().numpy()
    rows = np.empty(len(table), ROW)
    for name in ("id", "brick", "label"):
        rows[name] = table[name]
    rows["score"] = fake_probability(logits.astype(np.float64))
    return rows


class Table(Protocol):
    """Where rows go."""

    def append(self, rows: np.ndarray) -> None:
        """Add rows, shape (n,), `ROW`."""


class _Csv:
    def __init__(self, file: IO[str]) -> None:
        self._writer = csv.writer(file, lineterminator="\n")
        self._writer.writerow(("id", "brick", "label", "score"))

    def append(self, rows: np.ndarray) -> None:
        # Ids may be a user's own: anything, with commas in it.
        names = (np.char.decode(rows[name], "utf-8", "replace").tolist() for name in ("id", "brick"))
        scores = (f"{value:.9g}" for value in rows["score"].tolist())
        self._writer.writerows(zip(*names, rows["label"].tolist(), scores, strict=True))


class _Npy:
    """Written, not mapped: a process is killed where the file that it has mapped finds the disk full."""

    def __init__(self, file: IO[bytes], count: int) -> None:
        self._file = file
        header = np.lib.format.header_data_from_array_1_0(np.empty(0, ROW)) | {"shape": (count,)}
        np.lib.format.write_array_header_1_0(file, header)

    def append(self, rows: np.ndarray) -> None:
        self._file.write(rows.tobytes())


class _Nothing:
    def append(self, rows: np.ndarray) -> None:
        return


@contextmanager
def _table(out: Path, count: int, world: World) -> Iterator[Table]:
    """Open the table on rank 0; it has its name when the block ends well."""
    if not world.is_root:
        yield _Nothing()
        return
    with whole_file(out) as temporary:
        if out.suffix == ".npy":
            with open(temporary, "wb") as numbers:
                yield _Npy(numbers, count)
        else:
            with open(temporary, "w", encoding="utf-8", newline="") as text:
                yield _Csv(text)


def _require_suffix(out: Path) -> None:
    if out.suffix not in (".csv", ".npy"):
        raise InputError(out, f"has the ending '{out.suffix}', expected .csv or .npy", "give --out such a name")


def _verdict(labels: np.ndarray, scores: np.ndarray) -> str:
    known = labels <= 1
    value = auc(labels[known], scores[known]) if known.any() else float("nan")
    return "" if np.isnan(value) else f"; AUC {value:.3f} of {known.sum():,} with labels, whether it was trained on them or not"
