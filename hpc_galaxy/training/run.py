"""A run, of one network or several: open its data, build what it is made of, go through its epochs, leave a marker when it is done."""

from __future__ import annotations

import math
import os
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpc_galaxy import __version__
from hpc_galaxy.config import Config
from hpc_galaxy.errors import InputError, PreemptedError
from hpc_galaxy.files import lock, read_object, shown, write_json
from hpc_galaxy.guarding.signals import Signals
from hpc_galaxy.guarding.watchdog import Watchdog
from hpc_galaxy.ledger import LOCK
from hpc_galaxy.shards.manifest import load_manifest
from hpc_galaxy.tracing.attempt import recording
from hpc_galaxy.tracing.foreign import TIMELINE
from hpc_galaxy.tracing.recorder import COMMUNICATION, Recorder
from hpc_galaxy.tracing.steps import STEP
from hpc_galaxy.training.build import Data, build, connect, global_batch_size, open_data
from hpc_galaxy.training.checkpoint import Checkpoints, nothing_to_hold, restore
from hpc_galaxy.training.loop import Trainer, fit
from hpc_galaxy.training.metrics import NAME as METRICS
from hpc_galaxy.training.metrics import Metrics, make_row, summarise
from hpc_galaxy.training.networks import network_config, network_paths
from hpc_galaxy.training.node import Layout
from hpc_galaxy.training.profiling import note_amounts, profiling
from hpc_galaxy.training.smoke import try_everything
from hpc_galaxy.training.state import State
from hpc_galaxy.training.weights import NAME as WEIGHTS
from hpc_galaxy.training.weights import About, save_weights
from hpc_galaxy.world import World

DONE = "DONE"
CURVE = "learning_curve.png"
HOROVOD_TIMELINE = "HOROVOD_TIMELINE"


def run_networks(config: Config, world: World, overwrite: bool, layout: Layout, smoke: bool, signals: Signals) -> None:
    """Do what `hpc_galaxy.training.train.train` says; `layout` is what the node has been prepared for, `signals` are in force."""
    count = 1 if smoke else config.train.networks
    for number in range(1, count + 1):
        mine, directory = network_config(config, number), config.paths.run
        if count > 1:
            world.say(f"training: network {number} of {count} (seed {mine.seed}) in {shown(mine.paths.run)}")
        # Whoever forgets the first network's run forgets all, so its directory is held while any of them is trained.
        with lock(directory / LOCK) if world.is_root and number > 1 else nullcontext():
            run(mine, world, overwrite and number == 1, layout, smoke, signals)


def run(config: Config, world: World, overwrite: bool, layout: Layout, smoke: bool, signals: Signals) -> None:
    """Train the network of ``paths.run``, or a part of it that is missing; `overwrite` forgets those that differ in their seed as well."""
    directory = config.paths.run
    with (
        lock(directory / LOCK) if world.is_root else nullcontext() as held,
        Watchdog(world, config.train.watchdog) as watchdog,
        _own_timeline(),
    ):
        data = open_data(config, load_manifest(config.paths.shards), world, watchdog.beat)
        if smoke:
            try_everything(config, data, world, layout)
            return
        checkpoints = Checkpoints(directory, config, data.manifest, world, held or nothing_to_hold)
        if overwrite:
            _forget(directory, world)
        content = checkpoints.newest()
        if _is_done(directory, world, config.train.epochs, content):
            world.say(f"training: done already ({shown(directory / DONE)}); raise train.epochs to go on, --overwrite to begin again")
            return
        _start(directory, config, world, checkpoints)
        with recording(config.trace, directory, "train", world) as recorder:
            trainer, state = _begin(config, data, world, layout, content, recorder)
            with (
                closing(Metrics(directory, world, state, config.train.log_steps)) as metrics,
                profiling(config.trace.profiler, recorder, world.rank) as profile,
            ):
                keeper = Keeper(config, data, trainer, checkpoints, metrics, signals, watchdog, profile)
                fit(trainer, data.held_out, state, keeper)
        keeper.finish(state)
        trainer.parallel.close()


@contextmanager
def _own_timeline() -> Iterator[None]:
    """Let Horovod, which reads its environment at each start, write the timeline of the next run elsewhere than this one's."""
    before = os.environ.get(HOROVOD_TIMELINE)
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(HOROVOD_TIMELINE, None)


def _begin(
    config: Config, data: Data, world: World, layout: Layout, content: dict[str, Any] | None, recorder: Recorder | None
) -> tuple[Trainer, State]:
    """Build everything, from the seed or from the content of a checkpoint. Collective."""
    asked = global_batch_size(config.train, world)
    if recorder is not None and config.trace.horovod_timeline:
        os.environ.setdefault(HOROVOD_TIMELINE, str(recorder.path.parent / TIMELINE))
    trainer = build(config, data, world, layout, content["global_batch"] if content else asked, recorder)
    if recorder is not None:
        inputs, image_bytes = data.inputs, 4 * math.prod(data.inputs.stamps.shape)
        note_amounts(recorder, trainer.model, (len(inputs.channels), inputs.size, inputs.size), image_bytes, trainer.device)
    state = restore(content, world, trainer.model, trainer.optimizer) if content else State(asked)
    if content:
        world.say(f"training: continuing from {state.place} of {config.train.epochs} epochs")
        if asked != state.global_batch:
            world.say(f"training: the global batch stays {state.global_batch}, with which this run began; {asked} for so many ranks")
    return connect(trainer), state


@dataclass
class Keeper:
    """Everything that happens around the steps of one run: watch, report, save, stop.

    Attributes
    ----------
    config, data, trainer : Config, Data, Trainer
        The run.
    checkpoints, metrics : Checkpoints, Metrics
        Where its state and its figures go.
    signals, watchdog : Signals, Watchdog
        In force while the training goes on.
    profile : callable
        Tells torch.profiler that a step is over.
    """

    config: Config
    data: Data
    trainer: Trainer
    checkpoints: Checkpoints
    metrics: Metrics
    signals: Signals
    watchdog: Watchdog
    profile: Callable[[], None]

    def after_step(self, state: State) -> None:
        """Give a sign of life; save if it is time; all ranks together, save and leave if one of them was told to. Collective.

        Raises
        ------
        PreemptedError
            One of the ranks has had a signal.
        """
        world = self.trainer.world
        self.watchdog.beat(state.place)
        self.metrics.step(state, self._rate())
        received = self.signals.received
        # A signal's number, or else whether rank 0 wants a checkpoint: the largest of all ranks' wishes holds.
        with self.trainer.watch.span("agree", COMMUNICATION):
            wish = world.max(2 * received if received else int(world.is_root and self.checkpoints.due(state)))
        self.trainer.watch.lap(STEP, state.steps)
        self.profile()
        if wish:
            path = self._save(state)
        if wish > 1:
            raise self._preempted(wish // 2, path, state)

    def after_block(self) -> None:
        """Give a sign of life in the validation."""
        self.watchdog.beat("validation")

    def after_epoch(self, state: State, seconds: float, valid: dict[str, float]) -> None:
        """Report an epoch, keep its weights if they are the best so far, and save. Collective."""
        trainer = self.trainer
        numbers = summarise(state, trainer.watch, seconds, self._rate(), trainer.parallel.overlaps, trainer.world)
        state.end_epoch(trainer.world.bcast(make_row(state, numbers | valid)))
        self.metrics.epoch(state, self.config.train.epochs)
        if trainer.world.is_root and state.rows[-1] == state.best():
            with trainer.watch.span("checkpoint"):
                save_weights(self.config.paths.run / WEIGHTS, trainer.model.state_dict(), self._about(state.rows[-1]))
        self._save(state)
        trainer.watch.lap(f"end of epoch {state.epoch - 1}", state.steps)

    def finish(self, state: State) -> None:
        """Draw the learning curve, write the marker, and say what came out; on rank 0. Collective."""
        world, run, best = self.trainer.world, self.config.paths.run, state.best()
        nodes = len(set(world.allgather(socket.gethostname())))
        if not world.is_root or best is None:
            return
        self.checkpoints.require_held()
        made = [run / WEIGHTS]
        if self.config.train.saving.curve:
            from hpc_galaxy.training.curve import draw_learning_curve  # half a second of matplotlib that the other ranks need not have

            draw_learning_curve(state.rows, best["epoch"], run / CURVE)
            made.append(run / CURVE)
        done = {"epochs": state.epoch - 1, "best_epoch": best["epoch"], "best": best, "last": state.rows[-1], "weights": WEIGHTS}
        ended = {"fingerprint": self.checkpoints.fingerprint, "shards": self.checkpoints.shards, "seed": self.config.seed}
        write_json(run / DONE, done | ended | {"ranks": world.size, "nodes": nodes, "backend": self.trainer.parallel.name})
        if state.epoch <= self.config.train.epochs:
            world.say(f"training: no lower validation loss for {self.config.train.patience} epochs, so this is the end")
        auc = "undefined" if best["valid_auc"] is None else f"{best['valid_auc']:.3f}"
        world.say(
            f"training: {state.epoch - 1} epoch{'s' * (state.epoch != 2)} done; best is epoch {best['epoch']} with validation loss "
            f"{best['valid_loss']:.4f}, accuracy {best['valid_accuracy']:.3f}, AUC {auc}; {', '.join(map(shown, made))}"
        )

    def _about(self, row: dict[str, Any]) -> About:
        return About(
            model=self.config.train.model,
            inputs=self.data.inputs,
            epoch=row["epoch"],
            steps=row["steps"],
            seed=self.config.seed,
            metrics=row,
            fingerprint=self.checkpoints.fingerprint,
            shards=self.checkpoints.shards,
            config=self.config.model_dump(mode="json"),
            code_version=__version__,
        )

    @staticmethod
    def _preempted(number: int, path: Path, state: State) -> PreemptedError:
        name = signal.Signals(number).name
        problem = f"stopped by {name} after {state.place}, saved as {shown(path)}"
        return PreemptedError("train", problem, "start the same command again: it continues")

    def _rate(self) -> float:
        return float(self.trainer.optimizer.param_groups[0]["lr"])

    def _save(self, state: State) -> Path:
        with self.trainer.watch.span("checkpoint"):
            return self.checkpoints.save(state, self.trainer.model, self.trainer.optimizer)


def _start(directory: Path, config: Config, world: World, checkpoints: Checkpoints) -> None:
    """Take away the marker of an earlier, shorter run and what killed ones have left; note the configuration."""
    if world.is_root:
        (directory / DONE).unlink(missing_ok=True)
        checkpoints.remove_leftovers()
        config.save(directory / "config.toml")


def _forget(directory: Path, world: World) -> None:
    """Remove what training writes, of every network, and nothing else. Collective."""
    if world.is_root:
        for network in (directory, *network_paths(directory)):
            for name in (DONE, METRICS, CURVE, WEIGHTS):
                (network / name).unlink(missing_ok=True)
            for name in ("checkpoints", "tensorboard"):
                shutil.rmtree(network / name, ignore_errors=True)
    world.barrier()


def _is_done(directory: Path, world: World, epochs: int, content: dict[str, Any] | None) -> bool:
    """Return whether a run of so many epochs ended well here, or one that had nothing more to gain. Collective."""
    done = False
    if world.is_root and content and (directory / DONE).exists():
        # A damaged marker is made again by the checkpoint's own last epoch.
        with suppress(InputError):
            marker = read_object(directory / DONE, "hpc-galaxy train", epochs=int)
            done = marker["epochs"] >= epochs and content["epoch"] > epochs
    return bool(world.bcast(done))
