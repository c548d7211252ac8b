"""Where a training is: all that changes while it goes on, beside weights and optimizer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

LOSS, RIGHT, EXAMPLES, NORM, STEPS = range(5)
"""What is added up over the steps of an epoch: losses, right answers, examples, gradient norms, and the steps themselves."""


def no_totals() -> np.ndarray:
    """Return totals of nothing yet, shape (5,), float64."""
    return np.zeros(5)


@dataclass
class State:
    """The position of a training, as seen from one rank.

    Attributes
    ----------
    global_batch : int
        Examples a step, over all ranks; the same through the whole training.
    epoch : int
        The epoch that is going on, the first is 1.
    seen : int
        Its examples that have been trained on, over all ranks.
    steps : int
        Optimizer steps since the training began.
    totals : ndarray, shape (5,), float64
        What this rank has added up in this epoch (`LOSS` and so on).
    rows : list of dict
        What has been reported of the epochs before, as in ``metrics.jsonl``.
    """

    global_batch: int
    epoch: int = 1
    seen: int = 0
    steps: int = 0
    totals: np.ndarray = field(default_factory=no_totals)
    rows: list[dict[str, Any]] = field(default_factory=list)

    @property
    def place(self) -> str:
        """Where this is, for people."""
        return f"epoch {self.epoch}, step {-(-self.seen // self.global_batch)}" if self.seen else f"the beginning of epoch {self.epoch}"

    def advance(self, examples: int, totals: tuple[float, ...]) -> None:
        """Note a step on a global batch of so many examples, and what this rank adds to its totals."""
        self.seen += examples
        self.steps += 1
        self.totals += totals

    def end_epoch(self, row: dict[str, Any]) -> None:
        """Go on to the next epoch; `row` is what is reported of this one."""
        self.rows.append(row)
        self.epoch += 1
        self.seen, self.totals = 0, no_totals()

    def best(self) -> dict[str, Any] | None:
        """Return the row with the lowest validation loss, the earliest of equals; None before the first."""
        return min(self.rows, key=lambda row: (row["valid_loss"] is None, row["valid_loss"] or 0.0, row["epoch"]), default=None)

    def epochs_since_best(self) -> int:
        """Return how many epochs have ended since the best one."""
        best = self.best()
        return self.epoch - 1 - best["epoch"] if best else 0
