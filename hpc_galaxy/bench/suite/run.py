"""``hpc-galaxy bench``: every stage against what nobody can avoid, on this machine."""

from __future__ import annotations

import importlib.util
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from hpc_galaxy.bench.environment import describe, kind, sentence
from hpc_galaxy.bench.measuring import Log, Measurement
from hpc_galaxy.bench.suite.question import LIMIT, OURS
from hpc_galaxy.errors import LaunchError
from hpc_galaxy.files import shown, whole_file, write_text
from hpc_galaxy.world import World

QUICK, FULL = 4, 12  # repeats
RESULTS = "suite.jsonl"


@dataclass(frozen=True)
class Question:
    """One question of the suite.

    Attributes
    ----------
    name : str
        What is measured.
    function : str
        ``module:function`` in this package, called with the log, a directory, and how many repeats.
    limit : str
        What the other side does, which nobody can avoid.
    needs : str
        A package without which it is left out.
    """

    name: str
    function: str
    limit: str
    needs: str = ""


QUESTIONS = (
    Question("extract", "extract:measure", "decode the tiles, copy the stamps, write them (not flushed to disk)"),
    Question("split", "split:measure_split", "copy the files, flushed to disk"),
    Question("load", "split:measure_load", "copy in memory, in order", "torch"),
    Question("train", "train:measure_train", "PyTorch on one batch in memory", "torch"),
    Question("checkpoint", "train:measure_checkpoint", "write the same bytes, flushed to disk", "torch"),
    Question("allreduce", "ranks:measure_allreduce", "add as many numbers in memory", "mpi4py"),
    Question("end to end", "ranks:measure_end_to_end", "", "torch"),
)


def run_suite(out: Path | None, quick: bool, world: World) -> None:
    """Measure everything; print it and write ``suite.jsonl``, ``table.md`` and ``suite.png``.

    Parameters
    ----------
    out : Path, optional
        Where these go, and where the disk is measured; without it ``benchmarks/results/<date>-<kind of host>``.
    quick : bool
        Fewer repeats: two minutes.
    world : World
        A single process, which starts ranks where it needs them.

    Raises
    ------
    LaunchError
        It was started on several ranks.
    """
    if world.size > 1:
        raise LaunchError("bench", f"was started on {world.size} ranks, expected 1", "start it alone; 'bench scaling' is for many ranks")
    if out is None:
        environment = describe()
        out = Path("benchmarks") / "results" / f"{environment['date']}-{kind(environment)}"
    start = time.monotonic()
    with whole_file(out / RESULTS) as partial, Log(partial) as log, tempfile.TemporaryDirectory(prefix=".bench-", dir=out) as folder:
        for question in QUESTIONS:
            _ask(question, log, Path(folder), QUICK if quick else FULL)
    write_text(out / "table.md", "\n".join(table(log)) + "\n")
    from hpc_galaxy.bench.suite.draw import draw_suite

    with whole_file(out / "suite.png") as partial:
        draw_suite(log.measurements, sentence(log.environment), partial)
    print("\n".join(["", *table(log), "", f"bench: {shown(out)}: suite.jsonl, table.md, suite.png; {time.monotonic() - start:.0f} s"]))


def _ask(question: Question, log: Log, root: Path, repeats: int) -> None:
    if question.needs and importlib.util.find_spec(question.needs) is None:
        print(f"{question.name}: left out, {question.needs} is not installed", flush=True)
        return
    print(f"{question.name}:", flush=True)
    module, function = question.function.split(":")
    # Questions of one module share a directory: one reads what another has made.
    directory = root / module
    directory.mkdir(exist_ok=True)
    getattr(import_module(f"hpc_galaxy.bench.suite.{module}"), function)(log, directory, repeats)


def table(log: Log) -> list[str]:
    """Return what was found as a table in Markdown."""
    lines = ["| | ours | the limit here | of the limit | the limit: what nobody can avoid |", "|---|---|---|---|---|"]
    found = {(one.question, one.side): one for one in log.measurements}
    for question in QUESTIONS:
        ours, limit = found.get((question.name, OURS)), found.get((question.name, LIMIT))
        if ours:
            lines.append(f"| {question.name} | {rate(ours)} | {rate(limit) if limit else ''} | {share(ours, limit)} | {question.limit} |")
    return [*lines, "", f"{sentence(log.environment)}. Medians and, in brackets, the least and the most of all repeats."]


def rate(one: Measurement) -> str:
    """Return a speed with its unit."""
    return f"{one.rate:,.0f} {one.unit}/s"


def share(ours: Measurement, limit: Measurement | None) -> str:
    """Return our speed over the limit's, with the range of the repeats."""
    if limit is None:
        return ""
    shares: Sequence[float] = sorted(ours.over(limit))
    return f"{limit.median / limit.amount / (ours.median / ours.amount):.2f} [{shares[0]:.2f}, {shares[-1]:.2f}]"
