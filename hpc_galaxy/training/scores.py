"""Score a split with a model over all ranks, and what scores are worth."""

from __future__ import annotations

import numpy as np
import torch
from scipy.stats import rankdata
from torch import nn

from hpc_galaxy.training.dataset import Batch, Dataset, rank_part, read_ahead
from hpc_galaxy.world import World

# Every rank takes whole blocks, so a block holds the same examples, and a stamp gets the same bits, at any number of ranks.
BLOCK = 64


def compute_logits(model: nn.Module, dataset: Dataset, world: World, device: torch.device) -> np.ndarray | None:
    """Return the logits of a whole split on rank 0, None elsewhere. Collective.

    Returns
    -------
    ndarray, shape (N, 2), float64
        In the order of the split; column 1 is 'fake'.
    """
    blocks = [np.arange(start, min(start + BLOCK, len(dataset))) for start in range(0, len(dataset), BLOCK)]
    mine = blocks[rank_part(len(blocks), world)]
    model.eval()
    with torch.inference_mode():
        parts = [_forward(model, batch.to(device)) for batch in read_ahead(lambda block: dataset.load(block, len(block)), mine)]
    model.train()
    ranks = world.gather(np.concatenate([np.empty((0, 2)), *parts]))
    return np.concatenate(ranks) if world.is_root else None


def _forward(model: nn.Module, batch: Batch) -> np.ndarray:
    return np.asarray(model(batch.images).cpu(), dtype=np.float64)


def fake_probability(logits: np.ndarray) -> np.ndarray:
    """Return the softmax probability of 'fake', shape (N,), of logits of shape (N, 2)."""
    return np.asarray(0.5 + 0.5 * np.tanh((logits[:, 1] - logits[:, 0]) / 2))


def cross_entropy(labels: np.ndarray, logits: np.ndarray) -> float:
    """Return the mean of -log(probability of the true label), natural logarithm."""
    right = logits[np.arange(len(labels)), labels]
    return float(np.mean(np.logaddexp(logits[:, 0], logits[:, 1]) - right))


def accuracy(labels: np.ndarray, logits: np.ndarray) -> float:
    """Return the share of examples whose true label has the higher logit."""
    return float(np.mean((logits[:, 1] > logits[:, 0]) == labels))


def auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Return the area under the ROC curve: the chance that a fake scores higher than a real one, ties counting half.

    The Mann-Whitney U statistic over the number of pairs (Hanley & McNeil 1982, Radiology 143, 29); NaN where a class is missing.

    Parameters
    ----------
    labels : ndarray, shape (N,)
        0 real, 1 fake.
    scores : ndarray, shape (N,)
        Higher means more fake.
    """
    fakes = int(np.sum(labels))
    reals = len(labels) - fakes
    if not fakes or not reals:
        return float("nan")
    return float((rankdata(scores)[labels == 1].sum() - fakes * (fakes + 1) / 2) / (fakes * reals))
