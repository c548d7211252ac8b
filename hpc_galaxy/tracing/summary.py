"""What a trace says, in a page of text that ends with one sentence."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from hpc_galaxy.tracing.diagnosis import diagnose, sentence
from hpc_galaxy.tracing.operators import Operator
from hpc_galaxy.tracing.reading import RankFile, Span
from hpc_galaxy.tracing.recorder import MAIN, WAIT
from hpc_galaxy.tracing.steps import PARTS, STEP, Steps

SHOWN = 12  # ranks, of more those that differ the most
LATE = 1.1  # times the median rank's own time, from which on a step is called late
WAITS = (WAIT, "wait for the disk")


def summarise(files: Sequence[RankFile], steps: Steps | None, operators: Sequence[Operator] = ()) -> list[str]:
    """Return the summary of one stage, which may have steps and windows of torch.profiler, line by line."""
    lines = [_title(files, steps)]
    if steps is not None:
        lines += _parts(steps) + _late(steps) + _speed(steps) + _operators(operators)
        causes = diagnose(steps)
        lines += ["where the time goes, along the ranks that the others wait for:"]
        lines += [f"  {cause.share:6.1%}  {cause.kind}" for cause in causes]
        return [*lines, "", sentence(steps, causes)]
    return lines + _stage(files)


def _title(files: Sequence[RankFile], steps: Steps | None) -> str:
    first, hosts = files[0].header, len({file.header["host"] for file in files})
    ranks = f"{len(files)} of {first['ranks']} ranks on {hosts} node{'s' * (hosts > 1)}"
    took = ""
    if steps is not None:
        count = steps.kinds.count(STEP)
        ends = len(steps.kinds) - count
        took = f", {count} step{'s' * (count != 1)} and {ends} epoch end{'s' * (ends != 1)} in {steps.seconds:.1f} s"
    error = max(file.header["clock"]["error"] for file in files) / 1000
    killed = [file.header["rank"] for file in files if not file.footer]
    cut = f"; not closed: {len(killed)} rank{'s' * (len(killed) > 1)}, killed or still running" if killed else ""
    return f"trace of {first['stage']}: {ranks}{took}; clocks agree within {error:.0f} us{cut}"


def _parts(steps: Steps) -> list[str]:
    """Return a table: what share of its time each rank spends on what."""
    shares = steps.parts.sum(axis=1) / steps.wall.sum(axis=1, keepdims=True)
    titles = ["communication and waiting" if name == "communication" else name for name in PARTS]
    lines = [" " * 24 + "  ".join(titles)]
    rows = [("all ranks", shares.mean(axis=0))]
    odd = np.argsort(-np.abs(shares - np.median(shares, axis=0)).max(axis=1), kind="stable")[:SHOWN]
    for rank in sorted(odd.tolist()) if len(shares) > 1 else []:
        header = steps.files[rank].header
        rows.append((f"rank {header['rank']} ({header['host']})", shares[rank]))
    for name, values in rows:
        lines.append(f"{name[:22]:24}" + "  ".join(f"{value:{len(title)}.1%}" for title, value in zip(titles, values, strict=True)))
    if len(shares) > SHOWN:
        lines.append(f"  (of {len(shares)} ranks the {SHOWN} that differ most from the others)")
    return lines


def _late(steps: Steps) -> list[str]:
    """Return who is late, and how uneven the steps are."""
    if len(steps.files) == 1:
        return []
    busy, chosen = steps.busy, np.array([kind == STEP for kind in steps.kinds])
    busy = busy[:, chosen]
    if not busy.size:
        return []
    median = np.median(busy, axis=0)
    late = (busy > LATE * median).mean(axis=1)
    uneven = np.median(busy.max(axis=0) / median)
    lines = [f"imbalance: in the middle step the slowest rank is busy {uneven:.2f} times as long as the median rank"]
    for rank in np.argsort(-late, kind="stable")[:3]:
        if late[rank] > 0.5:
            header = steps.files[rank].header
            lines.append(
                f"straggler: rank {header['rank']} ({header['host']}) is late in {late[rank]:.0%} of the steps, "
                f"{np.median(busy[rank] / median):.2f} times the median rank's time"
            )
    return lines


def _speed(steps: Steps) -> list[str]:
    """Return the speed of the arithmetic, against what the machine was measured to be able to."""
    flops = [note.get("flops_per_image") for note in steps.notes]
    peaks = [note.get("peak_flops") for note in steps.notes]
    seconds = steps.part("compute").sum(axis=1)
    if not all(flops) or not all(peaks) or not seconds.all():
        return []
    achieved = steps.images * np.array(flops, float) / seconds
    peak = np.array(peaks, float)
    return [
        f"arithmetic: {achieved.mean() / 1e9:.1f} GFLOP/s a rank while it computes, {(achieved / peak).mean():.0%} of the "
        f"{peak.mean() / 1e9:.1f} GFLOP/s of a matrix product measured when the job began"
    ]


def _operators(operators: Sequence[Operator]) -> list[str]:
    if not operators:
        return []
    lines = ["top operators, own time in the windows of torch.profiler:"]
    return lines + [f"  {one.share:6.1%} {one.seconds * 1e3:10.1f} ms {one.calls:7} calls  {one.name}" for one in operators]


def _stage(files: Sequence[RankFile]) -> list[str]:
    """Return where the time of a stage without steps went, and how evenly its ranks were busy."""
    totals, length = defaultdict[str, float](float), max(_length(file) for file in files)
    idle = np.zeros(len(files))
    for number, file in enumerate(files):
        idle[number] = length - _length(file)
        for item in file.items():
            if isinstance(item, Span) and item.track == MAIN:
                totals[item.name] += item.duration * 1e-9
                idle[number] += item.duration * 1e-9 if item.name in WAITS else 0
    whole = length * len(files)
    work = {name: seconds for name, seconds in totals.items() if name not in WAITS}
    if not work or not whole:
        return ["no work was recorded"]
    lines = [f"  {seconds / whole:6.1%} {seconds:9.2f} s  {name}" for name, seconds in sorted(totals.items(), key=lambda entry: -entry[1])]
    waiting, worst = idle.sum() / whole, max(work, key=lambda name: work[name])
    if waiting > 0.1:
        return [*lines, "", f"{waiting:.0%} of the ranks' time is waiting: use fewer ranks, or more and smaller pieces of work"]
    most = f"{work[worst] / whole:.0%} of the ranks' time is '{worst}', and they wait {waiting:.0%}"
    return [*lines, "", f"{most}: more ranks would make it faster"]


def _length(file: RankFile) -> float:
    """Return how long a rank's record is, seconds."""
    last = file.header["clock"]["at"]
    for item in file.items():
        last = item.end if isinstance(item, Span) and item.end > last else last
    return float(last - file.header["clock"]["at"]) * 1e-9
