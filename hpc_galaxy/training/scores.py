"""Score a split with a model over all ranks, and what scores are worth."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from hpc_galaxy.auc import auc as auc  # beside the other scores, for whoever asks here
from hpc_galaxy.training.data.batches import Batch, Dataset
from hpc_galaxy.world import World

# Every rank takes whole blocks, so a block holds the same examples, and a stamp gets the same bits, at any number of ranks.
BLOCK = 64


def compute_logits(
    model: nn.Module, dataset: Dataset, world: World, device: torch.device, after_block: Callable[[], None] = lambda: None
) -> np.ndarray | None:
    """Return the logits of a whole split on rank 0, None elsewhere; call `after_block` now and then. Collective.

    Returns
    -------
    ndarray, shape (N, 2), float64
        In the order of the split; column 1 is 'fake'.
    """
    model.eval()
    with torch.inference_mode():
        parts = [np.empty((0, 2))]
        for batch in dataset.blocks(BLOCK, world):
            parts.append(forward(model, batch.to(device)))
            after_block()
    model.train()
    ranks = world.gather(np.concatenate(parts))
    return np.concatenate(ranks) if world.is_root else None


def forward(model: nn.Module, batch: Batch) -> np.ndarray:
    """Return the logits of one batch, shape (n, 2), float64."""
    return np.asarray(model(batch.images).float().cpu(), dtype=np.float64)


def fake_probability(logits: np.ndarray) -> np.ndarray:
    """Return the softmax probability of 'fake', shape (..., N), of logits of shape (..., N, 2)."""
    return np.asarray(0.5 + 0.5 * np.tanh((logits[..., 1] - logits[..., 0]) / 2))


def cross_entropy(labels: np.ndarray, logits: np.ndarray) -> float:
    """Return the mean of -log(probability of the true label), natural logarithm."""
    right = logits[np.arange(len(labels)), labels]
    return float(np.mean(np.logaddexp(logits[:, 0], logits[:, 1]) - right))


def accuracy(labels: np.ndarray, logits: np.ndarray) -> float:
    """Return the share of examples whose true label has the higher logit."""
    return float(np.mean((logits[:, 1] > logits[:, 0]) == labels))
