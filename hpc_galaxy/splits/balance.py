"""How alike real and fake galaxies are in the columns they are matched on, before and after."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hpc_galaxy.files import whole_file
from hpc_galaxy.splits.tabular import tabular_auc

SMD_LIMIT = 0.1
"""A standardised mean difference below this counts as negligible (Austin 2009, Stat. Med. 28, 3083)."""
CAPTION = (
    "Each row is a column that real and fake galaxies are matched on: how far apart the classes' means are, in units of their scatter.\n"
    "The open points are before matching, the full ones after; right of the dashed line at 0.1 a difference is no longer negligible.\n"
    "The AUC is that of a classifier that sees these columns alone, on galaxies it has not learned from. After matching its interval has\n"
    "to hold 0.5: where it lies above, a network may tell fake from real by these columns, whatever the galaxies look like."
)


@dataclass(frozen=True)
class Sample:
    """Some sources.

    Attributes
    ----------
    features : ndarray, shape (N, k), float32
        `hpc_galaxy.splits.columns.features`; NaN where not known.
    labels : ndarray, shape (N,)
        0 real, 1 fake.
    groups : ndarray, shape (N,), uint64
        Hashes of their sky groups.
    sides : ndarray, shape (N,), int, optional
        Their split, 0 for training.
    """

    features: np.ndarray
    labels: np.ndarray
    groups: np.ndarray
    sides: np.ndarray | None = None


def mean_difference(values: np.ndarray, labels: np.ndarray) -> float | None:
    """Return the standardised mean difference of one column, (fake - real) / sqrt((variance of fake + variance of real) / 2).

    Austin 2009, Stat. Med. 28, 3083, eq. 1.

    Parameters
    ----------
    values, labels : ndarray, shape (N,)
        NaN are left out; 0 real, 1 fake.

    Returns
    -------
    float or None
        None where a class has fewer than two values, or where both are constant and differ. 0 where both are the same constant.
    """
    real, fake = (values[(labels == label) & np.isfinite(values)].astype(np.float64) for label in (0, 1))
    if min(len(real), len(fake)) < 2:
        return None
    difference = float(fake.mean() - real.mean())
    scatter = float(np.sqrt((fake.var(ddof=1) + real.var(ddof=1)) / 2))
    if scatter <= 1e-6 * max(abs(float(real.mean())), abs(float(fake.mean()))):
        return 0.0 if difference == 0 else None
    return difference / scatter


def balance_report(before: Sample, after: Sample, columns: Sequence[str], caliper: float, seed: int) -> dict[str, Any]:
    """Return how matching changed the sample, ready for JSON.

    Parameters
    ----------
    before, after : Sample
        What there was, and what has found a partner.
    columns : sequence of str
        Names of the features.
    caliper, seed : float, int
        Of the matching.

    Returns
    -------
    dict
        ``columns``: by name ``smd_before`` and ``smd_after`` (`mean_difference`); a column of which some values are missing has a
        second entry, ``<name> missing``, for the share of the missing ones. ``tabular_auc_before`` and ``tabular_auc_after``
        (`hpc_galaxy.splits.tabular.tabular_auc`), ``pairs`` and ``real``, ``fake`` (how many there were), ``caliper``, ``seed``.
    """
    differences = {}
    for name, was, now in zip(columns, before.features.T, after.features.T, strict=True):
        differences[name] = _differences(before, after, was, now)
        if np.isnan(was).any():
            differences[f"{name} missing"] = _differences(before, after, np.isnan(was), np.isnan(now))
    return {
        "columns": differences,
        "tabular_auc_before": _tabular_auc(before, seed),
        "tabular_auc_after": _tabular_auc(after, seed),
        "real": int((before.labels == 0).sum()),
        "fake": int((before.labels == 1).sum()),
        "pairs": int((after.labels == 1).sum()),
        "caliper": caliper,
        "seed": seed,
    }


def _tabular_auc(sample: Sample, seed: int) -> dict[str, Any]:
    """As the network will: learned from the training split, asked about the others."""
    return tabular_auc(sample.features, sample.labels, sample.groups, seed, held_out=sample.sides)


def _differences(before: Sample, after: Sample, was: np.ndarray, now: np.ndarray) -> dict[str, float | None]:
    return {"smd_before": mean_difference(was, before.labels), "smd_after": mean_difference(now, after.labels)}


def balance_lines(report: dict[str, Any]) -> list[str]:
    """Return what the terminal shows of a `balance_report`: a table, the tabular AUC, and warnings."""
    width = max(len("column"), *map(len, report["columns"]))
    lines = [
        f"standardised mean differences (fake - real) of {report['pairs']:,} pairs of {report['real']:,} real, {report['fake']:,} fake:"
    ]
    lines.append(f"  {'column':{width}}  before   after")
    for name, row in report["columns"].items():
        lines.append(f"  {name:{width}}  {_number(row['smd_before'])}  {_number(row['smd_after'])}")
    lines.append(auc_line(report))
    return lines + [f"WARNING: {problem}" for problem in balance_problems(report)]


def _number(value: float | None) -> str:
    return "     -" if value is None else f"{value:+6.3f}"


def auc_line(report: dict[str, Any]) -> str:
    """Return ``tabular AUC before 0.61 [0.60, 0.62], after 0.50 [0.49, 0.51]``."""
    return f"tabular AUC before {_auc(report['tabular_auc_before'])}, after {_auc(report['tabular_auc_after'])}"


def _auc(result: dict[str, Any]) -> str:
    if result["auc"] is None:
        return f"undefined ({result['reason']})"
    interval = result["interval"]
    return f"{result['auc']:.3f} " + (f"[{interval[0]:.3f}, {interval[1]:.3f}]" if interval else f"(no interval: {result['reason']})")


def balance_problems(report: dict[str, Any]) -> list[str]:
    """Return why a `balance_report` should make one doubt an AUC from images; nothing when all is well."""
    problems = []
    wide = [name for name, row in report["columns"].items() if row["smd_after"] is None or abs(row["smd_after"]) > SMD_LIMIT]
    if wide:
        problems.append(f"after matching the classes still differ by more than {SMD_LIMIT} in {', '.join(wide)}; see split.caliper")
    interval = report["tabular_auc_after"]["interval"]
    if interval is None:
        problems.append(
            f"the tabular AUC has no interval ({report['tabular_auc_after']['reason']}): nobody knows whether matching did its work"
        )
    elif interval[0] > 0.5:
        problems.append(
            "after matching real and fake can be told apart by the matched columns alone (one time in 40 this is chance; another seed "
            "tells): an AUC from images means nothing yet"
        )
    elif interval[1] < 0.5:
        problems.append(
            "the tabular AUC lies below 0.5, farther than chance would have it but one time in 40: try another seed; if it stays there, "
            "something is shared between the splits"
        )
    return problems


def draw_balance(report: dict[str, Any], path: Path) -> None:
    """Write a `balance_report` as PNG: the absolute standardised mean difference of every column before and after (a "love plot")."""
    from matplotlib.figure import Figure

    names = list(report["columns"])[::-1]
    figure = Figure(figsize=(8.2, 2.6 + 0.28 * len(names)), layout="constrained")
    axes = figure.subplots()
    rows = np.arange(len(names))
    was, now = (np.array([_absolute(report["columns"][name][key]) for name in names]) for key in ("smd_before", "smd_after"))
    axes.hlines(rows, np.minimum(was, now), np.maximum(was, now), color="0.8", linewidth=1.5, zorder=1)
    axes.scatter(was, rows, facecolors="white", edgecolors="C3", label="before matching", zorder=2)
    axes.scatter(now, rows, color="C0", label="after", zorder=3)
    axes.axvline(SMD_LIMIT, color="0.4", linestyle="--", linewidth=1)
    axes.set_yticks(rows, names)
    axes.set_xlim(0, 1.08 * max(0.15, np.nanmax([*was, *now], initial=0)))
    axes.set(xlabel="|mean of fake - mean of real| / scatter")
    axes.grid(axis="y", color="0.93")
    axes.set_axisbelow(True)
    axes.legend(frameon=False, loc="lower right")
    head = f"{report['pairs']:,} pairs of {report['real']:,} real and {report['fake']:,} fake galaxies (caliper {report['caliper']:g})"
    figure.suptitle(f"{head}\n{textwrap.fill(auc_line(report), 90)}", fontsize=10.5)
    figure.supxlabel(CAPTION, fontsize=8.5)
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=120)


def _absolute(value: float | None) -> float:
    return float("nan") if value is None else abs(value)
