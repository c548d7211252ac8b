"""Checkpoints: one whole file each, independent of the number of ranks, read without unpickling code."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from hpc_galaxy.config import Config
from hpc_galaxy.config.training import Ddp, Horovod, Saving, Watchdog
from hpc_galaxy.errors import FormatError, StaleOutputError
from hpc_galaxy.files import remove_partials, shown, whole_file
from hpc_galaxy.shards.manifest import Manifest
from hpc_galaxy.training.state import NORM, STEPS, State, no_totals
from hpc_galaxy.world import World

VERSION = 2
DAMAGE = (OSError, EOFError, RuntimeError, ValueError, KeyError, TypeError, pickle.UnpicklingError, zipfile.BadZipFile)
FIELDS: dict[str, type] = {"fingerprint": str, "shards": str, "global_batch": int, "epoch": int, "seen": int, "steps": int}
FIELDS |= {"totals": list, "rows": list, "model": dict, "optimizer": dict}
REMEDY = "run 'hpc-galaxy train' to make it again"


def shards_fingerprint(manifest: Manifest) -> str:
    """Return a short hash of what a directory of shards was asked to hold, and of every byte it does hold."""
    files = [shard.xxh128 for split in sorted(manifest.splits) for shard in manifest.splits[split]]
    return hashlib.sha256(json.dumps([manifest.fingerprint, files], sort_keys=True).encode()).hexdigest()[:16]


def training_fingerprint(config: Config, manifest: Manifest) -> str:
    """Return a short hash of everything that decides the weights after a step.

    How the work is done (backend, threads, saving, ...) is left out, because it does not decide what comes out. So is the number of
    epochs, so that a run can be continued for longer, unless the learning rate depends on it, and the number of networks.
    """
    train = config.train
    neutral: dict[str, Any] = {
        "backend": "auto",
        "networks": 1,
        "threads": 0,
        "bind": True,
        "log_steps": 1,
        "patience": 0,
        "force_bfloat16": False,
        "ipex": False,
    }
    neutral |= {"saving": Saving(), "watchdog": Watchdog(), "horovod": Horovod(compression=train.horovod.compression)}
    neutral |= {"ddp": Ddp(compression=train.ddp.compression), "data": train.data.model_copy(update={"prefetch": 1, "stage": ""})}
    if train.schedule.name in ("constant", "step"):
        neutral["epochs"] = 1
    asked = config.model_copy(update={"train": train.model_copy(update=neutral)}).fingerprint("train")
    return hashlib.sha256(f"{asked} {shards_fingerprint(manifest)}".encode()).hexdigest()[:16]


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read one checkpoint; tensors arrive on the CPU.

    Raises
    ------
    FormatError
        It is missing, damaged, or of another version.
    """
    try:
        _check_bytes(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(content, dict):
            raise ValueError(f"holds a {type(content).__name__}, expected a dict")
        version = content["version"]
        if version == VERSION:
            _require_fields(content)
    except DAMAGE as error:
        # The unpickler's own message advises to load the file without the protection.
        reason = "damaged, or holds more than tensors" if isinstance(error, pickle.UnpicklingError) else str(error).partition("\n")[0]
        raise FormatError(path, f"not a readable checkpoint ({reason})", REMEDY) from error
    if version != VERSION:
        raise FormatError(path, f"has version {version}, expected {VERSION}", REMEDY)
    return content


def _require_fields(content: dict[str, Any]) -> None:
    for name, kind in FIELDS.items():
        found = content.get(name)
        if not isinstance(found, kind) or (isinstance(found, int) and found < 0):
            raise ValueError(f"'{name}' is {str(found)[:40]!r}")
    if np.shape(content["totals"])[1:] != no_totals().shape:
        raise ValueError(f"'totals' is {str(content['totals'])[:40]!r}")


def _check_bytes(path: Path) -> None:
    """Compare each record of the file, which is a ZIP archive, with its CRC-32; torch.load does not."""
    with zipfile.ZipFile(path) as archive:
        bad = archive.testzip()
    if bad is not None:
        raise ValueError(f"checksum of {bad} does not agree")


def checkpoint_path(run: Path, steps: int) -> Path:
    """Return ``run/checkpoints/step_00000120.pt`` for the state after 120 steps."""
    return run / "checkpoints" / f"step_{steps:08d}.pt"


def nothing_to_hold() -> None:
    """Stand for the directory of a run that nobody has locked."""


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
    require_held : callable
        Raises `OutputError` where the run's directory is no longer the one that this job has locked; see `hpc_galaxy.files.lock`.
    """

    def __init__(
        self, run: Path, config: Config, manifest: Manifest, world: World, require_held: Callable[[], None] = nothing_to_hold
    ) -> None:
        self.run, self.world, self.require_held = run, world, require_held
        self.settings = config.train.saving
        self.fingerprint, self.shards = training_fingerprint(config, manifest), shards_fingerprint(manifest)
        self._saved_at = time.monotonic()

    def due(self, state: State) -> bool:
        """Return whether one should be saved within an epoch now. Ranks may differ about the time: rank 0's answer counts."""
        steps, minutes = self.settings.every_steps, self.settings.every_minutes
        return bool(steps and state.steps % steps == 0) or bool(minutes and time.monotonic() - self._saved_at > 60 * minutes)

    def save(self, state: State, model: nn.Module, optimizer: torch.optim.Optimizer) -> Path:
        """Write the state on rank 0, in a file of its own, and remove what need not be kept. Collective.

        Returns
        -------
        Path
            The file.

        Raises
        ------
        OutputError
            It cannot be written; those before it are untouched. Or the directory was removed, and with it those before.
        """
        path, totals = checkpoint_path(self.run, state.steps), self.world.gather(state.totals.tolist())
        self._saved_at = time.monotonic()
        if self.world.is_root:
            content = {
                "version": VERSION,
                "fingerprint": self.fingerprint,
                "shards": self.shards,
                "global_batch": state.global_batch,
                "epoch": state.epoch,
                "seen": state.seen,
                "steps": state.steps,
                "totals": totals,
                "rows": state.rows,
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
            }
            self.require_held()
            _write(path, content)
            self._prune(state)
        return path

    def newest(self) -> dict[str, Any] | None:
        """Return the newest readable checkpoint on every rank, or None. Collective.

        Raises
        ------
        StaleOutputError
            It was made with another configuration or other shards.
        """
        content = self.world.bcast(self._newest_readable() if self.world.is_root else None)
        if content is not None and content["fingerprint"] != self.fingerprint:
            problem = "was made with another configuration ([train] or seed) or from other shards"
            raise StaleOutputError(checkpoint_path(self.run, content["steps"]), problem, "use --overwrite, or another paths.run")
        return content

    def remove_leftovers(self) -> None:
        """Remove what killed processes have left of writing checkpoints; on rank 0, when no other job writes here."""
        remove_partials(self.run / "checkpoints")

    def _newest_readable(self) -> dict[str, Any] | None:
        paths = sorted((self.run / "checkpoints").glob("step_*.pt"), reverse=True)
        for path in paths:
            try:
                return read_checkpoint(path)
            except FormatError as error:
                self.world.say(f"training: {shown(Path(error.where))}: {error.problem}; trying the one before it")
        if paths:
            self.world.say("training: no checkpoint is readable; beginning at epoch 1")
        return None

    def _prune(self, state: State) -> None:
        best = state.best()
        kept = {checkpoint_path(self.run, best["steps"])} if best else set()
        for path in sorted((self.run / "checkpoints").glob("step_*.pt"), reverse=True)[self.settings.keep :]:
            if path not in kept:
                path.unlink(missing_ok=True)


def _write(path: Path, content: dict[str, Any]) -> None:
    # Through memory: torch.save itself turns a full disk into a RuntimeError without a reason.
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with whole_file(path) as temporary, open(temporary, "wb") as file:
        file.write(buffer.getbuffer())


def restore(content: dict[str, Any], world: World, model: nn.Module, optimizer: torch.optim.Optimizer) -> State:
    """Put a checkpoint back into model and optimizer; return the state, for any number of ranks.

    Raises
    ------
    FormatError
        Its tensors are those of another network or optimizer.
    """
    try:
        model.load_state_dict(content["model"])
        optimizer.load_state_dict(content["optimizer"])
    except DAMAGE as error:
        problem = f"does not fit this network and optimizer ({str(error).splitlines()[-1].strip()})"
        raise FormatError(f"the checkpoint of step {content['steps']}", problem, "remove it: the one before it is used then") from error
    totals = np.array(content["totals"])
    # Each rank its own, so that sums come out to the last bit. Where the ranks are others, rank 0 keeps what all have added up.
    own = totals[world.rank] if len(totals) == world.size else totals.sum(axis=0) * world.is_root
    own[[NORM, STEPS]] = totals[0, [NORM, STEPS]]  # which are the same on every rank
    return State(content["global_batch"], content["epoch"], content["seen"], content["steps"], own, list(content["rows"]))
