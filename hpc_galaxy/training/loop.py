"""The training loop: what happens in a step, in an epoch, and in a whole training."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from hpc_galaxy.config import Train
from hpc_galaxy.errors import StageError
from hpc_galaxy.tracing.progress import announce
from hpc_galaxy.tracing.recorder import COMMUNICATION
from hpc_galaxy.tracing.spans import Stopwatch
from hpc_galaxy.training import scores
from hpc_galaxy.training.data.batches import Batch, Dataset
from hpc_galaxy.training.objective import Objective
from hpc_galaxy.training.optim.optimizers import clip_gradients
from hpc_galaxy.training.optim.schedule import LearningRate, set_learning_rate
from hpc_galaxy.training.parallel.base import DataParallel
from hpc_galaxy.training.state import State
from hpc_galaxy.world import World

NAMED = 8  # examples that an error names, at most


@dataclass(frozen=True)
class Trainer:
    """A model in training, seen from one rank.

    Attributes
    ----------
    model : Module
        The bare model, whose parameters are the result.
    wrapped : Module
        What `parallel` (and torch.compile) made of it; training's forward pass goes through it.
    optimizer : Optimizer
        Of the bare model's parameters.
    learning_rate : LearningRate
        By the number of examples seen.
    objective : Objective
        What is made small.
    parallel : DataParallel
        Averages the gradients.
    settings : Train
        The section [train].
    examples : Dataset
        The training split.
    seed : int
        Behind everything random.
    world, device : World, device
        Where this rank is and computes.
    watch : Stopwatch
        What the epoch that is going on has taken, and what is recorded of it.
    """

    model: nn.Module
    wrapped: nn.Module
    optimizer: torch.optim.Optimizer
    learning_rate: LearningRate
    objective: Objective
    parallel: DataParallel
    settings: Train
    examples: Dataset
    seed: int
    world: World
    device: torch.device
    watch: Stopwatch

    def step(self, batch: Batch, state: State) -> None:
        """Do one step on this rank's slice of a global batch. Collective.

        Raises
        ------
        StageError
            The loss of an example, or the gradient, is not finite.
        """
        _seed_step(self.seed, state.steps, self.world.rank)
        set_learning_rate(self.optimizer, self.learning_rate((state.epoch - 1) * len(self.examples) + state.seen))
        self.parallel.zero_gradients()
        loss = right = 0.0
        pieces = list(batch.pieces(self.settings.batch_size))
        for number, piece in enumerate(pieces, 1):
            with self.parallel.backward(last=number == len(pieces)):
                total, correct = self._backward(piece, state)
            loss, right = loss + total, right + correct
        if self.parallel.waits:
            with self.watch.span("allreduce", COMMUNICATION):
                self.parallel.average_gradients()
        with self.watch.span("optimizer"):
            norm = clip_gradients(self.model.parameters(), self.settings.optimizer.clip_norm).item()
            if not math.isfinite(norm):
                self._refuse(f"the gradient's norm is {norm}", batch.indices, state)
            self.optimizer.step()
        self.watch.count("examples", len(batch.labels))
        state.advance(batch.examples, (loss, right, len(batch.labels), norm, 1))

    def _backward(self, batch: Batch, state: State) -> tuple[float, int]:
        """Add a piece's gradients; return the sum of its losses and the number of right answers."""
        with self.watch.span("copy"):
            batch = batch.to(self.device)
        with self.watch.span("forward"):
            with self.autocast():
                logits = self.wrapped(batch.images)
            losses = self.objective(logits.float(), batch.labels)
            loss = losses.sum()
            total = loss.item()
        if not math.isfinite(total):
            bad = ~torch.isfinite(losses.detach()).cpu().numpy()
            self._refuse(f"the loss is {total}", batch.indices[bad], state)
        # The mean over ranks of this is the mean over the global batch, however unequally the ranks share it.
        with self.watch.span("backward"):
            (loss * (self.world.size / batch.examples)).backward()
        return total, int((logits.argmax(1) == batch.labels).sum())

    def autocast(self) -> AbstractContextManager[None]:
        """Return the context in which the forward pass takes `train.precision`."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.precision == "bfloat16")

    def batches(self, state: State) -> Iterator[Batch]:
        """Yield this rank's slices of what is left of an epoch, and time how long each lets the computation wait."""
        batches = self.examples.epoch(self.seed, state.epoch, state.global_batch, self.world, state.seen, self.watch)
        while True:
            with self.watch.span("data"):
                batch = next(batches, None)
            if batch is None:
                return
            yield batch

    def validate(self, held_out: Dataset, after_block: Callable[[], None]) -> dict[str, float]:
        """Score a split and return loss, accuracy and AUC on rank 0, nothing elsewhere. Collective."""
        with self.watch.span("validate"), self.autocast():
            logits = scores.compute_logits(self.model, held_out, self.world, self.device, after_block)
        if logits is None:
            return {}
        return {
            "valid_loss": scores.cross_entropy(held_out.labels, logits),
            "valid_accuracy": scores.accuracy(held_out.labels, logits),
            "valid_auc": scores.auc(held_out.labels, scores.fake_probability(logits)),
        }

    def _refuse(self, problem: str, bad: Any, state: State) -> None:
        ids = self.examples.ids(bad[:NAMED])
        more = f" and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
        step = state.seen // state.global_batch + 1
        where = f"epoch {state.epoch}, step {step}, rank {self.world.rank}"
        remedy = "lower train.optimizer.learning_rate, or run 'hpc-galaxy check' on the shards; checkpoints before this are sound"
        raise StageError(where, f"{problem}, with examples {', '.join(ids)}{more}", remedy)


def _seed_step(seed: int, steps: int, rank: int) -> None:
    """Let whatever a model draws at random (dropout) depend on seed, step and rank alone: a resumed run draws the same."""
    # Not torch.manual_seed, which also asks for GPUs where there are none (benchmarks/bench_pieces.py).
    number = ((seed * 1_000_003 + steps) * 65_537 + rank) % 2**63
    torch.default_generator.manual_seed(number)
    if torch.cuda.is_available():
        torch.cuda.manual_seed(number)


class Keeper(Protocol):
    """What happens around the steps: whoever watches, reports and saves."""

    def after_step(self, state: State) -> None:
        """Do what has to be done between two steps; may end the training with an error."""

    def after_block(self) -> None:
        """Note that the validation advances."""

    def after_epoch(self, state: State, seconds: float, valid: dict[str, float]) -> None:
        """Report, save, and go on to the next epoch, given what its training took, and its scores."""


def fit(trainer: Trainer, held_out: Dataset, state: State, keeper: Keeper) -> None:
    """Train until the last epoch, or until there is nothing more to gain. Collective.

    Parameters
    ----------
    trainer, state : Trainer, State
        What is trained, and from where on.
    held_out : Dataset
        The validation split.
    keeper : Keeper
        Decides itself when to act.
    """
    while state.epoch <= trainer.settings.epochs and not _in_vain(trainer, state):
        trainer.watch.restart()
        left = -(-(len(trainer.examples) - state.seen) // state.global_batch)
        for batch in announce(trainer.world, f"epoch {state.epoch}", "steps", trainer.batches(state), left):
            trainer.step(batch, state)
            keeper.after_step(state)
        seconds = trainer.watch.elapsed
        keeper.after_epoch(state, seconds, trainer.validate(held_out, keeper.after_block))


def _in_vain(trainer: Trainer, state: State) -> bool:
    patience = trainer.settings.patience
    return bool(patience) and state.epochs_since_best() >= patience
