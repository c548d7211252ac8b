"""What a run reports: a printed line and a row in ``metrics.jsonl`` after each epoch, and TensorBoard. Rank 0 alone does any of it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hpc_galaxy.files import write_text
from hpc_galaxy.tracing.spans import Stopwatch, peak_memory
from hpc_galaxy.training.board import Board
from hpc_galaxy.training.state import EXAMPLES, LOSS, NORM, RIGHT, STEPS, State, no_totals
from hpc_galaxy.world import World

NAME = "metrics.jsonl"
TIMINGS = ("images_per_second", "data_share", "allreduce_share", "memory_mb", "gpu_memory_mb")
"""The columns of a row that differ from run to run."""


def summarise(state: State, watch: Stopwatch, seconds: float, rate: float, overlaps: bool, world: World) -> dict[str, float]:
    """Return what the whole job's training was in an epoch. Collective.

    Parameters
    ----------
    state : State
        At the end of the epoch, or of the part of it that `watch` has timed.
    watch : Stopwatch
        This rank's times.
    seconds : float
        That the training took, without the validation.
    rate : float
        The learning rate of the last step.
    overlaps : bool
        Whether the averaging happens during the backward pass, so that its time is not known.
    """
    mine = (seconds, watch.seconds["data"], watch.seconds["allreduce"], watch.counts["examples"])
    *totals, elapsed, data, allreduce, examples = world.sum(np.array([*state.totals, *mine])).tolist()
    memory = np.array(world.allgather((peak_memory(), _gpu_memory()))).max(axis=0) / 1e6
    return {
        "train_loss": totals[LOSS] / totals[EXAMPLES],
        "train_accuracy": totals[RIGHT] / totals[EXAMPLES],
        "gradient_norm": totals[NORM] / totals[STEPS],
        "learning_rate": rate,
        "images_per_second": examples * world.size / elapsed,
        "data_share": data / elapsed,
        "allreduce_share": math.nan if overlaps else allreduce / elapsed,
        "memory_mb": memory[0],
        "gpu_memory_mb": memory[1],
    }


def _gpu_memory() -> int:
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0


class Metrics:
    """The rows of a run, one an epoch, and finer steps for TensorBoard.

    Parameters
    ----------
    run : Path
        The run's directory.
    world : World
        Rank 0 writes; on the other ranks nothing happens.
    state : State
        What is known of earlier epochs. Later ones that a file may hold are forgotten.
    log_steps : int
        TensorBoard hears of each so many steps.
    """

    def __init__(self, run: Path, world: World, state: State, log_steps: int) -> None:
        self.path, self.world, self.log_steps = run / NAME, world, log_steps
        self._board: Board | None = None
        self._before, self._epoch = state.totals.copy(), state.epoch
        if world.is_root:
            self._write(state.rows)
            self._board = Board(run / "tensorboard", state.steps)

    def step(self, state: State, rate: float) -> None:
        """Tell TensorBoard of rank 0's steps since the last time, if it is time."""
        if self._board is None or state.steps % self.log_steps:
            return
        before = self._before if state.epoch == self._epoch else no_totals()
        new, self._before, self._epoch = state.totals - before, state.totals.copy(), state.epoch
        loss = new[LOSS] / new[EXAMPLES] if new[EXAMPLES] else math.nan
        values = {"loss": loss, "gradient_norm": new[NORM] / new[STEPS], "learning_rate": rate}
        for name, value in values.items():
            if math.isfinite(value):
                self._board.add(f"step/{name}", value, state.steps)

    def epoch(self, state: State, epochs: int) -> None:
        """Record and print the last row of `state`; `epochs` are planned."""
        if self._board is None:
            return
        row = state.rows[-1]
        self._write(state.rows)
        for name, value in row.items():
            if name not in ("epoch", "steps") and value is not None:
                self._board.add(name.replace("_", "/", 1), value, row["steps"])
        self._board.flush()
        self.world.say(_sentence(row, epochs))

    def close(self) -> None:
        """Close TensorBoard's file."""
        if self._board is not None:
            self._board.close()

    def _write(self, rows: list[dict[str, Any]]) -> None:
        write_text(self.path, "".join(json.dumps(row) + "\n" for row in rows))


def make_row(state: State, numbers: dict[str, float]) -> dict[str, Any]:
    """Return the row of an epoch; what is not finite becomes None, which JSON knows."""
    finite = {name: float(value) if math.isfinite(value) else None for name, value in numbers.items()}
    return {"epoch": state.epoch, "steps": state.steps, **finite}


def _sentence(row: dict[str, Any], epochs: int) -> str:
    share = row["allreduce_share"]
    allreduce = "allreduce within the backward pass" if share is None else f"in allreduce {share:.1%}"
    valid = f"valid loss {_text(row['valid_loss'], 4)} accuracy {row['valid_accuracy']:.3f} AUC {_text(row['valid_auc'], 3)}"
    return (
        f"epoch {row['epoch']}/{epochs}: train loss {row['train_loss']:.4f} accuracy {row['train_accuracy']:.3f}, {valid}, "
        f"learning rate {row['learning_rate']:.2g}, {row['images_per_second']:.0f} images/s, "
        f"waiting for data {row['data_share']:.1%}, {allreduce}"
    )


def _text(value: float | None, digits: int) -> str:
    return "undefined" if value is None else f"{value:.{digits}f}"
