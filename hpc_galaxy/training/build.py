"""Put together what a training is made of, from the configuration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from hpc_galaxy.config import Config, Train
from hpc_galaxy.errors import FormatError
from hpc_galaxy.shards.manifest import REMEDY, Manifest
from hpc_galaxy.shards.numpy_shards import SplitReader
from hpc_galaxy.tracing.recorder import Recorder
from hpc_galaxy.tracing.spans import Stopwatch
from hpc_galaxy.training.data.batches import Dataset
from hpc_galaxy.training.data.inputs import Inputs, make_inputs
from hpc_galaxy.training.data.order import rank_part
from hpc_galaxy.training.data.staging import stage
from hpc_galaxy.training.ipex import optimise
from hpc_galaxy.training.loop import Trainer
from hpc_galaxy.training.model import CLASSES, MajorityClass, count_parameters, make_model
from hpc_galaxy.training.node import Layout
from hpc_galaxy.training.objective import make_objective
from hpc_galaxy.training.optim.optimizers import make_optimizer, peak_learning_rate
from hpc_galaxy.training.optim.schedule import LearningRate
from hpc_galaxy.training.parallel.choose import choose_backend, pick_device
from hpc_galaxy.world import World


@dataclass(frozen=True)
class Data:
    """What a run reads.

    Attributes
    ----------
    manifest : Manifest
        Of the shards.
    inputs : Inputs
        What the network sees of them.
    examples, held_out : Dataset
        The training and the validation split.
    """

    manifest: Manifest
    inputs: Inputs
    examples: Dataset
    held_out: Dataset


def open_data(config: Config, manifest: Manifest, world: World, beat: Callable[[str], None] = lambda _: None) -> Data:
    """Open both splits, after having looked for every file, and staged them where that is asked for; `beat` hears where it is. Collective.

    Raises
    ------
    InputError, FormatError
        A split is empty, a file is missing or of another size, a label is neither 0 nor 1.
    """
    settings, directory = config.train.data, config.paths.shards
    names = ("train", "valid")
    for name in names:
        _require_files(SplitReader(directory, manifest, name), world)
    if settings.stage:
        directory = stage(directory, manifest, names, Path(settings.stage), world, beat)
    readers = {name: SplitReader(directory, manifest, name) for name in names}
    for reader in readers.values():
        _share_labels(reader, world)
    inputs = world.bcast(make_inputs(settings, readers["train"]) if world.is_root else None)
    assert inputs is not None
    examples = Dataset(readers["train"], inputs, settings, augment=True)
    held_out = Dataset(readers["valid"], inputs, settings)
    examples.check()
    held_out.check()
    return Data(manifest, inputs, examples, held_out)


def _share_labels(reader: SplitReader, world: World) -> None:
    """Let each rank read the labels of some shards and give them to the others: a thousand ranks do not open every file. Collective."""
    mine = range(len(reader.shards))[rank_part(len(reader.shards), world)]
    parts = world.allgather(np.concatenate([np.empty(0, np.uint8), *(reader.shard_labels(number) for number in mine)]))
    reader.know_labels(np.concatenate(parts))


def _require_files(reader: SplitReader, world: World) -> None:
    """Look for each file of a split now, not hours later; each rank looks for some."""
    for shard in world.share(reader.shards):
        for name, size in shard.bytes.items():
            path = reader.directory / name
            try:
                found = path.stat().st_size
            except OSError as error:
                raise FormatError(path, f"cannot be found ({error.strerror}), but manifest.json names it", REMEDY) from error
            if found != size:
                raise FormatError(path, f"has {found} bytes, expected {size}", REMEDY)


def build(config: Config, data: Data, world: World, layout: Layout, global_batch: int, recorder: Recorder | None = None) -> Trainer:
    """Make the model and all it is trained with, from the seed, and say what was made; `recorder` hears of every span. Collective.

    The parameters are not yet shared with the other ranks, and a checkpoint may still be put in: `connect` comes after that.

    Raises
    ------
    ConfigError, LaunchError
        What is asked for cannot be had here.
    """
    settings, device = config.train, pick_device(world)
    torch.set_num_threads(layout.threads)
    torch.manual_seed(config.seed)
    model = _make_model(settings, data).to(device)
    optimizer = make_optimizer(settings.optimizer, model, fused_later=settings.ipex)
    peak = peak_learning_rate(settings.optimizer, global_batch)
    learning_rate = LearningRate(settings.schedule, peak, settings.epochs, len(data.examples), global_batch)
    objective = make_objective(settings, data.examples.labels, device)
    parallel = choose_backend(settings, world, device)
    world.say(
        f"training: {parallel.description}, {layout.ranks}, global batch {global_batch}, {count_parameters(model):,} parameters, "
        f"{settings.optimizer.name} at {peak:g}, device {device.type}, seed {config.seed}"
    )
    world.say(f"training: {layout.sentence}")
    watch = Stopwatch(recorder)
    return Trainer(model, model, optimizer, learning_rate, objective, parallel, settings, data.examples, config.seed, world, device, watch)


def _make_model(settings: Train, data: Data) -> nn.Module:
    model = make_model(settings.model, len(data.inputs.channels), data.inputs.size)
    if isinstance(model, MajorityClass):
        model.learn(torch.from_numpy(np.bincount(data.examples.labels, minlength=CLASSES)).float())
    # The input lies channels-last in any case.
    for parameter in model.parameters() if settings.channels_last else ():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return model


def connect(trainer: Trainer) -> Trainer:
    """Give every rank the parameters of rank 0, and return the trainer whose forward pass goes through what averages. Collective."""
    if trainer.settings.ipex:
        *_, sentence = optimise(trainer.model, trainer.optimizer)
        trainer.world.say(f"training: {sentence}")
    wrapped = trainer.parallel.prepare(trainer.model)
    if trainer.watch.recorder is not None:
        trainer.parallel.record(trainer.watch)
    if trainer.settings.compile:
        wrapped.compile()
    return replace(trainer, wrapped=wrapped)


def global_batch_size(settings: Train, world: World) -> int:
    """Return the examples of a step, over all ranks, that [train] asks for."""
    return settings.global_batch or settings.batch_size * settings.accumulate * world.size
