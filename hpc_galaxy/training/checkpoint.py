"""Checkpoints: one whole file an epoch, independent of the number of ranks, read without unpickling code."""

from __future__ import annotations

import hashlib
import json
import pickle
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hpc_galaxy.config import Config
from hpc_galaxy.errors import FormatError, StaleOutputError
from hpc_galaxy.files import whole_file
from hpc_galaxy.shards.manifest import Manifest
from hpc_galaxy.training.loop import Trainer
from hpc_galaxy.world import World

VERSION = 1
DAMAGE = (OSError, EOFError, RuntimeError, ValueError, KeyError, pickle.UnpicklingError, zipfile.BadZipFile)


def shards_fingerprint(manifest: Manifest) -> str:
    """Return a short hash of what a directory of shards was asked to hold, and of every byte it does hold."""
    files = [shard.xxh128 for split in sorted(manifest.splits) for shard in manifest.splits[split]]
    return hashlib.sha256(json.dumps([manifest.fingerprint, files], sort_keys=True).encode()).hexdigest()[:16]


def training_fingerprint(config: Config, manifest: Manifest) -> str:
    """Return a short hash of everything that decides the weights after an epoch.

    The number of epochs is left out, so that a run can be continued for longer; backend and threads are, because they
    decide how the work is done and not what comes out.
    """
    neutral = config.train.model_copy(update={"epochs": 1, "backend": "auto", "threads": 0})
    asked = config.model_copy(update={"train": neutral}).fingerprint("train")
    return hashlib.sha256(f"{asked} {shards_fingerprint(manifest)}".encode()).hexdigest()[:16]


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read one checkpoint; tensors arrive on the CPU.

    Raises
    ------
    FormatError
        It is missing, damaged, or of another version.
    """
    remedy = "run 'hpc-galaxy train' to make it again"
    try:
        _check_bytes(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
        version = content["version"]
    except DAMAGE as error:
        # The unpickler's own message advises to load the file without the protection.
        reason = "damaged, or holds more than tensors" if isinstance(error, pickle.UnpicklingError) else str(error).partition("\n")[0]
        raise FormatError(path, f"not a readable checkpoint ({reason})", remedy) from error
    if version != VERSION:
        raise FormatError(path, f"has version {version}, expected {VERSION}", remedy)
    return content


def _check_bytes(path: Path) -> None:
    """Compare each record of the file, which is a ZIP archive, with its CRC-32; torch.load does not."""
    with zipfile.ZipFile(path) as archive:
        bad = archive.testzip()
    if bad is not None:
        raise ValueError(f"checksum of {bad} does not agree")


def checkpoint_path(run: Path, epoch: int) -> Path:
    """Return ``run/checkpoints/epoch_0003.pt`` for the state after epoch 3."""
    return run / "checkpoints" / f"epoch_{epoch:04d}.pt"


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one run.

    Parameters
    ----------
    run : Path
        The run's directory.
    config : Config
        What the run was asked for.
    manifest : Manifest
        The shards it reads.
    world : World
        Rank 0 reads and writes.
    """

    run: Path
    config: Config
    manifest: Manifest
    world: World

    def save(self, epoch: int, trainer: Trainer, rows: list[dict[str, Any]], global_batch: int) -> None:
        """Write the state after `epoch` and the metrics up to there, on rank 0."""
        if not self.world.is_root:
            return
        content = {
            "version": VERSION,
            "epoch": epoch,
            "fingerprint": training_fingerprint(self.config, self.manifest),
            "shards": shards_fingerprint(self.manifest),
            "global_batch": global_batch,
            "rows": rows,
            "model": trainer.model.state_dict(),
            "optimizer": trainer.optimizer.state_dict(),
        }
        with whole_file(checkpoint_path(self.run, epoch)) as temporary:
            torch.save(content, temporary)

    def newest(self) -> dict[str, Any] | None:
        """Return the newest readable checkpoint on every rank, or None. Collective.

        Raises
        ------
        StaleOutputError
            It was made with another configuration or other shards.
        """
        content = self.world.bcast(self._newest_readable() if self.world.is_root else None)
        if content is None:
            return None
        if content["fingerprint"] != training_fingerprint(self.config, self.manifest):
            problem = "was made with another configuration ([train] or seed) or from other shards"
            raise StaleOutputError(checkpoint_path(self.run, content["epoch"]), problem, "use --overwrite, or another paths.run")
        return content

    def _newest_readable(self) -> dict[str, Any] | None:
        paths = sorted((self.run / "checkpoints").glob("epoch_*.pt"), reverse=True)
        for path in paths:
            try:
                return read_checkpoint(path)
            except FormatError as error:
                self.world.say(f"training: {error.where}: {error.problem}; trying the one before it")
        if paths:
            self.world.say("training: no checkpoint is readable; beginning at epoch 1")
        return None
