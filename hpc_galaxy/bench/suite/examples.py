"""The examples that all sides train on: noise in shards, whose statistics are known without measuring."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from hpc_galaxy.bench.suite.clock import LEARNING_RATE, SEED
from hpc_galaxy.config import Config, load_config
from hpc_galaxy.shards.manifest import SHARD_SIZE, SPLITS, Manifest, Shard, Statistics
from hpc_galaxy.shards.numpy_shards import SplitReader, write_shard
from hpc_galaxy.shards.schema import DEFAULT, LABELS, STAMP_SHAPE

IMAGE_NOISE, INVVAR = 0.01, 1e4  # nanomaggies, 1/nanomaggies^2
HELD_OUT = 64


def write_examples(directory: Path, examples: int) -> Manifest:
    """Write a directory of shards with so many training examples."""
    splits = {"train": _write_split(directory, "train", examples), "valid": _write_split(directory, "valid", HELD_OUT), "test": []}
    manifest = Manifest(
        code_version="0.1.0",
        fingerprint="benchmark",
        seed=SEED,
        channels=list(DEFAULT.channels),
        stamp_shape=list(DEFAULT.shape),
        labels=LABELS,
        # An inverse variance is 1 +- 0.01 in units of its scale, and arcsinh has the slope sqrt(1/2) there.
        statistics=Statistics(scale=[IMAGE_NOISE] * 3 + [INVVAR] * 3, mean=[0.0] * 3 + [math.asinh(1)] * 3, std=[0.7] * 3 + [0.007] * 3),
        provenance={label: {} for label in LABELS},
        splits=splits,
        report={},
    )
    manifest.save(directory)
    return manifest


def _write_split(directory: Path, split: str, examples: int) -> list[Shard]:
    rng, scale = np.random.default_rng([SEED, SPLITS.index(split)]), np.repeat(np.array([IMAGE_NOISE, INVVAR / 100], np.float32), 3)
    shards = []
    for number, start in enumerate(range(0, examples, SHARD_SIZE)):
        count = min(SHARD_SIZE, examples - start)
        stamps = rng.standard_normal((count, *STAMP_SHAPE), np.float32) * scale
        stamps[..., 3:] += np.float32(INVVAR)
        table = np.zeros(count, DEFAULT.example_dtype)
        table["id"] = [f"{split}-{start + row}".encode() for row in range(count)]
        table["label"] = np.arange(count) % 2
        shards.append(write_shard(directory, split, number, stamps, table))
    return shards


def training_config(root: Path, batch: int) -> Config:
    """Return the configuration of our training: all defaults but the batch, one thread, and the learning rate that all sides have."""
    settings = {"batch_size": batch, "threads": 1, "backend": "'serial'", "optimizer.learning_rate": LEARNING_RATE, "epochs": 1000}
    paths = [f"paths.shards='{root}/shards'", f"paths.run='{root}/run-{batch}'"]
    return load_config(None, [*paths, *(f"train.{name}={value}" for name, value in settings.items())])


def training_reader(config: Config, manifest: Manifest) -> SplitReader:
    """Open the training split."""
    return SplitReader(config.paths.shards, manifest, "train")
