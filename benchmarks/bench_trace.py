"""What a trace costs: a training step with spans off, recorded, and under torch.profiler; a span by itself; and merging many ranks.

The ways take turns step by step in one training, so that a busy spell of the machine meets all of them; a ratio is that of medians.
"""

from __future__ import annotations

import contextlib
import io
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from itertools import count, cycle
from pathlib import Path
from typing import TypeVar

from common import begin
from torch import profiler

from hpc_galaxy.bench.suite.examples import training_config, write_examples
from hpc_galaxy.bench.suite.ours import ours
from hpc_galaxy.config import Trace
from hpc_galaxy.launch import said_by_ranks
from hpc_galaxy.tracing.attempt import recording
from hpc_galaxy.tracing.recorder import Recorder
from hpc_galaxy.tracing.spans import Stopwatch, peak_memory
from hpc_galaxy.world import World

WITHOUT, OFF, SPANS = "no spans in the code", "spans off", "spans recorded"
Found = TypeVar("Found")
WINDOW = 20  # steps under torch.profiler, and as many without
NOTHING: AbstractContextManager[None] = nullcontext()


class Toggled(Stopwatch):
    """A stopwatch that can be taken out of the code, or be given its recorder, from one step to the next."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder, self.way = recorder, OFF
        super().__init__()

    def switch(self, way: str) -> None:
        """Go on in another way."""
        self.way, self.recorder = way, self._recorder if way == SPANS else None

    def span(self, *arguments: object, **options: object) -> AbstractContextManager[None]:
        """Return a span, or nothing."""
        return NOTHING if self.way == WITHOUT else super().span(*arguments, **options)


@contextlib.contextmanager
def training(root: Path, batch: int) -> Iterator[tuple[Toggled, Callable[[int], object]]]:
    """Begin a training; yield its stopwatch and what does steps."""
    with recording(Trace(spans=True), root, "train", World()) as recorder, ours(training_config(root, batch)) as side:
        assert recorder is not None
        watch = Toggled(recorder)
        side.keeper.trainer = replace(side.keeper.trainer, watch=watch)
        side(5)
        yield watch, side


def compare_spans(root: Path, batch: int, steps: int) -> dict[str, float]:
    """Return the median seconds of a step in each way."""
    seconds: dict[str, list[float]] = {WITHOUT: [], OFF: [], SPANS: []}
    with training(root, batch) as (watch, step):
        for way, _ in zip(cycle(seconds), range(3 * steps), strict=False):
            watch.switch(way)
            start = time.perf_counter()
            step(1)
            seconds[way].append(time.perf_counter() - start)
    return {way: statistics.median(values) for way, values in seconds.items()}


def compare_profiler(root: Path, batch: int, windows: int) -> float:
    """Return how much longer a step takes within a window of torch.profiler."""
    inside: list[float] = []
    outside: list[float] = []
    schedule = profiler.schedule(wait=WINDOW, warmup=1, active=WINDOW, repeat=windows)
    with training(root, batch) as (_, step), profiler.profile(schedule=schedule, on_trace_ready=lambda _: None) as profile:
        for number in range(windows * (2 * WINDOW + 1)):
            start = time.perf_counter()
            step(1)
            place = number % (2 * WINDOW + 1)
            if place != WINDOW:
                (outside if place < WINDOW else inside).append(time.perf_counter() - start)
            profile.step()
    return statistics.median(inside) / statistics.median(outside)


def cost_of_a_span(root: Path, repeats: int = 100_000) -> dict[str, float]:
    """Return the seconds of one span, without and with a recorder."""
    costs = {}
    with recording(Trace(spans=True), root / "span", "train", World()) as recorder:
        for way, watch in ((OFF, Stopwatch()), (SPANS, Stopwatch(recorder))):
            start = time.perf_counter()
            for _ in range(repeats):
                with watch.span("forward"):
                    pass
            costs[way] = (time.perf_counter() - start) / repeats
    return costs


def write_ranks(folder: Path, ranks: int, steps: int) -> int:
    """Write the records of a training of so many ranks; return how many lines they have."""
    lines = 0
    for rank in range(ranks):
        recorder = Recorder(folder / f"rank_{rank:06d}.jsonl", header(rank, ranks))
        at = count(0, 1_000_000)
        for step in range(steps):
            for name in ("data", "copy", "forward", "backward", "optimizer"):
                recorder.span("main", name, (start := next(at)), start + 900_000)
            recorder.span("communication", "allreduce", (start := next(at)), start + 900_000)
            recorder.span("reader", "read", start, start + 500_000)
            recorder.span("steps", "step", start - 5_500_000, start + 900_000, step)
            recorder.counter("images/s", 300)
            lines += 9
        recorder.close({"ended": "well"})
    return lines


def header(rank: int, ranks: int) -> dict[str, object]:
    """Return the first line of a rank's record."""
    clock = {"at": 0, "to_time_of_day": 1_700_000_000 * 10**9, "error": 0}
    known = {"stage": "train", "rank": rank, "ranks": ranks, "host": f"n{rank // 8}", "process": rank, "cores": 8}
    return {**known, "clock": clock, "node_epoch": 1_700_000_000 * 10**9}


def merge_ranks(root: Path, ranks: int, steps: int) -> tuple[float, float, float]:
    """Write and merge so many records, in a process of its own; return millions of lines, seconds and peak MB."""
    folder = root / f"{ranks}x{steps}" / "trace" / "0001"
    folder.mkdir(parents=True)
    lines = write_ranks(folder, ranks, steps)
    seconds, memory = map(float, said_by_ranks(1, [__file__, "--merge", str(folder.parent.parent)]).split()[-2:])
    return lines / 1e6, seconds, memory


def merge_one(directory: str) -> None:
    """Merge and summarise, and print the seconds and the peak memory, MB."""
    from hpc_galaxy.tracing.show import trace

    start = time.perf_counter()
    trace([Path(directory)], None, None, True, None)
    print(time.perf_counter() - start, peak_memory() / 1e6)


def quietly(run: Callable[..., Found], *arguments: object) -> Found:
    """Return what `run` does, without what the stage says meanwhile."""
    with contextlib.redirect_stdout(io.StringIO()):
        return run(*arguments)


def main() -> None:
    """Measure all of it."""
    quick, log = begin(__doc__)
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch.profiler's notes of its windows
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_examples(root / "shards", 512)
        one = quietly(cost_of_a_span, root)
        print(f"a span: {one[OFF] * 1e6:.2f} us without, {one[SPANS] * 1e6:.2f} us with a recorder")
        for batch, steps in ((16, 20 if quick else 200), (4, 50 if quick else 400)):
            medians = quietly(compare_spans, root, batch, steps)
            print(f"batch {batch}: {', '.join(f'{way} {1000 * value:.3f} ms' for way, value in medians.items())}, medians of {steps} steps")
            log.ratio(f"trace_off_overhead_batch{batch}", medians[OFF] / medians[WITHOUT] - 1, "0")
            log.ratio(f"trace_spans_overhead_batch{batch}", medians[SPANS] / medians[OFF] - 1, "<= 0.005")
        log.ratio("trace_profiler_overhead_batch16", quietly(compare_profiler, root, 16, 1 if quick else 4) - 1, "-")
        sizes = ((64, 20), (64, 200)) if quick else ((512, 100), (512, 1000))
        results = [merge_ranks(root, *size) for size in sizes]
        for (ranks, steps), (lines, seconds, memory) in zip(sizes, results, strict=True):
            print(
                f"merge and summary of {ranks} ranks x {steps} steps: {lines:.2f} million lines in {seconds:.1f} s, at most {memory:.0f} MB"
            )
        log.ratio("trace_merge_memory_ten_times_the_steps", results[1][2] / results[0][2], "<= 1.5")


if __name__ == "__main__":
    import sys

    if sys.argv[1:2] == ["--merge"]:
        merge_one(sys.argv[2])
    else:
        main()
