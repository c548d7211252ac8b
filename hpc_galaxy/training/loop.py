"""The training loop: what happens in a step and in an epoch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from hpc_galaxy.errors import StageError
from hpc_galaxy.tracing.spans import Stopwatch
from hpc_galaxy.training import scores
from hpc_galaxy.training.dataset import Batch, Dataset
from hpc_galaxy.training.parallel import DataParallel
from hpc_galaxy.world import World


@dataclass(frozen=True)
class Trainer:
    """A model in training, seen from one rank.

    Attributes
    ----------
    model : Module
        The bare model, whose parameters are the result.
    wrapped : Module
        What `parallel` made of it; training's forward pass goes through it.
    optimizer : Optimizer
        Of the bare model's parameters.
    parallel : DataParallel
        Averages the gradients.
    world, device : World, device
        Where this rank is and computes.
    """

    model: nn.Module
    wrapped: nn.Module
    optimizer: torch.optim.Optimizer
    parallel: DataParallel
    world: World
    device: torch.device

    def train_epoch(self, epoch: int, batches: Iterator[Batch]) -> dict[str, float]:
        """Train on this rank's slices of an epoch and return the job's loss, accuracy and speed. Collective.

        Raises
        ------
        StageError
            The loss is not finite.
        """
        watch = Stopwatch()
        totals = np.zeros(3)
        for step, batch in enumerate(_wait(batches, watch), 1):
            totals += self.step(batch.to(self.device), watch, f"epoch {epoch}, step {step}, rank {self.world.rank}")
        return self._summarise(totals, watch)

    def step(self, batch: Batch, watch: Stopwatch, where: str) -> tuple[float, int, int]:
        """Do one step; return the sum of the losses, the number of right answers and the number of examples of this rank."""
        self.optimizer.zero_grad()
        logits = self.wrapped(batch.images)
        loss = nn.functional.cross_entropy(logits, batch.labels, reduction="sum")
        total = loss.item()
        if not math.isfinite(total):
            raise StageError(where, f"the loss is {total}", "lower train.learning_rate, or run 'hpc-galaxy check' on the shards")
        # The mean over ranks of this is the mean over the global batch, however unequally the ranks share it.
        (loss * (self.world.size / batch.examples)).backward()
        with watch.span("allreduce"):
            self.parallel.average_gradients(self.model)
        self.optimizer.step()
        return total, int((logits.argmax(1) == batch.labels).sum()), len(batch.labels)

    def validate(self, dataset: Dataset) -> dict[str, float]:
        """Score a split and return loss, accuracy and AUC on rank 0, nothing elsewhere. Collective."""
        logits = scores.compute_logits(self.model, dataset, self.world, self.device)
        if logits is None:
            return {}
        labels = dataset.reader.labels
        return {
            "valid_loss": scores.cross_entropy(labels, logits),
            "valid_accuracy": scores.accuracy(labels, logits),
            "valid_auc": scores.auc(labels, scores.fake_probability(logits)),
        }

    def _summarise(self, totals: np.ndarray, watch: Stopwatch) -> dict[str, float]:
        seconds = (watch.elapsed, watch.seconds["data"], watch.seconds["allreduce"])
        loss, right, examples, elapsed, data, allreduce = self.world.sum(np.array([*totals, *seconds])).tolist()
        return {
            "train_loss": loss / examples,
            "train_accuracy": right / examples,
            "images_per_second": examples * self.world.size / elapsed,
            "data_share": data / elapsed,
            "allreduce_share": math.nan if self.parallel.overlaps else allreduce / elapsed,
        }


def _wait(batches: Iterator[Batch], watch: Stopwatch) -> Iterator[Batch]:
    """Yield the batches and time how long each lets the computation wait."""
    while True:
        with watch.span("data"):
            batch = next(batches, None)
        if batch is None:
            return
        yield batch
