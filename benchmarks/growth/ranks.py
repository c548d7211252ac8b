"""Ranks: what rank 0, or every rank, does more of where there are more ranks."""

from __future__ import annotations

import io
import json
import statistics
import subprocess
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np

from growth.probe import Crowd, Found
from hpc_galaxy.bench.measuring import Log, interleaved
from hpc_galaxy.guarding.watchdog import Judge, Sign
from hpc_galaxy.launch import environment, on_ranks
from hpc_galaxy.shards.manifest import SHARD_SIZE
from hpc_galaxy.splits.sources import SOURCE
from hpc_galaxy.splits.sources import _exchange as exchange
from hpc_galaxy.tracing.spans import Stopwatch
from hpc_galaxy.training.data.order import Order, rank_examples
from hpc_galaxy.world import World

FULL = 4096
BATCH = 16
STEPS = 100
DETECT = ["-c", "from hpc_galaxy.world import detect, guard; world = detect()\nwith guard(world): world.barrier()"]


def start_ups(log: Log, repeats: int) -> None:
    """Measure the start of real ranks, more than there are cores: from mpirun until all have met and gone, less what one Python takes."""
    sides = {count: lambda count=count: start_up(count) for count in (1, 2, 4, 8)}
    seconds = interleaved({str(count): run for count, run in sides.items()}, repeats, lambda: None, warm_up=1)
    alone = statistics.median(seconds["1"])
    more = {count: statistics.median(seconds[str(count)]) - alone for count in sides if count > 1}
    told = ", ".join(f"{value:.2f} s on {count}" for count, value in more.items())
    print(f"  start-up: {alone:.2f} s of one Python; under mpirun {told} ranks more, on {log.environment['cores']} cores")
    log.note("ranks", {"what": "start-up", "unit": "ranks", "sizes": list(more), "values": list(more.values())})


def start_up(ranks: int) -> None:
    """Start ranks, and wait until all have met and gone."""
    subprocess.run(on_ranks(ranks, DETECT), check=True, env=environment(ranks) | {"OMP_NUM_THREADS": "1"})


def dealing(log: Log) -> None:
    """Simulate the dealing of 200,000 bricks of 1.5 s, whose costs are known to 30 %, with the time of a request measured here."""
    from bench_schedule import ROUGH_ESTIMATES, draw_costs, ideal, measure_dealer, simulate

    print("  ", end="")
    dealer, bricks = measure_dealer(quick=True), 200_000
    estimates = draw_costs(bricks, 1.5 * bricks)
    costs = estimates * np.exp(np.random.default_rng(2).normal(0, ROUGH_ESTIMATES, bricks))
    over = {count: simulate(estimates, costs, np.ones(count), dealer) / ideal(costs, np.ones(count)) for count in (64, 256, 1024, 4096)}
    told = ", ".join(f"{value:.3f} on {count:,}" for count, value in over.items())
    print(f"  dealing {bricks:,} bricks, simulated: makespan over the ideal one {told} ranks")
    log.note(
        "growth", {"what": "dealing, makespan over the ideal one", "unit": "ranks", "sizes": list(over), "values": list(over.values())}
    )


def messages(root: Path, size: int) -> dict[str, float]:
    """Measure what rank 0 does with what every rank tells it: a summary, a batch, a sign of life."""
    found = Found()
    watch = Stopwatch()
    for span in ("select", "read", "decompress", "cut", "write", "flush", "wait for work"):
        watch.count(span)
        watch.seconds[span] = 1.0
    found.time("summary of a stage", lambda: watch.summary(Crowd(size=size), "extract", "cutouts"))
    found.time("order of 60 steps, 16 a rank", lambda: order(size))
    found.time("signs of life of a second", lambda: signs(size))
    found.time("send tables to all ranks", lambda: parts(size))
    return found.values


def order(ranks: int) -> int:
    """Find a rank's examples of 60 steps, in shards that are enough for them."""
    world, step = World(rank=min(731, ranks - 1), size=ranks), BATCH * ranks
    shards = -(-60 * step // SHARD_SIZE)
    whole = Order(1, 1, [SHARD_SIZE] * shards, 64)
    return sum(len(rank_examples(whole, start, start + step, world)) for start in range(0, 60 * step, step))


def signs(ranks: int) -> None:
    """Hear each rank once, and judge four times, as rank 0's watchdog does in a second."""
    judge = Judge(0, 60.0, 600.0)
    for rank in range(1, ranks):
        text = json.dumps((rank, f"nid{rank // 8:06d}", "epoch 2, step 1,234", "step (training.loop:120)")).encode()
        judge.hear(json.loads(text)[0], 1.0, *json.loads(text)[1:])
    for _ in range(4):
        assert judge.verdict(2.0, Sign(2.0, "nid000000", "epoch 2, step 1,234")) is None


def parts(ranks: int) -> None:
    """Pack what a rank of 60 million sources sends to each of the others, as the split does (`Crowd` receives as much)."""
    table = np.zeros(60_000_000 // FULL, SOURCE)
    table["order"] = np.random.default_rng(1).integers(0, 2**63, len(table))
    exchange(Crowd(size=ranks), table[["order", "file", "row"]], table["order"])


def write_trace(root: Path, size: int) -> dict[str, float]:
    """Write the records of so many ranks' `STEPS` steps."""
    from bench_trace import write_ranks

    folder = root / str(size) / "trace" / "0001"
    folder.mkdir(parents=True)
    write_ranks(folder, size, STEPS)
    return {}


def trace(root: Path, size: int) -> dict[str, float]:
    """Measure merging and summarising them."""
    from hpc_galaxy.tracing.show import trace as show

    found = Found()
    with redirect_stdout(io.StringIO()):
        found.time("merge and summarise a trace", lambda: show([root / str(size)], None, None, True, None))
    return found.values
