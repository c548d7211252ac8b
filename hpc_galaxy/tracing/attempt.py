"""Where a stage's traces go: a numbered folder for each time it was started, and in it a file a rank."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hpc_galaxy.config import Trace
from hpc_galaxy.files import shown
from hpc_galaxy.tracing.clock import measure_offset
from hpc_galaxy.tracing.recorder import Recorder, now
from hpc_galaxy.world import World

FOLDER, RANKS = "trace", "rank_*.jsonl"


@contextmanager
def recording(settings: Trace, directory: Path, stage: str, world: World) -> Iterator[Recorder | None]:
    """Record this rank's spans while the block runs, in a new folder ``directory/trace/0001``, if [trace] asks for it. Collective.

    Parameters
    ----------
    settings : Trace
        The section [trace].
    directory : Path
        The stage's output.
    stage : str
        Its verb.
    world : World
        Every rank must enter, and leave unless that is by an error.
    """
    if not settings.on:
        yield None
        return
    folder = Path(world.bcast(str(_make(directory / FOLDER)) if world.is_root else ""))
    recorder = Recorder(rank_path(folder, world.rank), _describe(stage, world))
    try:
        yield recorder
    except BaseException as error:
        recorder.close({"ended": f"by {type(error).__name__}"})
        raise
    recorder.close({"ended": "well", "clock": _clock(world)})
    world.say(f"{stage}: trace in {shown(folder)}; 'hpc-galaxy trace {shown(directory)} --summary' says where the time went")


def attempts(directory: Path) -> list[Path]:
    """Return the folders of a stage's traces, the oldest first."""
    return sorted(path for path in (directory / FOLDER).glob("[0-9]*") if path.is_dir())


def rank_path(folder: Path, rank: int) -> Path:
    """Return the file of a rank in such a folder."""
    return folder / f"rank_{rank:06d}.jsonl"


def _make(root: Path) -> Path:
    before = [int(path.name) for path in attempts(root.parent)]
    folder = root / f"{max(before, default=0) + 1:04d}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        # Each recorder will say that it cannot write.
        print(f"hpc-galaxy: {folder} cannot be made ({error.strerror})", file=sys.stderr, flush=True)
    return folder


def _describe(stage: str, world: World) -> dict[str, object]:
    """Return what identifies this rank, and what its times mean. Collective."""
    return {
        "stage": stage,
        "rank": world.rank,
        "ranks": world.size,
        "host": socket.gethostname(),
        "process": os.getpid(),
        "cores": len(os.sched_getaffinity(0)),
        "clock": _clock(world),
        # What other programs on this node, which write down the time of day, need to be put on the same axis.
        "node_epoch": time.time_ns() - now(),
    }


def _clock(world: World) -> dict[str, int]:
    """Return when this was measured, and what then turned the node's clock into rank 0's time of day, nanoseconds. Collective."""
    offset = measure_offset(world)
    epoch = world.bcast(time.time_ns() - now())
    return {"at": now(), "to_time_of_day": offset.nanoseconds + epoch, "error": offset.error}
