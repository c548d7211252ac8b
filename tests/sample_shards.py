"""Small shards whose classes are easy to tell apart, and a configuration to train on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hpc_galaxy.config import Config, load_config
from hpc_galaxy.shards.manifest import SHARD_SIZE, SPLITS, Manifest, Shard, Statistics
from hpc_galaxy.shards.numpy_shards import write_shard
from hpc_galaxy.shards.schema import DEFAULT, LABELS, StampFormat
from hpc_galaxy.shards.storage import Storage, StorageError, encode

SMALL = StampFormat(("r",), ("image", "invvar"), 8)
FLOAT = Storage()


def make_stamps(rng: np.random.Generator, labels: np.ndarray, contrast: float, size: int = 64) -> np.ndarray:
    """Noise with a round galaxy in the middle; a fake one is `contrast` times broader than a real one."""
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    width = np.where(labels == 1, 2.0 * contrast, 2.0)[:, None, None]
    galaxies = 10 * np.exp(-(x**2 + y**2) / (2 * width**2)) * rng.uniform(0.8, 1.2, (len(labels), 1, 1))
    stamps = np.ones((len(labels), size, size, 6), np.float32)
    stamps[..., :3] = galaxies[..., None] + rng.normal(0, 1, (len(labels), size, size, 3))
    return stamps


def make_table(rng: np.random.Generator, labels: np.ndarray, split: str, bricks: int) -> np.ndarray:
    """A brick is a sky group, and each split has its own."""
    table = np.zeros(len(labels), DEFAULT.example_dtype)
    table["label"] = labels
    table["id"] = [f"{split}-{number}" for number in range(len(labels))]
    table["brick"] = [f"{SPLITS.index(split)}{number % bricks:03d}p050" for number in range(len(labels))]
    table["group"] = table["brick"]
    table["mag_g"] = rng.uniform(20, 24, len(labels))
    return table


def make_shards(
    directory: Path, *, train: int = 96, valid: int = 40, test: int = 40, contrast: float = 2.0, bricks: int = 5, size: int = 64
) -> Manifest:
    """Write a directory of shards with as many examples as asked for in each split, half of them fake, and stamps of such a size."""
    splits = {}
    for number, (split, examples) in enumerate({"train": train, "valid": valid, "test": test}.items()):
        rng = np.random.default_rng(number)
        labels = rng.permutation(np.arange(examples) % 2).astype(np.uint8)
        x, table = make_stamps(rng, labels, contrast, size), make_table(rng, labels, split, bricks)
        starts = range(0, examples, SHARD_SIZE)
        splits[split] = [write_shard(directory, split, n, x[s : s + SHARD_SIZE], table[s : s + SHARD_SIZE]) for n, s in enumerate(starts)]
    return save_manifest(directory, splits, StampFormat(size=size))


def save_manifest(directory: Path, splits: dict[str, list[Shard]], stamps: StampFormat = DEFAULT, storage: Storage = FLOAT) -> Manifest:
    """Write the manifest of shards that a test made; a split that is not named is empty."""
    mean = [0.1 if channel.startswith("image") else 0.88 for channel in stamps.channels]
    manifest = Manifest(
        code_version="0.1.0",
        fingerprint="made-by-a-test",
        seed=1,
        channels=list(stamps.channels),
        stamp_shape=list(stamps.shape),
        labels=LABELS,
        storage=storage,
        statistics=Statistics(scale=[1.0] * len(mean), mean=mean, std=[1.0] * len(mean)),
        provenance={label: {"compression": ["none"], "mantissa_bits": [23]} for label in LABELS},
        splits={name: splits.get(name, []) for name in SPLITS},
        report={},
    )
    manifest.save(directory)
    return manifest


def write_golden(root: Path) -> None:
    """Write the golden shards, of each kind of storage."""
    x, table = golden_examples(DEFAULT)
    shard = write_shard(root / "shards_v3", "train", 0, x, table)
    save_manifest(root / "shards_v3", {"train": [shard]})
    x, table = golden_examples(SMALL)
    scale, error = [0.25, 64.0], StorageError(SMALL)
    stored, sums = encode(x, scale, SMALL)
    error.add(sums)
    shard = write_shard(root / "shards_v3_float16", "test", 0, stored, table)
    storage = Storage(dtype="<f2", scale=scale, error=error.attributes())
    save_manifest(root / "shards_v3_float16", {"test": [shard]}, SMALL, storage)


def golden_examples(stamps: StampFormat) -> tuple[np.ndarray, np.ndarray]:
    """Return two stamps whose pixels tell where they are, ``x + 100 y + 10000 channel + 1/3``, and their table."""
    y, x, channel = np.mgrid[: stamps.size, : stamps.size, : len(stamps.channels)]
    table = np.zeros(2, stamps.example_dtype)
    table["id"], table["label"], table["brick"] = [b"9010-329231-7", b"rs0-1211p060-3"], [0, 1], b"1211p060"
    table["mag_r"], table["bx"], table["by"], table["group"] = 22.25, 1000, 2000, b"1211p060"
    table["injected"] = [0, 2**64 - 1]
    return np.stack([x + 100 * y + 10000 * channel + 1 / 3] * 2).astype(np.float32), table


PLAIN = ("realism.baselines=false", "realism.explain=false")


def make_config(root: Path, *overrides: str) -> Config:
    """Everything below `root`; short trainings in one thread, short reports."""
    paths = [f'paths.{name}="{root / name}"' for name in ("shards", "run", "report")]
    short = ["train.epochs=2", "train.batch_size=16", "train.threads=1", "train.saving.curve=false"]
    report = ["realism.percentiles=[99, 50]", "realism.pairs=2", "realism.bootstrap=100", *PLAIN]
    return load_config(None, [*paths, *short, *report, *overrides])
