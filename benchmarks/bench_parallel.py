"""What averaging gradients costs: 2 ranks x 1 thread, every backend against the same ranks when they do not communicate.

Both ranks train the CNN on a batch in memory. In each round every side trains for some steps, in turn; a side's share is the time
that the ranks take alone over the time that they take with it, in the same round. A backend is started and closed within its turn,
so that no thread of Horovod's is alive during another's.

Horovod as installed (``hvd.DistributedOptimizer``, its own settings, ranks that spin while they wait) needs another environment
when MPI starts, and so jobs of its own, with ranks alone of their own. Jobs of both kinds take turns.
"""

from __future__ import annotations

import importlib.util
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from common import begin

from hpc_galaxy.bench.measuring import Log, spread
from hpc_galaxy.config.training import Ddp, Horovod, Train
from hpc_galaxy.launch import said_by_ranks
from hpc_galaxy.training.model import GalaxyCNN
from hpc_galaxy.training.parallel.choose import choose_backend
from hpc_galaxy.world import World, detect, guard

BATCH = 16
GRADIENTS = 353_786  # of the CNN: 1.415 MB
CYCLES = (1, 5)  # milliseconds
ALONE, INSTALLED, BOUND = "alone", "Horovod as installed", ", bound to cores"
HOROVOD = {
    "Horovod, one flat buffer": Horovod(flat=True),
    "Horovod, one flat buffer, fp16": Horovod(flat=True, compression="fp16"),
    "Horovod, a message a tensor": Horovod(flat=False),
}
OURS = next(side for side, settings in HOROVOD.items() if settings == Horovod())  # what [train] asks for by itself
SIDES = {
    ALONE: Train(backend="serial"),
    ALONE + BOUND: Train(backend="serial"),
    "MPI, one flat buffer": Train(backend="mpi"),
    "torch DDP (gloo)": Train(backend="ddp"),
    "torch DDP (gloo), bf16": Train(backend="ddp", ddp=Ddp(compression="bf16")),
    **{side: Train(backend="horovod", horovod=settings) for side, settings in HOROVOD.items()},
    OURS + BOUND: Train(backend="horovod"),
}
YIELDS = "OMPI_MCA_mpi_yield_when_idle"
Step = Callable[[], None]
Seconds = dict[str, list[float]]


def run_inside(sides: list[str], rounds: int, steps: int) -> None:
    """Be one rank of a measured job; rank 0 prints each side's seconds a step, in each round, and those of an allreduce."""
    world = detect()
    with guard(world):
        torch.set_num_threads(1)
        seconds: Seconds = {side: [] for side in sides}
        for _ in range(rounds):
            for side in sides:
                with started(side, world) as step:
                    seconds[side].append(time_steps(step, steps, world))
        if INSTALLED not in sides:
            seconds |= time_allreduce(world, 10 * rounds)
        world.say(json.dumps(seconds))


def time_steps(step: Step, steps: int, world: World) -> float:
    """Return the seconds that a step takes the slower rank."""
    step()
    world.barrier()
    start = time.perf_counter()
    for _ in range(steps):
        step()
    return max(world.allgather((time.perf_counter() - start) / steps))


@contextmanager
def started(side: str, world: World) -> Iterator[Step]:
    """Start a side, and yield the step that it trains with."""
    torch.manual_seed(1)
    model = GalaxyCNN()
    images = torch.randn(BATCH, 6, 64, 64).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(BATCH) % 2

    def loss(network: torch.nn.Module) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(network(images), labels)

    cores = os.sched_getaffinity(0)
    if side.endswith(BOUND):  # threads that a backend starts stay with the rank that starts them
        os.sched_setaffinity(0, {sorted(cores)[world.local_rank]})
    with (as_installed if side == INSTALLED else with_backend)(side, world, model, loss) as step:
        yield step
    os.sched_setaffinity(0, cores)


@contextmanager
def with_backend(side: str, world: World, model: torch.nn.Module, loss: Callable[[torch.nn.Module], torch.Tensor]) -> Iterator[Step]:
    """Yield a step with one of the package's backends."""
    parallel = choose_backend(SIDES[side], World() if side.startswith(ALONE) else world, torch.device("cpu"))
    wrapped, optimizer = parallel.prepare(model), torch.optim.Adam(model.parameters())

    def step() -> None:
        parallel.zero_gradients()
        with parallel.backward(last=True):
            loss(wrapped).backward()
        parallel.average_gradients()
        optimizer.step()

    yield step
    parallel.close()


@contextmanager
def as_installed(side: str, world: World, model: torch.nn.Module, loss: Callable[[torch.nn.Module], torch.Tensor]) -> Iterator[Step]:
    """Yield a step as Horovod's documentation shows it."""
    import horovod.torch as hvd

    hvd.init()
    optimizer = hvd.DistributedOptimizer(torch.optim.Adam(model.parameters()), named_parameters=model.named_parameters())
    hvd.broadcast_parameters(model.state_dict(), root_rank=0)

    def step() -> None:
        optimizer.zero_grad()
        loss(model).backward()
        optimizer.step()

    yield step
    hvd.shutdown()


def time_allreduce(world: World, repeats: int) -> Seconds:
    """Return the seconds that adding up the gradients takes, by MPI and by gloo, one after the other."""
    parallel = choose_backend(Train(backend="ddp"), world, torch.device("cpu"))
    gradients = torch.zeros(GRADIENTS)
    ways = {
        "allreduce MPI": lambda: world.sum_in_place(gradients.numpy()),
        "allreduce gloo": lambda: torch.distributed.all_reduce(gradients),
    }
    seconds: Seconds = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            seconds[name].append(time_steps(way, 3, world))
    parallel.close()
    return seconds


def cycle_inside(repeats: int) -> None:
    """Be one rank of a job that does blocking allreduces through Horovod; rank 0 prints the seconds that each takes."""
    import horovod.torch as hvd

    world = detect()
    with guard(world):
        hvd.init()
        gradients = torch.zeros(GRADIENTS)
        seconds = [time_steps(lambda: hvd.allreduce_(gradients, name="gradients"), 10, world) for _ in range(repeats)]
        hvd.shutdown()
        world.say(json.dumps(seconds))


def time_cycles(log: Log, repeats: int) -> None:
    """Print what a blocking allreduce takes through Horovod, by how often its thread looks for work."""
    os.environ[YIELDS] = "1"
    seconds = {}
    for cycle in CYCLES:
        os.environ["HOROVOD_CYCLE_TIME"] = str(cycle)
        seconds[f"a cycle of {cycle} ms"] = json.loads(said_by_ranks(2, [__file__, "cycle", str(repeats)]).splitlines()[-1])
    print("a blocking allreduce through Horovod, with")
    log.table("Horovod's cycle", "allreduces", seconds, dict.fromkeys(seconds, 1))


def measure(sides: list[str], spins: bool, rounds: int, steps: int) -> Seconds:
    """Run one job of two ranks and return what it measured."""
    os.environ[YIELDS] = str(int(not spins))
    return json.loads(said_by_ranks(2, [__file__, "inside", json.dumps(sides), str(rounds), str(steps)]).splitlines()[-1])


def collect(jobs: int, rounds: int, steps: int) -> tuple[Seconds, Seconds]:
    """Run `jobs` of each kind in turn; return what those that yield and those that spin measured."""
    has_horovod = importlib.util.find_spec("horovod") is not None
    sides = [side for side in SIDES if has_horovod or "Horovod" not in side]
    yielding: Seconds = {}
    spinning: Seconds = {}
    for _ in range(jobs):
        _extend(yielding, measure(sides, False, rounds, steps))
        if has_horovod:
            _extend(spinning, measure([ALONE, INSTALLED], True, rounds, steps))
    return yielding, spinning


def _extend(seconds: Seconds, more: Seconds) -> None:
    for name, values in more.items():
        seconds.setdefault(name, []).extend(values)


def shares(seconds: Seconds) -> dict[str, float]:
    """Print each side's share of the ranks' speed alone and return the medians."""
    medians = {}
    for side in (name for name in seconds if not name.startswith("allreduce")):
        values = [alone / together for alone, together in zip(seconds[ALONE], seconds[side], strict=True)]
        medians[side] = statistics.median(values)
        print(f"{side:42}{2 * BATCH / statistics.median(seconds[side]):8.1f}   {spread(values)}")
    return medians


def main() -> None:
    """Measure the jobs, print the table and the ratios."""
    quick, log = begin(__doc__)
    yielding, spinning = collect(*((1, 3, 3) if quick else (4, 5, 10)))
    print(f"2 ranks x 1 thread, batch {BATCH} a rank: images/s, share of the same ranks alone (medians of rounds)")
    found = shares(yielding)
    log.ratio("parallel_efficiency_best", max(share for side, share in found.items() if not side.startswith(ALONE)), "0.95")
    if spinning:
        print("with ranks that spin while they wait:")
        installed = shares(spinning)[INSTALLED]
        log.ratio("parallel_efficiency_horovod", found[OURS], "0.90")
        log.ratio("horovod_vs_default", found[OURS] / installed, "1.3")
        time_cycles(log, 5 if quick else 50)
    else:
        print("Horovod is not installed; 'make horovod' builds it")
    mpi, gloo = (1e6 * statistics.median(yielding[f"allreduce {way}"]) for way in ("MPI", "gloo"))
    print(f"an allreduce of {4 * GRADIENTS / 1e6:.3f} MB takes MPI {mpi:.0f} us, gloo {gloo:.0f} us")
    log.ratio("allreduce_vs_gloo", gloo / mpi, "2")


if __name__ == "__main__":
    if sys.argv[1:2] == ["inside"]:
        run_inside(json.loads(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
    elif sys.argv[1:2] == ["cycle"]:
        cycle_inside(int(sys.argv[2]))
    else:
        main()
