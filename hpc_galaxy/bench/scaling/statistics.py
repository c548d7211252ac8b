"""Speeds and efficiencies of a study, with intervals from a bootstrap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np

from hpc_galaxy.bench.scaling.plan import STAGES, UNITS, Point

DRAWS = 2000
INTERVAL = (0.025, 0.975)


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval; not a number where nothing can be said of it.

    Attributes
    ----------
    value, low, high : float
        As said.
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return self.shown(",.1f" if self.value >= 1 else ".3f")

    def shown(self, how: str) -> str:
        """Return it in a format, such as ``.3f``."""
        interval = f" [{self.low:{how}}, {self.high:{how}}]" if np.isfinite(self.low) else ""
        return f"{self.value:{how}}{interval}"


@dataclass(frozen=True)
class Row:
    """What was measured of one stage, mode and number of nodes.

    Attributes
    ----------
    stage, mode, nodes, ranks
        Which.
    work : int
        The global batch, or the bricks.
    amount, unit : float, str
        Images a step, or cutouts of all bricks.
    repeats : int
        That were measured.
    seconds : float
        A step, or the whole extraction.
    rate, efficiency : Estimate
        Amount a second; and that over what the smallest number of nodes does, times the ratio of nodes.
    parts : dict of str to float
        Seconds of a rank, mean over ranks, in a step or in the whole extraction.
    """

    stage: str
    mode: str
    nodes: int
    ranks: int
    work: int
    amount: float
    unit: str
    repeats: int
    seconds: float
    rate: Estimate
    efficiency: Estimate
    parts: dict[str, float]


def make_rows(results: Sequence[tuple[Point, dict[str, Any]]], seed: int) -> list[Row]:
    """Return what was measured, by stage, mode and number of nodes.

    Parameters
    ----------
    results : sequence of tuple of Point and dict
        What each point that was measured has written.
    seed : int
        Behind the bootstrap.
    """
    rng = np.random.default_rng(seed)
    rows: list[Row] = []
    ordered = sorted(results, key=lambda pair: (STAGES.index(pair[0].stage), pair[0].mode, pair[0].nodes, pair[0].repeat))
    for _, curve in groupby(ordered, key=lambda pair: (pair[0].stage, pair[0].mode)):
        measured = [list(group) for _, group in groupby(curve, key=lambda pair: pair[0].nodes)]
        draws = [draw_rates([(result["amount"], result["times"]) for _, result in group], rng) for group in measured]
        made = [_make_row(group, drawn) for group, drawn in zip(measured, draws, strict=True)]
        first = made[0]
        for row, drawn in zip(made, draws, strict=True):
            ideal = row.nodes / first.nodes
            ratio = drawn / (ideal * draws[0]) if row is not first else np.full(DRAWS, np.nan)
            rows.append(replace(row, efficiency=_estimate(row.rate.value / (ideal * first.rate.value), ratio)))
    return rows


def rate_of(repeats: Sequence[tuple[float, Sequence[float]]]) -> float:
    """Return the amount a second: one over the mean, over the repeats, of the median time for one.

    Parameters
    ----------
    repeats : sequence of tuple of float and sequence of float
        The amount, and the seconds that it took each time.
    """
    return float(1 / np.mean([np.median(times) / amount for amount, times in repeats]))


def draw_rates(repeats: Sequence[tuple[float, Sequence[float]]], rng: np.random.Generator) -> np.ndarray:
    """Return the rate of `DRAWS` bootstrap samples: repeats are drawn, and then steps from each of them, both with replacement.

    Returns
    -------
    ndarray, shape (DRAWS,)
        Not numbers where there is a single time, which says nothing of its scatter.
    """
    if len(repeats) == 1 and len(repeats[0][1]) == 1:
        return np.full(DRAWS, np.nan)
    total = np.zeros(DRAWS)
    for _ in repeats:
        chosen = rng.integers(len(repeats), size=DRAWS)
        for number, (amount, times) in enumerate(repeats):
            who = np.flatnonzero(chosen == number)
            steps = np.asarray(times, float)[rng.integers(len(times), size=(len(who), len(times)))]
            total[who] += np.median(steps, axis=1) / amount
    return len(repeats) / total


def _estimate(value: float, draws: np.ndarray) -> Estimate:
    return Estimate(value, *(float(np.quantile(draws, part)) for part in INTERVAL))


def _make_row(group: Sequence[tuple[Point, dict[str, Any]]], draws: np.ndarray) -> Row:
    point, results = group[0][0], [result for _, result in group]
    rate = rate_of([(result["amount"], result["times"]) for result in results])
    amount, share = float(np.mean([result["amount"] for result in results])), 1 if point.stage == "train" else point.ranks
    names = dict.fromkeys(name for result in results for name in result["parts"])
    parts = {name: float(np.mean([result["parts"].get(name, 0) for result in results])) / share for name in names}
    if point.stage == "extract":
        whole = float(np.mean([result["seconds"] for result in results]))
        parts["rest"] = max(0.0, whole - sum(parts.values()))
    estimate = _estimate(rate, draws)
    return Row(
        stage=point.stage,
        mode=point.mode,
        nodes=point.nodes,
        ranks=point.ranks,
        work=point.work,
        amount=amount,
        unit=UNITS[point.stage],
        repeats=len(group),
        seconds=amount / rate,
        rate=estimate,
        efficiency=estimate,
        parts=parts,
    )
