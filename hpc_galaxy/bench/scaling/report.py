"""``hpc-galaxy bench report``: what a study has found so far, and what of it is missing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hpc_galaxy.bench.environment import sentence
from hpc_galaxy.bench.results import SAME
from hpc_galaxy.bench.scaling.compare import Prediction, fit
from hpc_galaxy.bench.scaling.data import WARM_UP
from hpc_galaxy.bench.scaling.draw import draw_efficiency, draw_parts, draw_speed
from hpc_galaxy.bench.scaling.plan import VERSION, Point, Study, count, load_study
from hpc_galaxy.bench.scaling.statistics import DRAWS, Row, make_rows
from hpc_galaxy.errors import FormatError, InputError
from hpc_galaxy.files import read_json, shown, whole_file, write_json, write_text

Results = list[tuple[Point, dict[str, Any]]]
EXPLAINED = {
    "train": f"A step's time is the median over the timed steps; the first {WARM_UP} of an epoch, its end, the validation and the start-up "
    "are not timed. Strong: the global batch is the same everywhere. Weak: the batch of a rank is.",
    "extract": "The time is the whole stage's, from when all ranks have started until the last one has ended. Strong: the bricks are the "
    "same everywhere. Weak: bricks are proportional to ranks.",
}
SYNTHETIC = {
    "train": "Trainings read synthetic shards: a few, known under many names. They are in memory after the first reading, so the file "
    "system is not measured.",
    "extract": "The bricks are one synthetic brick, known under many names. Its files are in memory after the first reading, so reading "
    "from the file system is not measured, only writing.",
}


def report(directory: Path) -> None:
    """Write and print the report of a study.

    Raises
    ------
    InputError
        There is no study.
    """
    write_report(load_study(directory.absolute()))


def write_report(study: Study) -> None:
    """Write ``report.md``, ``report.json`` and the pictures from the results that are there; print the first.

    Raises
    ------
    InputError
        No point has been measured.
    """
    results = read_results(study)
    threads = max(1, study.config.train.threads)
    if not results:
        raise InputError(study.directory, "no point has been measured", f"see what the points said in {shown(study.jobs)}")
    rows, prediction = make_rows(results, study.config.seed), fit(results, threads)
    lines = describe(study, results, rows, prediction)
    out = study.directory / "report"
    for name, draw in (("speed.png", draw_speed), ("efficiency.png", draw_efficiency), ("parts.png", draw_parts)):
        with whole_file(out / name) as partial:
            draw(rows, prediction, partial)
    write_json(out / "report.json", _content(study, results, rows, prediction))
    pictures = [f"![{name}]({name}.png)" for name in ("speed", "efficiency", "parts")]
    write_text(out / "report.md", "\n".join([*lines, "", *pictures]) + "\n")
    print("\n".join([*lines, "", f"({shown(out)})"]), flush=True)


def read_results(study: Study) -> Results:
    """Return what the points have written that were measured.

    Raises
    ------
    FormatError
        A result is none.
    """
    found = [(point, read_json(study.result(point), "hpc-galaxy bench point")) for point in study.points if study.result(point).exists()]
    for point, result in found:
        numbers = result.get("times") if isinstance(result, dict) and result.get("name") == point.name else None
        if not numbers or not all(isinstance(value, float) and value > 0 for value in numbers):
            remedy = "remove it and run 'hpc-galaxy bench scaling' again"
            raise FormatError(study.result(point), f"is no result of point {point.number} ({point.name})", remedy)
    return found


def describe(study: Study, results: Results, rows: Sequence[Row], prediction: Prediction | None) -> list[str]:
    """Return the report in Markdown, line by line."""
    lines = [f"# Scaling of {' and '.join(study.asked.stages)}: {study.directory.name}", ""]
    lines += [f"{len(results)} of {len(study.points)} points measured, {count(study.asked.ranks_per_node, 'rank')} a node.", ""]
    for stage in study.asked.stages:
        own = [row for row in rows if row.stage == stage]
        lines += [f"## {stage}", "", EXPLAINED[stage], ""] + ([SYNTHETIC[stage], ""] if stage in study.synthetic else [])
        for mode in study.asked.modes:
            curve = [row for row in own if row.mode == mode]
            lines += [*_speeds(mode, curve), *_parts(curve)] if curve else []
    lines += _predicted(rows, prediction) if prediction else []
    lines += [
        f"Intervals are 95 %, from {DRAWS:,} bootstrap samples of repeats and of the steps within each (seed {study.config.seed}). With "
        "few repeats they say little of how different two jobs are, with one repeat nothing. Efficiency is the speed of a node over that "
        "on the fewest nodes.",
        "",
    ]
    return [*lines, *_missing(study), *_measured_on(results)]


def _speeds(mode: str, rows: Sequence[Row]) -> list[str]:
    train, unit = rows[0].stage == "train", rows[0].unit
    work, seconds = ("global batch", "step, ms") if train else ("bricks", "seconds")
    lines = [f"### {mode}", "", f"| nodes | ranks | repeats | {work} | {seconds} | {unit}/s [95 %] | efficiency [95 %] |"]
    lines += ["|---:|---:|---:|---:|---:|---:|---:|"]
    for row in rows:
        time = f"{1000 * row.seconds:.1f}" if train else f"{row.seconds:.2f}"
        cells = [row.nodes, row.ranks, row.repeats, f"{row.work:,}", time, row.rate, row.efficiency.shown(".3f")]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    if any(row.efficiency.low > 1 for row in rows):
        few = count(rows[0].nodes, "node")
        lines += ["", f"Above 1: more nodes have more memory and caches, or the points on {few} met a busier machine: measure those again."]
    return [*lines, ""]


def _parts(rows: Sequence[Row]) -> list[str]:
    """Return where the time goes."""
    names = [name for name in dict.fromkeys(name for row in rows for name in row.parts) if any(row.parts.get(name) for row in rows)]
    factor, unit = (1000, "milliseconds of a step") if rows[0].stage == "train" else (1, "seconds")
    lines = [f"{unit}, mean over ranks{' and steps' * (factor > 1)}:", "", f"| nodes | {' | '.join(map(_title, names))} |"]
    lines += ["|---:" * (len(names) + 1) + "|"]
    lines += [f"| {row.nodes} | {' | '.join(f'{factor * row.parts.get(name, 0):.2f}' for name in names)} |" for row in rows]
    return [*lines, ""]


def _title(part: str) -> str:
    return {"communication": "communication and waiting", "hidden": "(messages behind the backward pass)"}.get(part, part)


def _predicted(rows: Sequence[Row], prediction: Prediction) -> list[str]:
    """Return the model's speeds beside the measured ones."""
    training, between = prediction.training, prediction.machine.between
    first, second = prediction.fitted
    lines = [
        "## The model beside the measurement: weak training",
        "",
        f"Computing ({training.images} images in {1000 * training.compute:.1f} ms) and its scatter are those on {count(first, 'node')}, "
        f"latency ({1e6 * between.latency:.0f} us) and bandwidth ({between.bandwidth / 1e6:,.0f} MB/s) are fitted to allreduces on "
        f"{count(second, 'node')}; reading is taken for free. At all other sizes the model says what it was not told.",
        "",
        "| nodes | measured images/s | predicted images/s | predicted over measured |",
        "|---:|---:|---:|---:|",
    ]
    for row in rows:
        if (row.stage, row.mode) == ("train", "weak"):
            rate = prediction.rates[row.nodes]
            lines.append(f"| {row.nodes} | {row.rate} | {rate:,.1f} | {rate / row.rate.value:.2f} |")
    return [*lines, ""]


def _missing(study: Study) -> list[str]:
    """Return which points have no result."""
    if not study.missing:
        return ["Nothing is missing.", ""]
    lines = [f"## {len(study.missing)} of {len(study.points)} points are missing", ""]
    for point in study.missing:
        begun = "begun, and not ended or failed" if study.folder(point).exists() else "never begun"
        lines.append(f"- point {point.number}, {point.sentence}: {begun}")
    return [*lines, "", "The command that planned the study, given again, does what is missing.", ""]


def _measured_on(results: Results) -> list[str]:
    environments = [result["environment"] for _, result in results]
    lines = ["## Measured on", "", f"- {sentence(environments[0])}", f"- {environments[0]['mpi']}, torch {environments[0]['torch']}"]
    for name in ("version", "commit", *SAME):
        if name == "threads":  # depend on the ranks of a node, by design
            continue
        values = sorted({str(environment.get(name) or "none") for environment in environments})
        if len(values) > 1:
            lines.append(f"- **not the same for all points: {name}**: {', '.join(values)}")
    nodes = sorted({host["node"] for _, result in results for host in result["hosts"]})
    more = f" and {len(nodes) - 8} more" if len(nodes) > 8 else ""
    lines.append(f"- {count(len(nodes), 'node')}: {', '.join(nodes[:8])}{more}")
    crowd = most_crowded(results)
    if crowd is not None:
        ranks, cores, host = crowd
        lines.append(
            f"- **{ranks} ranks shared the {count(cores, 'core')} of {host}: efficiencies of points with more ranks than cores are those "
            "of this machine, not of the program**"
        )
    return lines


def most_crowded(results: Results) -> tuple[int, int, str] | None:
    """Return ranks, cores and name of the machine with the most ranks a core, if those are more than one; several nodes may be one."""
    worst = (1.0, 0, 0, "")
    for _, result in results:
        for host in {one["host"] for one in result["hosts"]}:
            ranks = sum(one["ranks"] for one in result["hosts"] if one["host"] == host)
            cores = max(one["cores"] for one in result["hosts"] if one["host"] == host)
            worst = max(worst, (ranks / cores, ranks, cores, host))
    return worst[1:] if worst[0] > 1 else None


def _content(study: Study, results: Results, rows: Sequence[Row], prediction: Prediction | None) -> dict[str, Any]:
    """Return the report for programs."""
    found = None
    if prediction is not None:
        between, training = prediction.machine.between, prediction.training
        found = {"fitted_on": prediction.fitted, "latency": between.latency, "bandwidth": between.bandwidth, "compute": training.compute}
        found["images_per_second"] = prediction.rates
    return {
        "version": VERSION,
        "asked": asdict(study.asked),
        "synthetic": study.synthetic,
        "rows": [_finite(asdict(row)) for row in rows],
        "model": found,
        "missing": [asdict(point) | {"name": point.name} for point in study.missing],
        "environments": [result["environment"] for _, result in results],
        "hosts": sorted({host["node"] for _, result in results for host in result["hosts"]}),
    }


def _finite(content: Any) -> Any:
    """Return content in which what is no number is null, as JSON has it."""
    if isinstance(content, dict):
        return {name: _finite(value) for name, value in content.items()}
    return None if isinstance(content, float) and not math.isfinite(content) else content
