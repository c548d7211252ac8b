"""``hpc-galaxy bench predict``: what a training that was traced on few ranks would do on many nodes."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from hpc_galaxy.bench.model.messages import Link
from hpc_galaxy.bench.model.prediction import LARGE_BATCH, Machine, Row, Training, make_row
from hpc_galaxy.errors import ConfigError, InputError
from hpc_galaxy.files import shown, whole_file
from hpc_galaxy.tracing.reading import find_rank_files
from hpc_galaxy.tracing.steps import STEP, read_steps

WARM_UP = 3  # steps that do not count
LEAST_STEPS = 20
WORTH = 1.5  # times the speed that twice the nodes must bring
HOUR = 3600


def predict_run(run: Path, site: str, nodes: Sequence[int], examples: float, picture: Path | None) -> None:
    """Print, and draw if `picture` is given, what the training traced in `run` would do on so many nodes of a site.

    Parameters
    ----------
    run : Path
        A training's output directory; it ran with ``--trace`` on nodes like the site's.
    site : str
        A name in ``sites.toml``, or the path of such a file and a name in it, ``my.toml:name``.
    nodes : sequence of int
        Numbers of nodes.
    examples : float
        In an epoch.
    picture : Path, optional
        A PNG.

    Raises
    ------
    InputError
        There is no trace of a training, or a too short one.
    ConfigError
        The site is unknown.
    """
    machine, training = load_machine(site), measure(run)
    rows = [make_row(training, machine, number) for number in nodes]
    print("\n".join(describe(run, training, machine, rows, examples)))
    if picture is not None:
        from hpc_galaxy.bench.model.draw import draw_prediction

        with whole_file(picture) as partial:
            stops = stops_paying(rows)
            draw_prediction(rows, machine, examples, stops.nodes // 2 if stops else None, partial)
        print(f"({shown(picture)})")


def load_machine(site: str) -> Machine:
    """Return the machine that `site` names.

    Raises
    ------
    ConfigError
        It is unknown, or not described as it has to be.
    """
    file, _, name = site.rpartition(":")
    try:
        text = Path(file).read_text() if file else resources.files("hpc_galaxy.bench.model").joinpath("sites.toml").read_text()
        known: dict[str, Any] = tomllib.loads(text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(file, f"cannot be read ({error})", "give --site FILE.toml:NAME") from error
    if name not in known:
        raise ConfigError("--site", f"unknown site '{name}', expected one of {', '.join(known)}", "or give --site FILE.toml:NAME")
    entry = known[name]
    try:
        inside, between = (Link(float(entry[part]["latency"]), float(entry[part]["bandwidth"])) for part in ("inside", "between"))
        reading = float(entry["node_read"]), float(entry["shared_read"])
        return Machine(name, int(entry["ranks_per_node"]), inside, between, *reading, cores=float(entry.get("cores", 0)))
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(file or "sites.toml", f"[{name}] lacks a valid {error}", "see hpc_galaxy/bench/model/sites.toml") from error


def measure(run: Path) -> Training:
    """Return what a rank's step is made of, from a traced training.

    Raises
    ------
    InputError
        There is no trace of one, or of fewer than 20 steps.
    """
    steps = read_steps(find_rank_files(run)[1])
    compute = steps.part("compute")[:, [kind == STEP for kind in steps.kinds]][:, WARM_UP:] if steps else np.empty((0, 0))
    if steps is None or compute.shape[1] < LEAST_STEPS or not all("gradient_bytes" in note for note in steps.notes):
        problem = f"holds a trace of {compute.shape[1]} steps, after {WARM_UP} to warm up, expected {LEAST_STEPS} or more"
        raise InputError(run, problem, "train on a few hundred examples with --trace")
    return Training(
        images=round(float(steps.images.sum()) / len(steps.files) / steps.kinds.count(STEP)),
        compute=float(np.median(compute)),
        gradient=float(steps.notes[0]["gradient_bytes"]),
        image=float(steps.notes[0]["image_bytes"]),
        scatter=(compute / np.median(compute)).ravel(),
    )


def stops_paying(rows: Sequence[Row]) -> Row | None:
    """Return the first row that is too little faster than half its nodes; None where each is worth its nodes."""
    by_nodes = {row.nodes: row for row in rows}
    pairs = [(by_nodes.get(row.nodes // 2), row) for row in rows if row.nodes % 2 == 0]
    return next((row for half, row in pairs if half and row.images_per_second < WORTH * half.images_per_second), None)


def describe(run: Path, training: Training, machine: Machine, rows: Sequence[Row], examples: float) -> list[str]:
    """Return the table, line by line."""
    lines = [
        f"predicted for {machine.name} from {shown(run)}: {training.images} images a rank and step in {1000 * training.compute:.1f} ms, "
        f"{training.gradient / 1e6:.2f} MB of gradients, {machine.ranks_per_node} rank{'s' * (machine.ranks_per_node > 1)} a node",
        f"an epoch is {examples:,.0f} images",
        "nodes  global batch    images/s  efficiency  step, ms   epoch, s  node-hours  what costs most beside the computation",
    ]
    for row in rows:
        epoch, cost = examples / row.images_per_second, getattr(row.step, row.step.dominating) / row.step.seconds
        lines.append(
            f"{row.nodes:5} {row.batch:13,} {row.images_per_second:11,.0f} {row.efficiency:11.3f} {1000 * row.step.seconds:9.2f} "
            f"{epoch:10.1f} {epoch * row.nodes / HOUR:11.2f}  {row.step.dominating} ({cost:.1%})"
        )
    last = stops_paying(rows)
    if last is not None:
        lines.append(f"from {last.nodes // 2} to {last.nodes} nodes the speed grows by less than {WORTH} times: more do not pay")
    large = next((row for row in rows if row.batch > LARGE_BATCH), None)
    if large is not None:
        lines.append(
            f"from {large.nodes} nodes on the global batch is above {LARGE_BATCH:,}: use warm-up, "
            "train.optimizer.scaling = 'sqrt', or LAMB or LARS"
        )
    return lines
