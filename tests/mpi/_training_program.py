"""Small shards whose classes are easy to tell apart, and the programs that tests start under mpirun."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

from hpc_galaxy import __version__
from hpc_galaxy.config import Config, load_config
from hpc_galaxy.shards.manifest import SHARD_SIZE, Manifest, Shard, Statistics
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
    statistics = Statistics(scale=[1.0] * 6, mean=[0.1, 0.1, 0.1, 0.88, 0.88, 0.88], std=[1.0] * 6)
    manifest = Manifest(
        code_version=__version__,
        fingerprint="made-by-a-test",
        seed=1,
        channels=list(CHANNELS),
        stamp_shape=list(STAMP_SHAPE),
        labels=LABELS,
        statistics=statistics,
        splits=splits,
        report={},
    )
    manifest.save(directory)
    return manifest


def make_config(root: Path, *overrides: str) -> Config:
    """Everything below `root`; short trainings in one thread, short reports."""
    paths = [f'paths.{name}="{root / name}"' for name in ("shards", "run", "report")]
    short = ["train.epochs=2", "train.batch_size=16", "train.threads=1", "realism.percentiles=[99, 50]", "realism.pairs=2"]
    return load_config(None, [*paths, *short, "realism.bootstrap=100", *overrides])


def run_stages(root: str, backend: str, batch_size: str) -> None:
    """Train with `backend` into ROOT/BACKEND-RANKS; score ROOT/run, made by one process, into ROOT/report-RANKS."""
    from hpc_galaxy.realism.report import report
    from hpc_galaxy.training.train import train
    from hpc_galaxy.world import detect, guard

    world = detect()
    with guard(world):
        run = Path(root) / f"{backend}-{world.size}"
        train(make_config(Path(root), f'train.backend="{backend}"', f"train.batch_size={batch_size}", f'paths.run="{run}"'), world, False)
        report(make_config(Path(root), f'paths.report="{root}/report-{world.size}"'), world, False)


def fail_on_rank_1(root: str) -> None:
    """Start the command line as a user would; rank 1 meets a bug in its second batch and notes when."""
    from hpc_galaxy import cli
    from hpc_galaxy.training.loop import Trainer

    step, steps = Trainer.step, []

    def broken_step(trainer: Trainer, *arguments: object) -> object:
        steps.append(1)
        if trainer.world.rank == 1 and len(steps) == 2:
            (Path(root) / "raised").write_text(str(time.time()))
            raise RuntimeError("a bug on rank 1")
        return step(trainer, *arguments)

    Trainer.step = broken_step
    make_config(Path(root)).save(Path(root) / "config.toml")
    sys.argv = ["hpc-galaxy", "train", "-c", str(Path(root) / "config.toml")]
    cli.main()


if __name__ == "__main__":
    {"stages": run_stages, "fail": fail_on_rank_1}[sys.argv[1]](*sys.argv[2:])
