"""Images a second of our training step: against a bare PyTorch loop, 2018's way, Lightning, and what the processor can multiply.

All sides train the same network, each in a process of its own, with one thread on one core: reading ahead is not given a core for
nothing. They take turns of some steps. Wall time is what counts; beside it stands the processor's time, which says more while other
programs run. A ratio is the median of the ratios within each round. ``pip install -r benchmarks/requirements.txt`` brings Lightning;
it is left out and named where it is missing.
"""

from __future__ import annotations

import importlib.util
import statistics
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from common import begin
from torch.utils.flop_counter import FlopCounterMode
from train_sides.way_of_2018 import FilePair, batches, feed, way_of_2018, write_files

from hpc_galaxy.bench.measuring import Log, interleaved, spread
from hpc_galaxy.bench.suite.bare import OPTIONS, Loop, bare
from hpc_galaxy.bench.suite.clock import Cost, Side, timed
from hpc_galaxy.bench.suite.examples import training_config, training_reader, write_examples
from hpc_galaxy.bench.suite.ours import ours
from hpc_galaxy.bench.suite.worker import Worker, use_one_core
from hpc_galaxy.config import Config
from hpc_galaxy.shards.manifest import Manifest
from hpc_galaxy.shards.numpy_shards import SplitReader
from hpc_galaxy.training.data.batches import Dataset
from hpc_galaxy.training.data.inputs import make_inputs
from hpc_galaxy.training.model import GalaxyCNN
from hpc_galaxy.training.optim.optimizers import clip_gradients
from hpc_galaxy.world import World

EXAMPLES = 4096
MATRIX = 1024  # rows and columns
BARE, OURS, OLD, LIGHTNING, SGEMM = "bare loop", "ours", "2018's way", "Lightning", "sgemm"
Costs = dict[str, list[Cost]]


@dataclass(frozen=True)
class Amount:
    """How much is measured.

    Attributes
    ----------
    batches : sequence of int
        Examples a step.
    rounds, images : int
        Turns that every side has, and images in each.
    """

    batches: Sequence[int]
    rounds: int
    images: int


def take_turns(sides: dict[str, Side], steps: dict[str, int], rounds: int) -> Costs:
    """Give each side its turns, in another order each time, after one that does not count (in which torch.compile compiles)."""
    for side in sides.values():
        side(2)
    costs: Costs = {name: [] for name in sides}
    names = list(sides)
    for number in range(rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            sides[name](1)  # to fill the processor's caches, and what is read ahead
            costs[name].append(sides[name](steps[name]))
    return costs


def closed_in(stack: ExitStack, worker: Worker) -> Worker:
    """Return `worker`, which ends with `stack`."""
    stack.callback(worker.close)
    return worker


def sgemm() -> Side:
    """Return the side that multiplies two matrices of `MATRIX` rows; its best of some is the processor's peak."""
    one, other = torch.randn(2, MATRIX, MATRIX)
    out = torch.empty(MATRIX, MATRIX)

    def side(steps: int) -> Cost:
        return Cost(*(min(values) for values in zip(*(timed(lambda: torch.mm(one, other, out=out), 1) for _ in range(steps)), strict=True)))

    return side


def count_flops(batch: int) -> int:
    """Return the floating-point operations of a step's forward and backward pass, as torch counts them."""
    model, counter = GalaxyCNN(), FlopCounterMode(display=False)
    with counter:
        model(torch.randn(batch, 6, 64, 64)).sum().backward()
    return int(counter.get_total_flops())


def ratios(costs: Costs, over: str, under: str, kind: str = "wall") -> list[float]:
    """Return the time of `over` over the time of `under`, round by round."""
    return [getattr(a, kind) / getattr(b, kind) for a, b in zip(costs[over], costs[under], strict=True)]


def compare_steps(log: Log, root: Path, manifest: Manifest, batch: int, amount: Amount, suffix: str) -> None:
    """Time the training step of every side, and print the table and the ratios."""
    config, count = training_config(root, batch), max(amount.images // batch, 2)
    reader = training_reader(config, manifest)
    files = write_files(root / f"2018-{batch}", reader.stamps(np.arange(min(len(reader), 8 * count * batch))), count * batch)
    with ExitStack() as stack:
        sides: dict[str, Side] = {
            BARE: closed_in(stack, Worker(bare, Loop(batch))),
            OURS: closed_in(stack, Worker(ours, config)),
            OLD: closed_in(stack, Worker(way_of_2018, files, batch)),
            SGEMM: sgemm(),
        }
        if importlib.util.find_spec("lightning"):
            from train_sides.with_lightning import with_lightning

            sides[LIGHTNING] = closed_in(stack, Worker(with_lightning, config))
        else:
            print("lightning is not installed and was left out: pip install -r benchmarks/requirements.txt")
        costs = take_turns(sides, dict.fromkeys(sides, count), amount.rounds)
    print_steps(costs, batch, count)
    walls = {name: [cost.wall for cost in values] for name, values in costs.items() if name != SGEMM}
    log.record(f"training step, batch {batch}", "images", walls, dict.fromkeys(walls, batch))
    print_ratios(log, costs, batch, suffix)


def print_ratios(log: Log, costs: Costs, batch: int, suffix: str) -> None:
    """Print how the costs of a step compare with their targets."""
    log.ratio(f"train_over_bare_loop{suffix}", statistics.median(ratios(costs, OURS, BARE)), "<= 1.05")
    log.ratio(f"train_vs_2018{suffix}", statistics.median(ratios(costs, OLD, OURS)), "2")
    if LIGHTNING in costs:
        log.ratio(f"train_vs_lightning{suffix}", statistics.median(ratios(costs, LIGHTNING, OURS)), "1.05")
    flops = count_flops(batch) / (2 * MATRIX**3)
    log.ratio(f"train_fraction_of_sgemm{suffix}", flops * statistics.median(ratios(costs, SGEMM, OURS)), "0.55")
    log.ratio(f"data_wait_share{suffix}", statistics.median(cost.waited / cost.wall for cost in costs[OURS]), "<= 0.01")


def print_steps(costs: Costs, batch: int, count: int) -> None:
    """Print what a step of each side takes, and the peak."""
    peak = 2 * MATRIX**3 / min(cost.wall for cost in costs[SGEMM]) / 1e9
    flops = count_flops(batch)
    print(f"\ntraining step, batch {batch}: {flops / batch / 1e6:.0f} MFLOP an image, sgemm at most {peak:.0f} GFLOP/s")
    print(f"medians of {len(costs[OURS])} turns of {count} steps; over the bare loop: median [least, most]")
    print(f"  {'':12} images/s   ms a step   ms of processor   page faults   over the bare loop      in processor time")
    for name in (name for name in costs if name != SGEMM):
        wall, cpu, faults, _ = (statistics.median(values) for values in zip(*costs[name], strict=True))
        over = f"{spread(ratios(costs, name, BARE))}   {spread(ratios(costs, name, BARE, 'cpu'))}"
        print(f"  {name:12}{batch / wall:9.1f}{1e3 * wall:12.1f}{1e3 * cpu:18.1f}{faults:14,.0f}   {over}")


def compare_loading(log: Log, root: Path, manifest: Manifest, batch: int, repeats: int) -> None:
    """Time a pass through all examples without training, and print images/s."""
    config = training_config(root, batch)
    reader = training_reader(config, manifest)
    paths = [(config.paths.shards / shard.x, config.paths.shards / shard.y) for shard in reader.shards]
    buffer = bytearray(max(path.stat().st_size for path, _ in paths))
    sides = {
        "raw reading": partial(read_raw, [path for path, _ in paths], memoryview(buffer)),
        "ours": partial(read_ours, config, reader),
        "2018's generator": partial(read_as_in_2018, paths, batch),
    }
    seconds = interleaved(sides, repeats, lambda: None)
    print(f"\nreading {len(reader):,} examples in batches of {batch}, on one core: median [least, most] of {repeats}")
    log.table("reading", "images", seconds, dict.fromkeys(sides, len(reader)))
    log.ratio("loader_vs_raw", statistics.median(a / b for a, b in zip(seconds["raw reading"], seconds["ours"], strict=True)), "-")
    log.ratio("loader_vs_2018", statistics.median(a / b for a, b in zip(seconds["2018's generator"], seconds["ours"], strict=True)), "-")


def read_raw(paths: Sequence[Path], buffer: memoryview) -> None:
    """Read whole files of stamps into one buffer, as the system gives them."""
    for path in paths:
        with open(path, "rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def read_ours(config: Config, reader: SplitReader) -> None:
    """Go through an epoch as the training does: shuffled, normalised, read ahead."""
    dataset = Dataset(reader, make_inputs(config.train.data, reader), config.train.data)
    for _ in dataset.epoch(1, 1, config.train.batch_size, World()):
        pass


def read_as_in_2018(files: Sequence[FilePair], batch: int) -> None:
    """Go through the files as 2018's generator does; not normalised."""
    for x, y in batches(files, batch):
        feed(x, y)


def where_time_goes(root: Path, manifest: Manifest, batch: int, steps: int) -> None:
    """Print what our step spends its time on, by its own stopwatch, and what pieces of it take by themselves."""
    config = training_config(root, batch)
    with ours(config) as side:
        side(5)
        watch, model = side.keeper.trainer.watch, side.keeper.trainer.model
        watch.restart()
        side(steps)
        spans = [f"{name} {1e6 * seconds / steps:,.0f}" for name, seconds in watch.seconds.items()]
        reader = training_reader(config, manifest)
        inputs = make_inputs(config.train.data, reader)
        stamps = np.empty((batch, *reader.stamp_format.shape), np.float32)
        rng = np.random.default_rng(1)
        pieces = {
            "reading": lambda: reader.stamps(rng.integers(0, len(reader), batch), out=stamps),
            "arcsinh and finiteness": lambda: inputs.apply(stamps, stamps),
            "the gradient's norm": lambda: clip_gradients(model.parameters(), 0).item(),
        }
        alone = interleaved(pieces, 10 * steps, lambda: None)
    print(f"\nours, microseconds a step of {batch}: {', '.join(spans)} (read: in a thread, on the same core here)")
    print(f"  by themselves: {', '.join(f'{name} {1e6 * statistics.median(values):,.0f}' for name, values in alone.items())}")


def compare_options(rounds: int, images: int) -> None:
    """Time what may make the network itself faster, and print it; no target."""
    loops = {name: Loop(**{"batch": 16, **settings}) for name, settings in OPTIONS.items()}
    with ExitStack() as stack:
        sides: dict[str, Side] = {name: closed_in(stack, Worker(bare, loop)) for name, loop in loops.items()}
        costs = take_turns(sides, {name: max(1, images // loop.batch) for name, loop in loops.items()}, rounds)
    print(f"\nthe bare loop and what changes it: images/s (medians of {rounds}), times the bare loop's, the same by processor time")
    for name, loop in loops.items():
        wall, cpu = ([value * loop.batch / 16 for value in ratios(costs, BARE, name, kind)] for kind in ("wall", "cpu"))
        rate = loop.batch / statistics.median(cost.wall for cost in costs[name])
        print(f"  {name:34}{rate:8.1f}   {spread(wall)}   {spread(cpu)}")


def main() -> None:
    """Write the examples, compare the sides."""
    quick, log = begin(__doc__)
    use_one_core()
    amount = Amount((16,), 5, 48) if quick else Amount((16, 32), 15, 128)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "shards").mkdir()
        manifest = write_examples(root / "shards", EXAMPLES // 4 if quick else EXAMPLES)
        for batch in amount.batches:
            compare_steps(log, root, manifest, batch, amount, "" if batch == amount.batches[0] else f"_batch{batch}")
        where_time_goes(root, manifest, amount.batches[0], 10 if quick else 100)
        compare_loading(log, root, manifest, amount.batches[0], 3 if quick else 9)
    if not quick:
        compare_options(amount.rounds, amount.images)


if __name__ == "__main__":
    main()
