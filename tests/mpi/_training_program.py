"""Train and score in one job: ``_training_program.py ROOT BACKEND BATCH_SIZE``."""

from __future__ import annotations

import sys
from pathlib import Path

from hpc_galaxy.config import load_config
from hpc_galaxy.realism.report import report
from hpc_galaxy.training.train import train
from hpc_galaxy.world import detect, guard


def main(root: Path, *overrides: str) -> None:
    """Train with the overrides on top of ROOT/config.toml, then score ROOT/run, made by one process, into ROOT/report-RANKS."""
    world = detect()
    with guard(world):
        train(load_config(root / "config.toml", overrides), world, False)
        report(load_config(root / "config.toml", [f'paths.report="{root}/report-{world.size}"']), world, False)


main(Path(sys.argv[1]), *sys.argv[2:])
