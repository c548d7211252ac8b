"""The same training with Lightning: its Trainer with logger, checkpoints and progress bar off, and a DataLoader without workers."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning
import numpy as np
import torch
from torch.nn.functional import cross_entropy

from hpc_galaxy.bench.suite.clock import LEARNING_RATE, SEED, Clock, Cost, Side
from hpc_galaxy.config import Config
from hpc_galaxy.shards.numpy_shards import SplitReader, open_split
from hpc_galaxy.training.data.inputs import Inputs, make_inputs
from hpc_galaxy.training.model import GalaxyCNN

Item = tuple[torch.Tensor, torch.Tensor]


class Stamps(torch.utils.data.Dataset[Item]):
    """A whole batch at a time from memory-mapped shards, normalised with numpy: what a careful user writes."""

    def __init__(self, reader: SplitReader, inputs: Inputs) -> None:
        self.reader = reader
        self.scale, self.mean, self.std = (np.float32(values) for values in (inputs.scale, inputs.mean, inputs.std))

    def __len__(self) -> int:
        return len(self.reader)

    def __getitems__(self, indices: list[int]) -> Item:
        """Return images, shape (n, channels, size, size), channels-last in memory, and labels, shape (n,)."""
        chosen = np.array(indices)
        pixels = (np.arcsinh(self.reader.stamps(chosen) / self.scale) - self.mean) / self.std
        return torch.from_numpy(pixels).permute(0, 3, 1, 2), torch.from_numpy(self.reader.labels[chosen].astype(np.int64))


class Module(lightning.LightningModule):
    """The network, its loss, and what is logged of it."""

    def __init__(self) -> None:
        super().__init__()
        self.model = GalaxyCNN()

    def training_step(self, batch: Item, index: int) -> torch.Tensor:
        """Return the loss of a batch."""
        images, labels = batch
        logits = self.model(images)
        loss = cross_entropy(logits, labels)
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        self.log("train_accuracy", (logits.argmax(1) == labels).float().mean(), on_step=False, on_epoch=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimizer that ours has."""
        return torch.optim.Adam(self.parameters(), LEARNING_RATE, foreach=True)


class Timer(lightning.Callback):
    """Times the steps after the first, each with the reading of its batch."""

    def __init__(self, steps: int) -> None:
        self.steps, self.cost = steps, Cost(0.0, 0.0, 0.0)

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, index: int) -> None:
        """Begin after the first step, look after the last."""
        if index == 0:
            self.clock = Clock()
        elif index == self.steps:
            self.cost = self.clock.cost(self.steps)


@contextmanager
def with_lightning(config: Config) -> Iterator[Side]:
    """Yield the side that trains so, on the shards, the inputs and the batches of `config`."""
    reader = open_split(config.paths.shards, "train")
    stamps = Stamps(reader, make_inputs(config.train.data, reader))
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.manual_seed(SEED)
    module = Module()
    loader = torch.utils.data.DataLoader(stamps, config.train.batch_size, shuffle=True, collate_fn=lambda items: items)

    def side(steps: int) -> Cost:
        timer = Timer(steps)
        with warnings.catch_warnings(action="ignore"):  # its advice to use workers, which are slower here, and srun
            _trainer(steps + 1, timer).fit(module, loader)
        return timer.cost

    yield side


def _trainer(steps: int, timer: Timer) -> lightning.Trainer:
    return lightning.Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        max_epochs=1,
        limit_train_batches=steps,
        callbacks=[timer],
    )
