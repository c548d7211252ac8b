"""The stage ``train``. What it does is in `run`; this sets the node up first, because torch reads its settings when it is imported."""

from __future__ import annotations

from hpc_galaxy.config import Config
from hpc_galaxy.guarding.signals import Signals
from hpc_galaxy.training.node import prepare_node
from hpc_galaxy.world import World


def train(config: Config, world: World, overwrite: bool, smoke: bool = False) -> None:
    """Train the network on ``paths.shards`` and write ``paths.run``; continue from the newest checkpoint there.

    Of several (``train.networks``) one is trained after another, from a seed that is one higher; the second writes
    ``paths.run/network_2``, and so on. Those that are done are not trained again.

    Parameters
    ----------
    config : Config
        The sections [train] and [paths], and the seed, matter here.
    world : World
        Every rank must call this.
    overwrite : bool
        Forget what ``paths.run`` holds, all networks of it.
    smoke : bool
        Only try everything once, on one batch, with the first network, and leave ``paths.run`` as it is.

    Raises
    ------
    StaleOutputError
        ``paths.run`` holds a run with another configuration or other shards.
    InputError, FormatError
        The shards are missing, empty or damaged.
    ConfigError, LaunchError
        What is asked for cannot be had here.
    OutputError
        ``paths.run`` cannot be written, or another job writes there.
    StageError
        The loss is not finite.
    PreemptedError
        A signal has asked for an end; a checkpoint has been saved.
    """
    # From here on a signal ends nothing by itself, not even while torch is imported, which takes seconds.
    with Signals() as signals:
        layout = prepare_node(config.train, world)
        from hpc_galaxy.training.run import run_networks

        run_networks(config, world, overwrite, layout, smoke, signals)
