"""Events of torch.profiler and of Horovod's timeline, put on the clock of a rank's own spans."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hpc_galaxy.errors import FormatError
from hpc_galaxy.tracing.chrome import Event, Process

PROFILES = "profiler_{:06d}_*.json.gz"  # of a rank, a file a window
TIMELINE = "horovod.json"
REMEDY = "leave it out, or trace the job again"
PIECE = 1 << 16  # characters
FLOWS = 5 * 10**8  # where the numbers of torch's arrows begin in a process; the rank's own come before


def profiler_events(process: Process) -> Iterator[Event]:
    """Yield what torch.profiler saw on a rank: operators and kernels, and what memory they took; one window at a time.

    torch counts from ``baseTimeNanoseconds``, in microseconds.
    """
    for path in sorted(process.file.path.parent.glob(PROFILES.format(process.file.header["rank"]))):
        content = read_profile(path)
        base = int(content.get("baseTimeNanoseconds", 0))

        def time(event: Event, base: int = base) -> float:
            return process.time(process.file.from_node_time_of_day(base + round(event["ts"] * 1000)))

        for event in content["traceEvents"]:
            if event.get("ph") in "XsfiI" and isinstance(event.get("ts"), int | float):
                yield from _profiler_event(process, event, time(event))


def read_profile(path: Path) -> dict[str, Any]:
    """Return one window of torch.profiler.

    Raises
    ------
    FormatError
        It is none; what a killed job has left has no final name.
    """
    try:
        content = json.loads(gzip.decompress(path.read_bytes()))
    except (OSError, EOFError, ValueError) as error:
        raise FormatError(path, f"cannot be read ({error})", REMEDY) from error
    if not isinstance(content, dict) or not isinstance(content.get("traceEvents"), list):
        raise FormatError(path, "is no trace of torch.profiler", REMEDY)
    return content


def _profiler_event(process: Process, event: Event, time: float) -> Iterator[Event]:
    # Spans of its own over everything, such as "PyTorch Profiler (0)", would hide the rest.
    if event.get("cat") in ("Trace", "overhead") or event.get("pid") in ("Spans", "Traces"):
        return
    if event["name"] == "[memory]":
        arguments = event.get("args", {})
        value = arguments.get("Total Allocated", 0) / 1e6
        yield {"ph": "C", "pid": process.pid, "name": "allocated by torch (MB)", "ts": time, "args": {"value": value}}
    elif event["ph"] in "Xsf":
        moved = {"ts": time, "pid": process.pid, "tid": process.thread(f"operators {event.get('tid', '')}")}
        if "id" in event:
            moved["id"] = process.pid * 10**9 + FLOWS + int(event["id"])
        yield event | moved


def timeline_events(process: Process) -> Iterator[Event]:
    """Yield what Horovod's coordinator saw, one row a tensor: how long its ranks were waited for, and its message.

    Horovod counts from ``start_time_since_epoch_in_micros``, and gives each tensor a process of its own.
    """
    path = process.file.path.parent / TIMELINE
    if process.file.header["rank"] or not path.exists():
        return
    start, names, open_spans = 0, dict[int, str](), dict[int, list[Event]]()
    for event in _timeline(path):
        arguments = event.get("args", {})
        start = arguments.get("start_time_since_epoch_in_micros", start)
        if event.get("name") == "process_name":
            names[event["pid"]] = arguments.get("name", "")
        if event.get("ph") == "B":
            open_spans.setdefault(event["pid"], []).append(event)
        elif event.get("ph") == "E" and open_spans.get(event["pid"]):
            begun = open_spans[event["pid"]].pop()
            node_time = process.file.from_node_time_of_day(int((start + begun["ts"]) * 1000))
            yield {
                "ph": "X",
                "pid": process.pid,
                "tid": process.thread(f"Horovod: {names.get(event['pid'], event['pid'])}"),
                "name": begun["name"],
                "cat": "horovod",
                "ts": process.time(node_time),
                "dur": max(0, event["ts"] - begun["ts"]),
            }


def _timeline(path: Path) -> Iterator[Event]:
    """Yield the events of a timeline: JSON objects after ``[``, which nothing closes where the job was killed; a piece at a time."""
    decoder, text = json.JSONDecoder(), ""
    with path.open(encoding="utf-8", errors="replace") as file:
        while piece := file.read(PIECE):
            text += piece
            while text := text.lstrip("[, \n"):
                try:
                    event, end = decoder.raw_decode(text)
                except ValueError:
                    break  # the rest of it is in the next piece
                text = text[end:]
                if isinstance(event, dict):
                    yield event
