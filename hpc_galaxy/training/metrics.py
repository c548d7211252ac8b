"""What a run reports after each epoch: a printed line, ``metrics.jsonl``, and TensorBoard. Rank 0 alone does any of it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from hpc_galaxy.files import write_text
from hpc_galaxy.world import World

NAME = "metrics.jsonl"


class Metrics:
    """The rows of a run, one an epoch.

    Parameters
    ----------
    run : Path
        The run's directory.
    world : World
        Rank 0 keeps the rows; on the other ranks nothing happens.
    rows : list of dict
        What the checkpoint knows of earlier epochs. Later ones that a file may hold are forgotten.
    """

    def __init__(self, run: Path, world: World, rows: list[dict[str, Any]]) -> None:
        self.path = run / NAME
        self.world = world
        self.rows = list(rows)
        self._board: Any = None
        if world.is_root:
            self._write()
            self._board = _open_board(run / "tensorboard", len(rows))

    def log(self, row: dict[str, float], epochs: int) -> None:
        """Record and print the row of one epoch out of `epochs`."""
        if not self.world.is_root:
            return
        self.rows.append({name: value if math.isfinite(value) else None for name, value in row.items()})
        self._write()
        for name, value in self.rows[-1].items():
            if name != "epoch" and value is not None:
                self._board.add_scalar(name.replace("_", "/", 1), value, row["epoch"])
        self._board.flush()
        self.world.say(_sentence(row, epochs))

    def best(self) -> dict[str, Any]:
        """Return the row with the lowest validation loss; the earliest of equals."""
        return min(self.rows, key=lambda row: (row["valid_loss"] is None, row["valid_loss"], row["epoch"]))

    def close(self) -> None:
        """Close TensorBoard's file."""
        if self._board is not None:
            self._board.close()

    def _write(self) -> None:
        write_text(self.path, "".join(json.dumps(row) + "\n" for row in self.rows))


def _open_board(directory: Path, epochs: int) -> Any:
    from tensorboardX import SummaryWriter

    return SummaryWriter(str(directory), purge_step=epochs + 1)


def _sentence(row: dict[str, float], epochs: int) -> str:
    share = row["allreduce_share"]
    allreduce = "allreduce within the backward pass" if math.isnan(share) else f"in allreduce {share:.1%}"
    return (
        f"epoch {row['epoch']}/{epochs}: train loss {row['train_loss']:.4f} accuracy {row['train_accuracy']:.3f}, "
        f"valid loss {row['valid_loss']:.4f} accuracy {row['valid_accuracy']:.3f} AUC {row['valid_auc']:.3f}, "
        f"{row['images_per_second']:.0f} images/s, waiting for data {row['data_share']:.1%}, {allreduce}"
    )
