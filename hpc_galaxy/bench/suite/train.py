"""The training step and the checkpoint: images a second against a bare PyTorch loop, saves against writing the same bytes to disk."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import torch

from hpc_galaxy.bench.measuring import Log, interleaved
from hpc_galaxy.bench.suite.bare import Loop, bare
from hpc_galaxy.bench.suite.examples import training_config, write_examples
from hpc_galaxy.bench.suite.extract import write_raw
from hpc_galaxy.bench.suite.ours import ours
from hpc_galaxy.bench.suite.question import LIMIT, OURS
from hpc_galaxy.bench.suite.worker import Worker
from hpc_galaxy.shards.manifest import load_manifest
from hpc_galaxy.training.checkpoint import Checkpoints, checkpoint_path
from hpc_galaxy.training.model import GalaxyCNN
from hpc_galaxy.training.state import State
from hpc_galaxy.world import World

EXAMPLES, BATCH, STEPS = 1024, 16, 6


def measure_train(log: Log, root: Path, repeats: int) -> None:
    """Time training steps, each side on one core. What it reads stays for `measure_checkpoint`."""
    (root / "shards").mkdir()
    write_examples(root / "shards", EXAMPLES)
    with closing(Worker(bare, Loop(BATCH, keeps=True))) as limit, closing(Worker(ours, training_config(root, BATCH))) as side:
        sides = {LIMIT: lambda: limit(STEPS), OURS: lambda: side(STEPS)}
        seconds = interleaved(sides, 3 * repeats, lambda: None, warm_up=1)
    log.table("train", "images", seconds, dict.fromkeys(sides, STEPS * BATCH))


def measure_checkpoint(log: Log, root: Path, repeats: int) -> None:
    """Time saving the network and Adam's moments."""
    config = training_config(root, BATCH)
    model, state = GalaxyCNN(), State(BATCH)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.zeros(1, 6, 64, 64)).sum().backward()
    optimizer.step()
    checkpoints = Checkpoints(config.paths.run, config, load_manifest(config.paths.shards), World())
    content = np.zeros(checkpoints.save(state, model, optimizer).stat().st_size, np.uint8)

    def save() -> None:
        state.steps += 1
        checkpoints.save(state, model, optimizer)

    path = checkpoint_path(config.paths.run, 0).with_name("raw")
    sides = {LIMIT: lambda: write_raw(path, content, durable=True), OURS: save}
    seconds = interleaved(sides, 5 * repeats, lambda: None, warm_up=2)
    log.table("checkpoint", "MB", seconds, dict.fromkeys(sides, len(content) / 1e6))
