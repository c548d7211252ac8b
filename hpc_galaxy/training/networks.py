"""Several networks that differ in nothing but the seed: where each is, and what it is asked for. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from hpc_galaxy.config import Config

FOLDER = "network_"


def network_path(run: Path, number: int) -> Path:
    """Return the directory of network `number`, counted from 1: the first has `run` itself, the others ``run/network_2`` and so on."""
    return run if number == 1 else run / f"{FOLDER}{number}"


def network_paths(run: Path) -> list[Path]:
    """Return the directories of all networks that are there beside the first, whether they are asked for now or not."""
    found = (path for path in run.glob(f"{FOLDER}*") if path.name.removeprefix(FOLDER).isdecimal() and path.is_dir())
    return sorted(found, key=lambda path: int(path.name.removeprefix(FOLDER)))


def network_config(config: Config, number: int) -> Config:
    """Return what network `number` is asked for: as if it were trained by itself, with a seed that is `number` - 1 higher.

    The seed decides the initial weights and the order of the examples. The shards stay what they are.
    """
    if number == 1:
        return config
    paths = config.paths.model_copy(update={"run": network_path(config.paths.run, number)})
    train = config.train.model_copy(update={"networks": 1})
    return config.model_copy(update={"seed": config.seed + number - 1, "paths": paths, "train": train})
