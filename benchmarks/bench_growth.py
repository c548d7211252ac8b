"""How time and memory grow with bricks, sources, shards and ranks, and what that means at 200,000 bricks, 60 million examples, 4,096 ranks.

The package's own functions run on made-up contents, each size in a process of its own where memory is the question. To each
quantity ``fixed + factor x size^exponent`` is fitted. What is super-linear would show as an exponent above 1.1.

``--only shards`` measures a part; ``--read`` reports and draws together what runs of parts have written with ``--json``.
"""

from __future__ import annotations

import gc
import importlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from common import common_options
from growth import bricks, ranks, shards, sources
from growth.probe import MEGABYTES, run

from hpc_galaxy.bench.growth import Growth, draw_growth, fit_growth
from hpc_galaxy.bench.measuring import Log

TARGET = 1.1
GROWS = 0.05  # of the largest value that is not the same at every size; what grows less is called constant
UNTOLD = 1.0  # width of an interval that says nothing: what is the same at every size, or the machine's other work, hides the growth
MEMORY = Path("/dev/shm")  # files made up here cost the least; what matters is how many look-ups there are, which is counted


@dataclass(frozen=True)
class Part:
    """Something that grows, and the probes that are run at each size of it.

    Attributes
    ----------
    unit : str
        What is counted.
    full : float
        How many there are in a full-size job.
    sizes, quick : sequence of int
        That are measured, increasing.
    probes : sequence of str
        Functions of `growth`, by module.
    grow : callable, optional
        Adds contents to a folder: from what size to what.
    probed : sequence of str, optional
        The probes of a quick run, if not all.
    """

    unit: str
    full: float
    sizes: Sequence[int]
    quick: Sequence[int]
    probes: Sequence[str]
    grow: Callable[[Path, int, int], None] | None = None
    probed: Sequence[str] = ()

    def measure(self, root: Path, quick: bool) -> dict[str, dict[int, float]]:
        """Return what the probes find, by name and size."""
        found: dict[str, dict[int, float]] = {}
        before = 0
        for size in self.quick if quick else self.sizes:
            if self.grow:
                self.grow(root, before, size)
                before = size
            for probe in self.probed if quick and self.probed else self.probes:
                for name, value in run(probe, size, root).items():
                    found.setdefault(name, {})[size] = value
        return found


def grow_sources(root: Path, before: int, size: int) -> None:
    """Add sources."""
    each = 2 * sources.EACH
    sources.grow(root, before // each, size // each)


DONE = Part("bricks", bricks.FULL, (60, 125, 250, 500, 1000, 2000), (), ["bricks.again"], bricks.finish)
BRICKS = Part(
    "bricks",
    bricks.FULL,
    (632, 2000, 6325, 20_000, 63_246, 200_000),
    (400, 1000, 2500, 6400),
    ["bricks.start", "bricks.receipt", "bricks.reading"],
    bricks.grow,
    ["bricks.start", "bricks.receipt"],
)
UP_TO_A_MILLION = (12_000, 24_000, 48_000, 144_000, 336_000, 1_008_000)
SOURCES = Part("sources", sources.FULL, UP_TO_A_MILLION, (), ["sources.whole"], grow_sources)
UNMATCHED = Part("sources", sources.FULL, UP_TO_A_MILLION, (12_000, 18_000, 27_000, 40_200), ["sources.unmatched"], grow_sources)
TABLES = Part("sources", sources.FULL, (12_000, 24_000, 48_000, 96_000, 192_000, 384_000), (), ["sources.plan"], grow_sources)
PLAN = Part("sources", sources.FULL, (600_000, 2_000_000, 6_000_000, 12_000_000, 30_000_000, 60_000_000), (), ["plan.rank_0"])
SHARDS = Part(
    "shards",
    shards.FULL,
    (370, 1170, 3700, 11_700, 37_000, 117_188),
    (500, 1200, 3000, 8000),
    ["shards.save", "shards.load", "shards.open_all", "shards.order", "shards.again"],
    shards.grow,
    ["shards.save", "shards.load"],
)
RANKS = Part("ranks", ranks.FULL, (128, 256, 512, 1024, 2048, 4096), (128, 256, 512, 1024), ["ranks.messages"])
TRACE = Part("ranks", ranks.FULL, (16, 32, 64, 128, 256, 512), (), ["ranks.write_trace", "ranks.trace"])
PARTS = {
    "bricks": (BRICKS, DONE),
    "sources": (SOURCES,),
    "tables": (TABLES, UNMATCHED),
    "plan": (PLAN,),
    "shards": (SHARDS,),
    "ranks": (RANKS, TRACE),
}
PLAIN = ("look-ups", "files", "examples", "shards open")  # begin the names of what is no time and no memory


FULL = {part.unit: part.full for parts in PARTS.values() for part in parts}


def report(log: Log, unit_of_size: str, found: dict[str, dict[int, float]]) -> dict[str, Growth]:
    """Print a line for each quantity, and return the laws of those that grow."""
    laws = {}
    for name, values in found.items():
        sizes, numbers = list(values), list(values.values())
        log.note("growth", {"what": name, "unit": unit_of_size, "sizes": sizes, "values": numbers})
        if name.startswith(PLAIN):
            print(f"  {name:34} {numbers[0]:,.4g} at {sizes[0]:,} to {numbers[-1]:,.4g} at {sizes[-1]:,} {unit_of_size}")
            continue
        if len(sizes) < 4:
            continue
        law = fit_growth(sizes, numbers)
        unit, grown = "MB" if name.endswith(MEGABYTES) else "s", 1 - min(numbers) / max(numbers)
        if grown < GROWS:
            print(f"  {name:34} constant: {statistics.median(numbers):.4g} {unit}")
            continue
        if law.high - law.low > UNTOLD:
            print(f"  {name:34} untold: {numbers[0]:.4g} {unit} at {sizes[0]:,}, {numbers[-1]:.4g} {unit} at {sizes[-1]:,}")
            continue
        laws[name] = law
        full, reached = (numbers[-1], "measured") if sizes[-1] >= FULL[unit_of_size] else (law.at(FULL[unit_of_size]), "by the law")
        exponent = f"{law.exponent:.2f} [{law.low:.2f}, {law.high:.2f}]"
        here = f"{numbers[-1]:10,.4g} {unit:2} at {sizes[-1]:<10,}"
        print(f"  {name:34} {exponent:18} {here} {full:10,.4g} {unit:2} at {FULL[unit_of_size]:,.0f}, {reached}", flush=True)
    return laws


def measured(chosen: str, log: Log, quick: bool) -> Iterator[tuple[str, dict[str, dict[int, float]]]]:
    """Measure one of `PARTS`; yield what grows, and what the probes found."""
    for part in PARTS[chosen]:
        with tempfile.TemporaryDirectory(prefix="hpc_galaxy-growth-", dir=MEMORY if MEMORY.is_dir() else None) as folder:
            begun = time.monotonic()
            found = part.measure(Path(folder), quick)
        if found:
            print(f"\n{part.unit} (exponent [95 %]; {time.monotonic() - begun:.0f} s)")
            yield part.unit, found
    if chosen == "ranks":
        ranks.start_ups(log, 1 if quick else 3)
        ranks.dealing(log)


def earlier(path: Path) -> Iterator[tuple[str, dict[str, dict[int, float]]]]:
    """Yield what an earlier run has measured, by what grows."""
    found: dict[str, dict[str, dict[int, float]]] = {}
    for line in map(json.loads, path.read_text().splitlines()):
        if line["kind"] == "growth":
            found.setdefault(line["unit"], {})[line["what"]] = dict(zip(line["sizes"], line["values"], strict=True))
    for unit, of_unit in found.items():
        print(f"\n{unit} ({path})")
        yield unit, of_unit


def main() -> None:
    """Measure, or take what earlier runs have measured; fit, and draw."""
    parser = common_options(__doc__)
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS), help="what to let grow")
    parser.add_argument(
        "--read", nargs="+", type=Path, help="measure nothing: report what earlier runs, of parts, have written with --json"
    )
    parser.add_argument("--plot", type=Path, help="draw the laws, PNG")
    options = parser.parse_args()
    log = Log(options.json)
    runs = map(earlier, options.read) if options.read else (measured(chosen, log, options.quick) for chosen in options.only)
    curves: dict[str, dict[str, Growth]] = {}
    for unit, found in chain.from_iterable(runs):
        curves.setdefault(unit, {}).update(report(log, unit, found))
    print()
    for laws in curves.values():
        for name, law in laws.items():
            log.ratio(f"growth_{slug(name)}_exponent", law.exponent, f"<= {TARGET}")
    if options.plot:
        draw_growth(curves, FULL, options.plot)


def slug(name: str) -> str:
    """Return a quantity's name as RATIO lines have it."""
    return "_".join("".join(letter if letter.isalnum() else " " for letter in name.lower()).split())


def probe(name: str, size: int, root: Path) -> None:
    """Run one probe, and print what it finds."""
    module, function = name.split(".")
    imported = importlib.import_module(f"growth.{module}")
    # Otherwise the collector walks through all that was imported now and then, 70 ms each time, which looks like growth.
    gc.collect()
    gc.freeze()
    print(json.dumps(getattr(imported, function)(root, size)))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--probe"]:
        probe(sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))
    else:
        main()
