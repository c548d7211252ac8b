"""Whether the scaling model predicts what was not measured: fitted on 1 and 2 ranks, held against 4 and 8.

The ranks of a case share this machine's cores and speak through its memory, or through network namespaces of their own, each a "node"
whose link is limited to a rate (as root; see model_nodes/network.py). Two ranks give the link (from allreduces of several sizes) and the
computation (from steps in which no rank speaks to another); the model then says how long the allreduce of the CNN's gradients and a
training step take on more. Nothing that was measured on 4 or 8 ranks goes into it. One rank by itself is shown to compare with.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from common import common_options
from model_nodes.network import BUFFER, available, said_by_nodes
from model_nodes.rank import BATCH, Found

from hpc_galaxy.bench.measuring import Log, spread
from hpc_galaxy.bench.model.allreduce import GRADIENT, SIZES
from hpc_galaxy.bench.model.fit import fit_link
from hpc_galaxy.bench.model.messages import Link
from hpc_galaxy.bench.model.prediction import Machine, Training, message_seconds, predict
from hpc_galaxy.launch import said_by_ranks

RANK = str(Path(__file__).with_name("model_nodes") / "rank.py")
CORES = 2  # of this machine that a case uses
FITTED = 2  # ranks that the model is fitted on
TARGET = "0.85 to 1.15"
# Smaller messages than a limiter's bucket pass at full speed, as no slow network lets them: only the smallest is kept, for the latency.
LARGE = (4, *(size for size in SIZES if 65_536 <= size <= GRADIENT))


@dataclass(frozen=True)
class Case:
    """Where ranks run.

    Attributes
    ----------
    name : str
        In the ratios.
    rate : str, optional
        Of each node's link; without it the ranks share a node.
    eagerly : bool
        Whether large messages go off without asking.
    buffer : int
        Bytes that a socket takes before they are on their way.
    """

    name: str
    rate: str | None = None
    eagerly: bool = True
    buffer: int = BUFFER

    def run(self, ranks: int, turns: int) -> Found:
        """Return what so many ranks measure."""
        sizes = (LARGE if self.rate else SIZES) if ranks == FITTED else (GRADIENT,)
        argv = [RANK, json.dumps(sizes), str(turns)]
        said = said_by_nodes(ranks, self.rate, argv, self.eagerly, self.buffer) if self.rate else said_by_ranks(ranks, argv)
        return Found.read(said.splitlines()[-1])

    def machine(self, link: Link, ranks: int) -> tuple[Machine, int]:
        """Return the model's machine, and the number of its nodes; nodes share this machine's cores as the ranks of a node do."""
        if self.rate:
            return Machine(self.name, 1, link, link, 1e12, 1e15, CORES / ranks), ranks
        return Machine(self.name, ranks, link, link, 1e12, 1e15, CORES), 1


@dataclass(frozen=True)
class Prediction:
    """One comparison, in seconds; `fitted`: the model had seen it."""

    case: str
    ranks: int
    what: str
    measured: float
    predicted: float
    fitted: bool

    @property
    def ratio(self) -> float:
        """Predicted over measured."""
        return self.predicted / self.measured


CASES = (
    Case("shared_memory"),
    Case("tcp_500mbit", "500mbit"),
    Case("tcp_50mbit", "50mbit"),
    Case("tcp_12mbit", "12mbit"),
    # The last three show what limits the model.
    Case("tcp_20gbit", "20gbit"),
    Case("tcp_50mbit_small_buffers", "50mbit", buffer=262_144),
    Case("tcp_50mbit_asking", "50mbit", eagerly=False),
)
QUICK = ("shared_memory", "tcp_50mbit")


def fit(found: Found) -> tuple[Training, Link]:
    """Return the training and the link that two ranks show."""
    alone = np.array(found.alone)
    compute = float(np.median(alone))
    return Training(BATCH, compute, GRADIENT, 0, alone / compute), fit_link(found.allreduce, FITTED)


def compare(case: Case, jobs: Mapping[int, Found], log: Log) -> list[Prediction]:
    """Print what the model says of a case beside what was measured, and return it."""
    training, link = fit(jobs[FITTED])
    fitted = f"latency {1e6 * link.latency:.1f} us, {link.bandwidth / 1e6:,.2f} MB/s, computation {1e3 * training.compute:.1f} ms"
    print(f"\n{case.name}: {fitted}")
    print("ranks  what        ms measured: median [least, most]  predicted  ratio")
    rows = []
    for ranks, found in jobs.items():
        machine, nodes = case.machine(link, ranks)
        step = predict(training, machine, nodes)
        parts = {
            "allreduce": (found.allreduce.get(GRADIENT, []), message_seconds(GRADIENT, machine, nodes)),
            "one late": (found.late, message_seconds(GRADIENT, machine, nodes)),
            "step alone": (found.alone_slowest, step.compute + step.stragglers),
            "step": (found.together, step.seconds),
            "unmet": (found.unmet if ranks > 1 else [], step.seconds),
        }
        for what, (seconds, predicted) in parts.items():
            if seconds:
                log.record(f"{case.name}, {what}, {ranks} ranks", "times", {"measured": seconds}, {"measured": 1})
                rows.append(Prediction(case.name, ranks, what, statistics.median(seconds), predicted, ranks <= FITTED))
                scattered = spread([1e3 * value for value in seconds])
                print(f"{ranks:5}  {what:10} {scattered:>34} {1e3 * predicted:10.3f}  {rows[-1].ratio:.3f}")
        beside = f"; {found.switches:,.0f} switches of processes an allreduce, over all ranks" if ranks > 1 else ""
        if case.rate and ranks > 1:
            beside += f"; {found.resent:.0f} TCP segments sent again a step, {found.timeouts:.1f} times because no answer had come"
        print(f"{ranks:5}  {found.others:.2f} cores busy with all else than the ranks{beside}")
    return rows


def report(rows: Sequence[Prediction], log: Log) -> None:
    """Print and record the ratios of what the model had not seen."""
    for row in rows:
        log.note("prediction", asdict(row))
        if not row.fitted and row.what in ("allreduce", "step"):
            name = f"model_{row.case}{'_allreduce' if row.what == 'allreduce' else ''}_{row.ranks}_ranks"
            log.ratio(name, row.ratio, TARGET)


def read(path: Path) -> Iterator[Prediction]:
    """Yield the predictions that an earlier run has written."""
    for line in path.read_text().splitlines():
        entry = json.loads(line)
        if entry.pop("kind") == "prediction":
            yield Prediction(**entry)


def main() -> None:
    """Measure the cases, or read what earlier runs have found, and say how well they are predicted."""
    parser = common_options(__doc__)
    parser.add_argument("--case", action="append", choices=[case.name for case in CASES], help="only this one; may be repeated")
    parser.add_argument("--read", type=Path, nargs="*", default=[], help="measure nothing; take the JSON lines of earlier runs")
    parser.add_argument("--plot", type=Path, help="draw predicted against measured, as PNG")
    options = parser.parse_args()
    rows = [row for path in options.read for row in read(path)]
    if not options.read:
        log = Log(options.json)
        for case in CASES:
            if case.name in (options.case or (QUICK if options.quick else [case.name])):
                rows += run_case(case, options.quick, log)
        report(rows, log)
    if options.plot:
        from model_nodes.draw import draw_comparison

        draw_comparison(rows, options.plot)


def run_case(case: Case, quick: bool, log: Log) -> list[Prediction]:
    """Measure one case, where this machine can."""
    if case.rate and not available():
        print(f"{case.name}: left out, needs root, ip, tc and unshare")
        return []
    counts, turns = ((FITTED, 4), 2) if quick else ((1, FITTED, 4, 8), 4)
    return compare(case, {ranks: case.run(ranks, turns) for ranks in counts}, log)


if __name__ == "__main__":
    main()
