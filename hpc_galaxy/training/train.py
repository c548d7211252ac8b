"""The stage ``train``: put a run together, go through its epochs, leave a marker when it is done."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from hpc_galaxy.config import Config
from hpc_galaxy.files import read_json, shown, write_json
from hpc_galaxy.shards.manifest import load_manifest
from hpc_galaxy.shards.numpy_shards import SplitReader
from hpc_galaxy.shards.schema import StampFormat
from hpc_galaxy.tracing.progress import announce
from hpc_galaxy.training.checkpoint import Checkpoints, shards_fingerprint, training_fingerprint
from hpc_galaxy.training.curve import draw_learning_curve
from hpc_galaxy.training.dataset import Dataset
from hpc_galaxy.training.device import pick_device, set_threads
from hpc_galaxy.training.loop import Trainer
from hpc_galaxy.training.metrics import NAME as METRICS
from hpc_galaxy.training.metrics import Metrics
from hpc_galaxy.training.model import GalaxyCNN, count_parameters
from hpc_galaxy.training.parallel import choose_backend
from hpc_galaxy.world import World

DONE = "DONE"
CURVE = "learning_curve.png"


def train(config: Config, world: World, overwrite: bool) -> None:
    """Train the network on ``paths.shards`` and write ``paths.run``; continue from the newest checkpoint there.

    Parameters
    ----------
    config : Config
        The sections [train] and [paths], and the seed, matter here.
    world : World
        Every rank must call this.
    overwrite : bool
        Forget what ``paths.run`` holds.

    Raises
    ------
    StaleOutputError
        ``paths.run`` holds a run with another configuration or other shards.
    InputError, FormatError
        The shards are missing, empty or damaged.
    StageError
        The loss is not finite.
    """
    run, epochs = config.paths.run, config.train.epochs
    manifest = load_manifest(config.paths.shards)
    examples, held_out = (Dataset(SplitReader(config.paths.shards, manifest, name)) for name in ("train", "valid"))
    examples.check()
    held_out.check()
    if overwrite:
        _forget(run, world)
    checkpoints = Checkpoints(run, config, manifest, world)
    state = checkpoints.newest()
    done = state["epoch"] if state else 0
    if _is_done(run, world, epochs, done):
        world.say(f"training: done already ({done} epochs, {shown(run / DONE)}); raise train.epochs to go on, --overwrite to begin again")
        return
    _start(run, config, world)
    trainer = _build(config, manifest.stamps, world, state)
    metrics = Metrics(run, world, state["rows"] if state else [])
    global_batch = config.train.batch_size * world.size
    for epoch in range(done + 1, epochs + 1):
        batches = examples.epoch(config.seed, epoch, global_batch, world)
        row = trainer.train_epoch(epoch, announce(world, f"epoch {epoch}", "steps", batches, examples.steps(global_batch)))
        row |= trainer.validate(held_out)
        metrics.log({"epoch": epoch, **row}, epochs)
        checkpoints.save(epoch, trainer, metrics.rows, global_batch)
    _finish(run, metrics, trainer, {"fingerprint": training_fingerprint(config, manifest), "shards": shards_fingerprint(manifest)})
    trainer.parallel.close()


def _build(config: Config, stamps: StampFormat, world: World, state: dict[str, Any] | None) -> Trainer:
    """Make the model and all it is trained with, from the seed or from a checkpoint, and say what was made. Collective."""
    device = pick_device(world)
    threads = set_threads(world, config.train.threads)
    torch.manual_seed(config.seed)
    model = GalaxyCNN(stamps).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.train.learning_rate)
    if state:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    parallel = choose_backend(config.train.backend, world, device)
    global_batch = config.train.batch_size * world.size
    world.say(
        f"training: {parallel.description}, {_count(world.size, 'rank')} x {_count(threads, 'thread')}, global batch {global_batch}, "
        f"{count_parameters(model):,} parameters, device {device.type}, seed {config.seed}"
    )
    if state:
        world.say(f"training: continuing after epoch {state['epoch']} of {config.train.epochs}")
        before = state["global_batch"]
        if before != global_batch:
            world.say(f"training: the global batch was {before} before the checkpoint, from here on it is {global_batch}")
    return Trainer(model, parallel.prepare(model), optimizer, parallel, world, device)


def _finish(run: Path, metrics: Metrics, trainer: Trainer, fingerprints: dict[str, str]) -> None:
    """Draw the learning curve, write the marker, and say what came out; on rank 0."""
    metrics.close()
    if not trainer.world.is_root:
        return
    best, last = metrics.best(), metrics.rows[-1]
    draw_learning_curve(metrics.rows, best["epoch"], run / CURVE)
    done = {"epochs": last["epoch"], "best_epoch": best["epoch"], "best": best, "last": last, **fingerprints}
    write_json(run / DONE, done | {"ranks": trainer.world.size, "backend": trainer.parallel.name})
    auc = "undefined" if best["valid_auc"] is None else f"{best['valid_auc']:.3f}"
    trainer.world.say(
        f"training: {_count(last['epoch'], 'epoch')} done; best is epoch {best['epoch']} with validation loss {best['valid_loss']:.4f}, "
        f"accuracy {best['valid_accuracy']:.3f}, AUC {auc}; learning curve in {shown(run / CURVE)}"
    )


def _start(run: Path, config: Config, world: World) -> None:
    """Take the marker of an earlier, shorter run away and note the configuration."""
    if world.is_root:
        (run / DONE).unlink(missing_ok=True)
        config.save(run / "config.toml")


def _forget(run: Path, world: World) -> None:
    """Remove what training writes, and nothing else. Collective."""
    if world.is_root:
        for name in (DONE, METRICS, CURVE):
            (run / name).unlink(missing_ok=True)
        for name in ("checkpoints", "tensorboard"):
            shutil.rmtree(run / name, ignore_errors=True)
    world.barrier()


def _is_done(run: Path, world: World, epochs: int, done: int) -> bool:
    """Return whether a run of so many epochs ended well here. Collective."""
    marked = world.is_root and (run / DONE).exists() and read_json(run / DONE, "hpc-galaxy train")["epochs"] >= epochs
    return world.bcast(marked) and done >= epochs


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"
