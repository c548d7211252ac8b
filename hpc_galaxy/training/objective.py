"""What is made small: the cross entropy, with its smoothing and its class weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from hpc_galaxy.config import Train
from hpc_galaxy.training.model import CLASSES


@dataclass(frozen=True)
class Objective:
    """Cross entropy of single examples.

    Attributes
    ----------
    weights : Tensor, shape (2,), float32, or None
        What an example of each class counts; None: alike.
    smoothing : float
        The share of the target that is spread over both classes (Szegedy et al. 2016, CVPR, 2818).
    """

    weights: torch.Tensor | None = None
    smoothing: float = 0.0

    def __call__(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the loss of each example, shape (n,), of logits of shape (n, 2) and labels of shape (n,)."""
        return nn.functional.cross_entropy(logits, labels, weight=self.weights, reduction="none", label_smoothing=self.smoothing)


def make_objective(settings: Train, labels: np.ndarray, device: torch.device) -> Objective:
    """Return the objective that [train] asks for; `labels`, shape (N,), are the training split's."""
    weights = None
    if settings.class_weights == "balanced":
        counts = np.bincount(labels, minlength=CLASSES)
        # Their mean over the examples is 1, so that the learning rate means the same with and without.
        balanced = np.where(counts > 0, len(labels) / (CLASSES * np.maximum(counts, 1)), 0.0)
        weights = torch.tensor(balanced, dtype=torch.float32, device=device)
    return Objective(weights, settings.label_smoothing)
