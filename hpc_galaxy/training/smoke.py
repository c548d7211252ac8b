"""``hpc-galaxy train --smoke``: everything a long job does, once, on one batch, before the long job."""

from __future__ import annotations

import shutil
from typing import Any

import torch

from hpc_galaxy.config import Config
from hpc_galaxy.errors import StageError
from hpc_galaxy.tracing.spans import peak_memory
from hpc_galaxy.training import scores
from hpc_galaxy.training.build import Data, build, connect, global_batch_size
from hpc_galaxy.training.checkpoint import Checkpoints, read_checkpoint, restore
from hpc_galaxy.training.loop import Trainer
from hpc_galaxy.training.node import Layout
from hpc_galaxy.training.state import State
from hpc_galaxy.world import World

STEPS = 3  # the first warms up


def try_everything(config: Config, data: Data, world: World, layout: Layout) -> None:
    """Train, validate, save, read back and go on, on one batch each, in ``run/smoke``, which is removed again. Collective.

    Raises
    ------
    HpcGalaxyError
        Whatever would end the long job.
    """
    state = State(global_batch_size(config.train, world))
    trainer = connect(build(config, data, world, layout, state.global_batch))
    seconds = [_train_one(trainer, state) for _ in range(STEPS)]
    directory = config.paths.run / "smoke"
    path = Checkpoints(directory, config, data.manifest, world).save(state, trainer.model, trainer.optimizer)
    world.barrier()
    content: dict[str, Any] = world.bcast(read_checkpoint(path) if world.is_root else {})
    again = restore(content, world, trainer.model, trainer.optimizer)
    _require_same(trainer, content)
    _train_one(trainer, again)
    with torch.inference_mode():
        batch = next(data.held_out.blocks(scores.BLOCK, world), None)
        if batch is not None:
            scores.forward(trainer.model, batch.to(trainer.device))
    rate = state.global_batch / min(seconds[1:])
    memory = max(world.allgather(peak_memory())) / 1e6
    trainer.parallel.close()
    if world.is_root:
        shutil.rmtree(directory)
    world.say(
        f"smoke: trained, saved, read back, went on, validated; about {rate:.0f} images/s, {len(data.examples) / rate:.0f} s an epoch, "
        f"{memory:.0f} MB a rank; nothing is left in {config.paths.run.name}/"
    )


def _train_one(trainer: Trainer, state: State) -> float:
    """Do one step; return its seconds, the slowest rank's."""
    state.seen = min(state.seen, max(0, len(trainer.examples) - state.global_batch))
    batch = next(trainer.batches(state))
    trainer.watch.restart()
    trainer.step(batch, state)
    return max(trainer.world.allgather(trainer.watch.elapsed))


def _require_same(trainer: Trainer, content: dict[str, Any]) -> None:
    for name, tensor in trainer.model.state_dict().items():
        if not torch.equal(tensor.cpu(), content["model"][name]):
            raise StageError("smoke", f"'{name}' is not what was saved", "this is a defect of the package: please report it")
