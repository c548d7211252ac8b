"""The algorithm of 2018's training, in our own words and with PyTorch: what its generator and its loop do, not its TensorFlow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from hpc_galaxy.bench.suite.clock import LEARNING_RATE, SEED, Side, timed
from hpc_galaxy.training.model import GalaxyCNN

FilePair = tuple[Path, Path]


def write_files(directory: Path, stamps: np.ndarray, examples: int) -> list[FilePair]:
    """Write files of so many examples each, as its scripts would have: a round that reads one file bears its share of reading."""
    directory.mkdir()
    files = []
    for number, start in enumerate(range(0, len(stamps) - examples + 1, examples), 1):
        files.append((directory / f"xtrain_{number}.npy", directory / f"ytrain_{number}.npy"))
        np.save(files[-1][0], stamps[start : start + examples])
        np.save(files[-1][1], np.arange(examples) % 2)
    return files


def batches(files: Sequence[FilePair], size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield an epoch's batches, shapes (size, 64, 64, 6) and (size,), in the files' order: never reshuffled.

    Each file is loaded whole when its turn comes; nothing is read ahead. (It was the first file, each time, by mistake. A file
    costs the same whichever it is.)
    """
    for x_path, y_path in files:
        x, y = np.load(x_path), np.load(y_path)
        for start in range(0, len(x), size):
            yield x[start : start + size], y[start : start + size]


def feed(x: np.ndarray, y: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Copy a batch to the framework's memory, channels first; pixels are not normalised."""
    return torch.from_numpy(x.transpose(0, 3, 1, 2)).contiguous(), torch.from_numpy(y)


@contextmanager
def way_of_2018(files: Sequence[FilePair], batch: int) -> Iterator[Side]:
    """Yield the side that trains so."""
    torch.manual_seed(SEED)
    model = GalaxyCNN()
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE)

    def run() -> Iterator[None]:
        number = 0
        while True:
            for x, y in batches(files, batch):
                number += 1
                images, labels = feed(x, y)
                optimizer.zero_grad()
                cross_entropy(model(images), labels).backward()
                optimizer.step()
                if number % 2 == 0:
                    _summarise(model, x, y)
                yield

    steps = run()
    yield lambda count: timed(lambda: next(steps), count)


def _summarise(model: torch.nn.Module, x: np.ndarray, y: np.ndarray) -> None:
    """Run the batch through the network twice more, fed anew each time: for the accuracy, and for the summary of the loss."""
    with torch.no_grad():
        images, labels = feed(x, y)
        (model(images).argmax(1) == labels).float().mean().item()
        images, labels = feed(x, y)
        cross_entropy(model(images), labels).item()
