"""The stages by name, and ``hpc-galaxy run``: several of them after one start of the ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from hpc_galaxy.config import Config
from hpc_galaxy.errors import ConfigError
from hpc_galaxy.launch import HEADING
from hpc_galaxy.world import World


@dataclass(frozen=True)
class Stage:
    """A stage of the pipeline.

    Attributes
    ----------
    purpose : str
        For people.
    function : str
        ``module:name`` of a function of the configuration, the world and whether to make again what is there already.
    watched : bool
        Whether it needs the watchdog that ends a job with a silent rank; training has one of its own.
    """

    purpose: str
    function: str
    watched: bool = True


STAGES = {
    "survey": Stage("render a synthetic survey with GalSim", "bricks.survey:make_survey"),
    "inject": Stage("draw fake galaxies into copies of its coadds", "injection.inject:inject"),
    "extract": Stage("cut stamps of real and fake galaxies", "cutouts.extract:extract"),
    "split": Stage("match real to fake, assign bricks to train, valid and test, and write shuffled shards", "splits.split:split"),
    "audit": Stage("look for leaks, by which a network could win without looking at galaxies", "splits.audit.audit:audit_stage"),
    "train": Stage("train the CNN, data-parallel", "training.train:train", watched=False),
    "realism": Stage("ask it to tell fake from real on bricks it never saw", "realism.report:report"),
}
# What is run where no stage is named: a survey and its fakes are there.
USUAL = ("extract", "split", "audit", "train", "realism")


def load(function: str) -> Callable[..., Any]:
    """Return a function by its ``module:name`` below this package; what it needs is imported now."""
    module, name = function.split(":")
    return getattr(import_module(f"hpc_galaxy.{module}"), name)


def run_stage(name: str, config: Config, world: World, overwrite: bool) -> None:
    """Run one stage. Collective."""
    work = load(STAGES[name].function)
    if STAGES[name].watched:
        watch(name, config, world, work, config, world, overwrite)
    else:
        work(config, world, overwrite)


def watch(verb: str, config: Config, world: World, work: Callable[..., None], *arguments: Any) -> None:
    """Do the work; a rank that is stopped, or whose node hangs, ends the job instead of being waited for for ever."""
    with load("guarding.watchdog:watched")(world, config.watchdog.silent_seconds, verb):
        work(*arguments)


def run_chain(names: Sequence[str], config: Config, world: World, overwrite: bool = False) -> None:
    """Run stages one after another on the same ranks; the first that fails ends the chain. Collective.

    The start of a thousand Pythons takes minutes, and a stage's ranks may be needed for seconds.

    Parameters
    ----------
    names : sequence of str
        Keys of `STAGES` in their order; `USUAL` where there are none.
    config, world, overwrite
        What each stage gets.

    Raises
    ------
    ConfigError
        A name is unknown, or they are not in the order in which each stage finds what it reads.
    """
    names = names or USUAL
    _check(names)
    for name in names:
        world.say(f"\n{HEADING}{name}: {STAGES[name].purpose}")
        run_stage(name, config, world, overwrite)
        world.barrier()  # what the next one reads is there


def _check(names: Sequence[str]) -> None:
    known = list(STAGES)
    unknown = [name for name in names if name not in STAGES]
    if unknown:
        raise ConfigError("run", f"there is no stage '{unknown[0]}', expected some of {', '.join(known)}", "name them in this order")
    expected = sorted(set(names), key=known.index)
    if list(names) != expected:
        problem = f"got the stages '{' '.join(names)}', expected '{' '.join(expected)}'"
        raise ConfigError("run", problem, "each reads what those before it have made")
