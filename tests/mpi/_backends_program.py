"""Train a network with every backend and compare it with one process: ``_backends_program.py CASE...``; or ``fail``.

Under mpirun or torchrun. Rank 0 prints one JSON object a line. Each case is averaged over two ranks, with weights in default and in
channels-last order, whole and in micro-batches; in some steps rank 1 has fewer micro-batches than rank 0, or no example at all.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from functools import cache

import numpy as np
import torch

from hpc_galaxy.config.training import Ddp, Horovod, Train
from hpc_galaxy.errors import InputError, LaunchError
from hpc_galaxy.training.model import GalaxyCNN
from hpc_galaxy.training.parallel.base import DataParallel, Serial
from hpc_galaxy.training.parallel.choose import choose_backend
from hpc_galaxy.training.torchrun import join_torchrun, launched_by_torchrun
from hpc_galaxy.world import World, detect, guard

CASES = {
    "mpi": Train(backend="mpi"),
    "ddp": Train(backend="ddp"),
    "ddp many buckets": Train(backend="ddp", ddp=Ddp(bucket_mb=0.01)),
    "ddp fp16": Train(backend="ddp", ddp=Ddp(compression="fp16")),
    "ddp bf16": Train(backend="ddp", ddp=Ddp(compression="bf16")),
    # The first one to start Horovod in a process decides how its thread works.
    "horovod tensors": Train(backend="horovod", horovod=Horovod(flat=False, cycle_time_ms=0.5, fusion_mb=1)),
    "horovod": Train(backend="horovod"),
    "horovod fp16": Train(backend="horovod", horovod=Horovod(compression="fp16")),
    "horovod tensors fp16": Train(backend="horovod", horovod=Horovod(flat=False, compression="fp16")),
}
STEPS, BATCH, PIECE = 20, 8, 3
# Where rank 1's slice of a batch begins: equal shares, one piece against three, and nothing for rank 1.
CUTS = (4, 7, BATCH)
Examples = tuple[torch.Tensor, torch.Tensor]


def make_model(seed: int, channels_last: bool) -> torch.nn.Module:
    """The package's network, for small images."""
    torch.manual_seed(seed)
    model = GalaxyCNN(2, 16)
    return model.to(memory_format=torch.channels_last) if channels_last else model


def make_batches() -> list[Examples]:
    """The same batches on every rank; the second class is brighter."""
    rng = torch.Generator().manual_seed(5)
    labels = torch.randint(0, 2, (STEPS, BATCH), generator=rng)
    images = torch.randn(STEPS, BATCH, 2, 16, 16, generator=rng) + 0.5 * labels[..., None, None, None]
    return [(image.contiguous(memory_format=torch.channels_last), label) for image, label in zip(images, labels, strict=True)]


def pieces(batch: Examples, world: World, step: int, accumulate: bool) -> list[Examples]:
    """This rank's slice of a batch, in micro-batches; an empty one in one empty piece."""
    cut = CUTS[step % len(CUTS)] if world.size == 2 else BATCH
    part = slice(0, cut) if world.rank == 0 else slice(cut, BATCH)
    images, labels = (tensor[part] for tensor in batch)
    size = PIECE if accumulate else BATCH
    return [(images[start : start + size], labels[start : start + size]) for start in range(0, max(len(labels), 1), size)]


def flat(tensors: Iterator[torch.Tensor]) -> torch.Tensor:
    """All of them end to end, in the order of their axes, however they lie in memory."""
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors])


def train(model: torch.nn.Module, parallel: DataParallel, world: World, optimizer: str, accumulate: bool) -> list[bool]:
    """Take all steps; return for each whether the ranks' gradients differed before the last piece, where there were several."""
    wrapped = parallel.prepare(model)
    steps = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9) if optimizer == "sgd" else torch.optim.Adam(model.parameters())
    local = []
    for number, batch in enumerate(make_batches()):
        parallel.zero_gradients()
        mine = pieces(batch, world, number, accumulate)
        for place, (images, labels) in enumerate(mine, 1):
            with parallel.backward(last=place == len(mine)):
                losses = torch.nn.functional.cross_entropy(wrapped(images), labels, reduction="none")
                (losses.sum() * world.size / BATCH).backward()
            if place == 1 and accumulate and number % len(CUTS) == 0:
                gradients = world.allgather(flat(parameter.grad for parameter in model.parameters()).double().sum().item())
                local.append(len(set(gradients)) == world.size)
        parallel.average_gradients()
        steps.step()
    return local


@cache
def learn_alone(optimizer: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the weights before and after all steps of one process."""
    model = make_model(1, False)
    start = flat(model.parameters()).clone()
    train(model, Serial(), World(), optimizer, False)
    return start, flat(model.parameters())


def compare(name: str, world: World, channels_last: bool, accumulate: bool, optimizer: str) -> dict[str, object]:
    """Train with a backend, and compare with what one process learns."""
    parallel = choose_backend(CASES[name], world, torch.device("cpu"))
    # Every rank would begin with weights of its own, if nobody shared those of rank 0.
    model = make_model(1 + world.rank, channels_last)
    local = train(model, parallel, world, optimizer, accumulate)
    layout = all(parameter.grad.stride() == parameter.stride() for parameter in model.parameters())
    if parallel.name != "horovod":  # which cannot be started with settings twice
        parallel.close()
    start, expected = learn_alone(optimizer)
    weights = flat(model.parameters())
    return {
        "case": name,
        "options": [channels_last, accumulate, optimizer],
        "description": parallel.description,
        "difference": (weights - expected).abs().max().item(),
        "moved": (expected - start).abs().max().item(),
        "agree": len(set(world.allgather(weights.numpy().tobytes()))) == 1,
        "local": local,
        "layout": layout,
    }


def talk(world: World) -> dict[str, object]:
    """Use everything by which training's ranks talk."""
    total = np.arange(3.0) + world.rank
    world.sum_in_place(total)
    world.meet()
    try:
        refused = bool(world.exchange([total] * world.size).size)
    except LaunchError as error:
        refused = "start with mpirun or srun" in str(error)
    return {
        "launcher": world.launcher,
        "place": world.gather((world.rank, world.size, world.local_rank, world.local_size)),
        "elsewhere": world.bcast(world.allgather(len(world.gather("x")))),
        "bcast": world.allgather(world.bcast({"from": world.rank})),
        "sum": [world.sum(np.array([1.5, world.rank])).tolist(), world.sum(np.array([[2**40 + world.rank]])).tolist(), total.tolist()],
        "max": world.max(2**40 + world.rank),
        "exchange refused": refused,
    }


def options_of(name: str) -> list[tuple[bool, bool, str]]:
    """Channels last, micro-batches, optimizer: all combinations for a backend, both or neither for its variants."""
    # Adam divides a gradient by its own size: what is left of the tiniest ones in 16 bits it would make as large as the others.
    last = "sgd" if name.endswith("16") else "adam"
    mixed = [] if " " in name else [(True, False, last), (False, True, last)]
    return [(False, False, "sgd"), (True, True, last if mixed == [] else "sgd"), *mixed]


def main(*cases: str) -> None:
    """Do what the command says."""
    world = join_torchrun(os.environ) if launched_by_torchrun(os.environ) else detect()
    with guard(world):
        torch.set_num_threads(1)
        if cases == ("fail",):
            if world.rank == 1:
                raise InputError("a.npy", "is short", "make it again")
            world.meet()
        if world.launcher == "torchrun":
            world.say(json.dumps(talk(world)))
        for name in cases:
            for options in options_of(name):
                world.say(json.dumps(compare(name, world, *options)))
        if "horovod" in cases:
            choose_backend(CASES["horovod"], world, torch.device("cpu")).close()


if __name__ == "__main__":
    main(*sys.argv[1:])
