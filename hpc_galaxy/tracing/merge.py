"""One Chrome trace of a whole job: all ranks of one or several stages, on one clock."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hpc_galaxy.files import whole_file
from hpc_galaxy.tracing.chrome import Event, Process, open_compressed, write_events
from hpc_galaxy.tracing.foreign import profiler_events, timeline_events
from hpc_galaxy.tracing.reading import RankFile

NAME = "trace.json.gz"


@dataclass(frozen=True)
class Merged:
    """What was merged.

    Attributes
    ----------
    ranks, events : int
        How many.
    killed : list of str
        Ranks whose record stops in the middle: their job was killed, or is still running.
    clock_error : int
        The largest uncertainty between two nodes' clocks, nanoseconds.
    """

    ranks: int
    events: int
    killed: list[str]
    clock_error: int


def merge(files: Sequence[RankFile], out: Path) -> Merged:
    """Merge ranks' records into one gzipped Chrome trace, line by line: memory does not grow with their length.

    Parameters
    ----------
    files : sequence of RankFile
        In the order in which they are to be shown.
    out : Path
        Written whole or not at all.
    """
    base = min(file.to_time_of_day(file.header["clock"]["at"]) for file in files)
    processes = [Process(file, number, base) for number, file in enumerate(files)]
    with whole_file(out) as partial, open_compressed(str(partial)) as stream:
        count = write_events(stream, _events(processes))
    killed = [f"{file.header['stage']} rank {file.header['rank']}" for file in files if not file.footer]
    return Merged(len(files), count, killed, max(file.header["clock"]["error"] for file in files))


def _events(processes: Sequence[Process]) -> Iterator[Event]:
    for process in processes:
        yield from profiler_events(process)
        yield from timeline_events(process)
        yield from process.events()
