"""Checks of what the manifest says: where the classes come from, and whether they were matched."""

from __future__ import annotations

from typing import Any

import numpy as np

from hpc_galaxy.shards.schema import LABELS
from hpc_galaxy.splits.audit.examples import Examples
from hpc_galaxy.splits.audit.findings import Finding, Result, judge, worst
from hpc_galaxy.splits.audit.noise import MARGIN
from hpc_galaxy.splits.balance import SMD_LIMIT

MAY_DIFFER = ("release",)  # that bricks were reduced by several releases is no defect; that only one class was, is to be known


def check_provenance(examples: Examples) -> list[Finding]:
    """Return the findings on the cutout files' attributes, on realisations, and on matching."""
    found = [attributes(examples.manifest.provenance), realisations(examples), gate(examples.manifest.report.get("matching"))]
    return [*found, control(examples.control)] if examples.control else found


def control(name: str) -> Finding:
    """Say that the labels are those of a negative control."""
    advice = "the labels do not say which galaxies are real; whoever tells the classes apart has found a leak, not a fake"
    return Finding("control", "warn", f"a negative control: {name}", advice, {"control": name})


def attributes(provenance: dict[str, dict[str, list[Any]]]) -> Finding:
    """Compare what the cutout files of the two classes say of how they were made."""
    classes = {name: provenance.get(name, {}) for name in LABELS}
    names = list(dict.fromkeys(name for known in classes.values() for name in known))
    if not names:
        advice = "the cutout files say nothing of how they were made; extract with this package, or see by hand that both were made alike"
        return Finding("provenance", "warn", "the manifest names none", advice)
    values = {name: {label: known.get(name, []) for label, known in classes.items()} for name in names}
    differing = {name: both for name, both in values.items() if both["real"] != both["fake"]}
    mixed = [name for name, both in values.items() if name not in (*differing, *MAY_DIFFER) and len(both["real"]) > 1]
    serious = [name for name in differing if name not in MAY_DIFFER]
    found = f"{len(names) - len(differing)} of {len(names)} attributes agree"
    told = [f"{name}: real {_shown(both['real'])}, fake {_shown(both['fake'])}" for name, both in differing.items()]
    found += f"; {'; '.join(told)}" if told else ""
    found += f"; several values of {', '.join(mixed)} in both" if mixed else ""
    advice = "cutouts made in different ways can be told apart by that; extract both classes in one run of 'hpc-galaxy extract'"
    return Finding("provenance", judge(bool(serious), bool(differing or mixed)), found, advice, {"differing": differing, "mixed": mixed})


def _shown(values: list[Any]) -> str:
    shown = ", ".join(str(value) for value in values[:3])
    return f"{shown} and {len(values) - 3} more" if len(values) > 3 else shown or "nothing"


def realisations(examples: Examples) -> Finding:
    """Compare whether the stamps were cut from the survey's own coadds or from those with injected galaxies."""
    keys = examples.keys
    own = {
        name: float(np.mean(keys["own"][keys["label"] == label])) if (keys["label"] == label).any() else 0.0
        for name, label in LABELS.items()
    }
    found = f"from the survey's own coadds: real {100 * own['real']:.0f} %, fake {100 * own['fake']:.0f} %"
    advice = (
        "the classes are cut from files that were written by different programs, and all that these do differently shows; "
        "extract with extract.real_from = 'injected', so that both share every pixel's history"
    )
    return Finding("coadds", judge(False, own["real"] != own["fake"]), found, advice, own)


def gate(matching: dict[str, Any] | None) -> Finding:
    """Read whether the classes can be told apart by their catalog columns alone, after matching."""
    name = "matching"
    after = (matching or {}).get("tabular_auc_after") or {}
    if not after:
        advice = "a network may find what differs in the catalog already, and its AUC says little; set split.match = 'nearest'"
        return Finding(name, "warn", "real and fake are not matched", advice)
    smd = {column: values.get("smd_after") for column, values in (matching or {}).get("columns", {}).items()}
    wide = [column for column, value in smd.items() if value is None or abs(value) > SMD_LIMIT]
    largest = max((abs(value) for value in smd.values() if value is not None), default=0.0)
    interval, value = after.get("interval"), after.get("auc")
    found = f"tabular AUC {value:.3f}" if value is not None else "tabular AUC not known"
    found += f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else f", no interval ({after.get('reason', 'no reason given')})"
    found += f", largest mean difference {largest:.2f} standard deviations" + (f", too large: {', '.join(wide)}" if wide else "")
    advice = (
        "real and fake differ in the columns they were matched on, and an AUC of images has to be read against this one; "
        "lower split.caliper, or choose other split.match_columns (an interval that is barely beyond 0.5 can be chance: try another seed)"
    )
    numbers = {"tabular_auc_after": after, "smd_after": smd}
    return Finding(name, worst([_judge_auc(interval), judge(False, bool(wide))]), found, advice, numbers)


def _judge_auc(interval: list[float] | None) -> Result:
    if interval is None:
        return "warn"
    return judge(interval[0] > 0.5 + MARGIN, not interval[0] <= 0.5 <= interval[1])
