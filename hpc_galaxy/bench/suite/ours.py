"""Our training as the stage does it: data, steps, agreement on signals, metrics, watchdog."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from hpc_galaxy.bench.suite.clock import Cost, timed
from hpc_galaxy.config import Config
from hpc_galaxy.guarding.signals import Signals
from hpc_galaxy.guarding.watchdog import Watchdog
from hpc_galaxy.shards.manifest import load_manifest
from hpc_galaxy.tracing.progress import announce
from hpc_galaxy.training.build import build, connect, global_batch_size, open_data
from hpc_galaxy.training.checkpoint import Checkpoints
from hpc_galaxy.training.metrics import Metrics
from hpc_galaxy.training.node import prepare_node
from hpc_galaxy.training.run import Keeper
from hpc_galaxy.training.state import State
from hpc_galaxy.world import World


@dataclass
class Ours:
    """A run that stops after some steps, and goes on when it is asked to.

    Attributes
    ----------
    keeper, state : Keeper, State
        The run.
    """

    keeper: Keeper
    state: State

    def __post_init__(self) -> None:
        self._steps = self._run()

    def __call__(self, steps: int) -> Cost:
        """Train for so many steps."""
        watch = self.keeper.trainer.watch
        before = watch.seconds["data"]
        with contextlib.redirect_stdout(io.StringIO()):  # progress
            cost = timed(lambda: next(self._steps), steps)
        return cost._replace(waited=(watch.seconds["data"] - before) / steps)

    def close(self) -> None:
        """End the thread that reads ahead."""
        self._steps.close()

    def _run(self) -> Generator[None]:
        """Yield after each step, as `hpc_galaxy.training.loop.fit` goes through them, without the validation between epochs."""
        trainer, state = self.keeper.trainer, self.state
        while True:
            steps = -(-len(trainer.examples) // state.global_batch)
            for batch in announce(trainer.world, f"epoch {state.epoch}", "steps", trainer.batches(state), steps):
                trainer.step(batch, state)
                self.keeper.after_step(state)
                yield
            state.end_epoch({"epoch": state.epoch})


@contextmanager
def ours(config: Config) -> Iterator[Ours]:
    """Begin a run of `config`, and yield the side that goes on with it."""
    world, manifest = World(), load_manifest(config.paths.shards)
    with contextlib.redirect_stdout(io.StringIO()):
        data, batch = open_data(config, manifest, world), global_batch_size(config.train, world)
        trainer = connect(build(config, data, world, prepare_node(config.train, world), batch))
        state = State(batch)
        metrics = Metrics(config.paths.run, world, state, config.train.log_steps)
    checkpoints = Checkpoints(config.paths.run, config, manifest, world)
    with Signals() as signals, Watchdog(world, config.train.watchdog) as watchdog:
        keeper = Keeper(config, data, trainer, checkpoints, metrics, signals, watchdog, lambda: None)
        with contextlib.closing(Ours(keeper, state)) as side:
            yield side
        metrics.close()
