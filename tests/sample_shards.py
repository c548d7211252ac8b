"""Small shards whose classes are easy to tell apart, and a configuration to train on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hpc_galaxy.config import Config, load_config
from hpc_galaxy.shards.manifest import SHARD_SIZE, SPLITS, Manifest, Shard, Statistics
from hpc_galaxy.shards.numpy_shards import write_shard
from hpc_galaxy.shards.schema import CHANNELS, LABELS, SOURCE_DTYPE, STAMP_SHAPE


def make_stamps(rng: np.random.Generator, labels: np.ndarray, contrast: float) -> np.ndarray:
    """Noise with a round galaxy in the middle; a fake one is `contrast` times broader than a real one."""
    y, x = np.mgrid[:64, :64] - 31.5
    width = np.where(labels == 1, 2.0 * contrast, 2.0)[:, None, None]
    galaxies = 10 * np.exp(-(x**2 + y**2) / (2 * width**2)) * rng.uniform(0.8, 1.2, (len(labels), 1, 1))
    stamps = np.ones((len(labels), *STAMP_SHAPE), np.float32)
    stamps[..., :3] = galaxies[..., None] + rng.normal(0, 1, (len(labels), 64, 64, 3))
    return stamps


def make_table(rng: np.random.Generator, labels: np.ndarray, split: str, bricks: int) -> np.ndarray:
    table = np.zeros(len(labels), SOURCE_DTYPE)
    table["label"] = labels
    table["id"] = [f"{split}-{number}" for number in range(len(labels))]
    table["brick"] = [f"{number % bricks:04d}p050" for number in range(len(labels))]
    table["mag_g"] = rng.uniform(20, 24, len(labels))
    return table


def make_shards(directory: Path, *, train: int = 96, valid: int = 40, test: int = 40, contrast: float = 2.0, bricks: int = 5) -> Manifest:
    """Write a directory of shards with as many examples as asked for in each split, half of them fake."""
    splits = {}
    for number, (split, examples) in enumerate({"train": train, "valid": valid, "test": test}.items()):
        rng = np.random.default_rng(number)
        labels = rng.permutation(np.arange(examples) % 2).astype(np.uint8)
        x, table = make_stamps(rng, labels, contrast), make_table(rng, labels, split, bricks)
        starts = range(0, examples, SHARD_SIZE)
        splits[split] = [write_shard(directory, split, n, x[s : s + SHARD_SIZE], table[s : s + SHARD_SIZE]) for n, s in enumerate(starts)]
    return save_manifest(directory, splits)


def save_manifest(directory: Path, splits: dict[str, list[Shard]]) -> Manifest:
    """Write the manifest of shards that a test made; a split that is not named is empty."""
    statistics = Statistics(scale=[1.0] * 6, mean=[0.1, 0.1, 0.1, 0.88, 0.88, 0.88], std=[1.0] * 6)
    manifest = Manifest(
        code_version="0.1.0",
        fingerprint="made-by-a-test",
        seed=1,
        channels=list(CHANNELS),
        stamp_shape=list(STAMP_SHAPE),
        labels=LABELS,
        statistics=statistics,
        splits={name: splits.get(name, []) for name in SPLITS},
        report={},
    )
    manifest.save(directory)
    return manifest


def make_config(root: Path, *overrides: str) -> Config:
    """Everything below `root`; short trainings in one thread, short reports."""
    paths = [f'paths.{name}="{root / name}"' for name in ("shards", "run", "report")]
    short = ["train.epochs=2", "train.batch_size=16", "train.threads=1", "realism.percentiles=[99, 50]", "realism.pairs=2"]
    return load_config(None, [*paths, *short, "realism.bootstrap=100", *overrides])
