"""What the scaling model makes of a study's two smallest numbers of nodes, beside what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hpc_galaxy.bench.model.fit import fit_link
from hpc_galaxy.bench.model.messages import Link
from hpc_galaxy.bench.model.prediction import Machine, Training, predict
from hpc_galaxy.bench.scaling.plan import Point

NOWHERE = Link(1e-9, 1e15)  # no ranks are connected by it
UNLIMITED = 1e18  # bytes a second: the traces do not say what a file system could give


@dataclass(frozen=True)
class Prediction:
    """The model, fitted to a study.

    Attributes
    ----------
    training, machine : Training, Machine
        The first from the smallest number of nodes, the second from the allreduces of the next.
    fitted : tuple of int
        These two numbers of nodes; at all others the model says something that it was not told.
    rates : dict of int to float
        Images a second, by nodes.
    """

    training: Training
    machine: Machine
    fitted: tuple[int, int]
    rates: dict[int, float]


def fit(results: Sequence[tuple[Point, dict[str, Any]]], threads: int) -> Prediction | None:
    """Fit the model to the weak training points; None where they are on less than two numbers of nodes, or know no messages.

    Parameters
    ----------
    results : sequence of tuple of Point and dict
        Of all points that were measured.
    threads : int
        A rank computes with.
    """
    weak = [(point, result) for point, result in results if (point.stage, point.mode) == ("train", "weak")]
    nodes = sorted({point.nodes for point, _ in weak})
    if len(nodes) < 2:
        return None
    small, next_ = ([(point, result) for point, result in weak if point.nodes == number] for number in nodes[:2])
    inside, between = _link(small, "inside"), _link(next_, "between")
    ranks, hosts = small[0][0].ranks_per_node, small[0][1]["hosts"]
    if between is None or (inside is None and ranks > 1):
        return None
    training = measured_training(small)
    cores = max(1.0, min(host["cores"] for host in hosts) / threads)
    machine = Machine("measured", ranks, inside or NOWHERE, between, UNLIMITED, UNLIMITED, cores)
    alone = len({host["host"] for _, result in weak for host in result["hosts"]}) == 1
    rates = {number: _rate(training, _in_one(machine, number) if alone else machine, 1 if alone else number) for number in nodes}
    return Prediction(training, machine, (nodes[0], nodes[1]), rates)


def _in_one(machine: Machine, nodes: int) -> Machine:
    """Return a machine that has all ranks of so many nodes on its own cores: what Slurm or the plan calls nodes is one computer."""
    inside = machine.inside if machine.ranks_per_node > 1 else machine.between
    return replace(machine, ranks_per_node=nodes * machine.ranks_per_node, inside=inside)


def _rate(training: Training, machine: Machine, nodes: int) -> float:
    return training.images * machine.ranks_per_node * nodes / predict(training, machine, nodes).seconds


def measured_training(results: Sequence[tuple[Point, dict[str, Any]]]) -> Training:
    """Return what a rank's step is made of, from the points of one size."""
    point, first = results[0]
    compute = np.concatenate([result["compute"] for _, result in results])
    typical = float(np.median(compute))
    return Training(
        images=point.work // point.ranks,
        compute=typical,
        gradient=float(first["gradient_bytes"]),
        image=float(first["image_bytes"]),
        scatter=compute / typical,
    )


def _link(results: Sequence[tuple[Point, dict[str, Any]]], place: str) -> Link | None:
    """Fit a link to the allreduces of all repeats together."""
    sweeps = [result["allreduce"][place] for _, result in results if place in result["allreduce"]]
    if not sweeps:
        return None
    point = results[0][0]
    times = {int(size): [second for one in sweeps for second in one[size]] for size in sweeps[0]}
    return fit_link(times, point.nodes if place == "between" else point.ranks_per_node)
