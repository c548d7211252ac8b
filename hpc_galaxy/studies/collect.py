"""From the arms' own reports to the tables of the main one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any

from hpc_galaxy.config import load_config
from hpc_galaxy.files import read_object, shown, write_json
from hpc_galaxy.realism.html.build import write_html
from hpc_galaxy.realism.power import SIGNIFICANCE
from hpc_galaxy.studies.arms import CHANCE, Arm
from hpc_galaxy.studies.run import Study, found_by, is_found, tries


def collect(study: Study) -> dict[str, Any]:
    """Return what the finished arms of a study have found, ready for JSON.

    Returns
    -------
    dict
        ``arms``: a row each; ``thresholds``: for each defect the weakest strength that was found; ``missing``: arms without a result.
    """
    reports = {arm.name: study.result(arm) for arm in study.arms}
    done = [arm for arm in study.arms if reports[arm.name]]
    rows = [_row(study, arm, reports[arm.name] or {}) for arm in done]
    found = {"arms": rows, "thresholds": thresholds(study.arms, rows)}
    return {**found, "missing": [arm.name for arm in study.arms if reports[arm.name] is None and not _is_needless(arm, rows)]}


def _is_needless(arm: Arm, rows: Sequence[dict[str, Any]]) -> bool:
    """Return whether a weaker defect of the same kind was found already."""
    return bool(arm.defect) and any(row["defect"] == arm.defect and row["found"] and row["strength"] < arm.strength for row in rows)


def _row(study: Study, arm: Arm, report: dict[str, Any]) -> dict[str, Any]:
    found, simpler = is_found(arm, report, tries(arm, study.arms)), found_by(report, tries(arm, study.arms))
    failed = [check["name"] for check in report["audit"]["checks"] if check["result"] == "fail"]
    return {
        "name": arm.name,
        "kind": arm.kind,
        "purpose": arm.purpose,
        "defect": arm.defect or None,
        "strength": arm.strength if arm.defect else None,
        "unit": arm.unit or None,
        "expected": arm.expected or None,
        **{key: report[key] for key in ("examples", "bricks", "auc", "auc_interval", "p_value", "verdict")},
        "tries": tries(arm, study.arms),
        "leaks": failed,
        "found": found,
        "simpler": asdict(simpler) if simpler else None,
        "as_expected": not found and simpler is None if arm.expected == CHANCE else None,
        "report": shown(arm.report(study.folder)),
        "command": study.command(arm),
    }


def thresholds(arms: Sequence[Arm], rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return for each defect how strong it has to be for the network, for a simpler classifier, and for the audit, to find it.

    Parameters
    ----------
    arms : sequence of Arm
        Of the study, those of a defect one after another.
    rows : sequence of dict
        Of those that were run.
    """
    table = []
    for defect, group in groupby((arm for arm in arms if arm.defect), key=lambda arm: arm.defect):
        unit = next(group).unit
        mine = sorted((row for row in rows if row["defect"] == defect), key=lambda row: float(row["strength"]))
        if not mine:
            continue
        first = next((row["strength"] for row in mine if row["found"]), None)
        simpler = next((row for row in mine if row.get("simpler")), None)
        audited = next((row["strength"] for row in mine if row["leaks"]), None)
        tried = [row["strength"] for row in mine]
        table.append(
            {
                "defect": defect,
                "unit": unit,
                "tried": tried,
                "first_detected": first,
                "first_simpler": simpler["strength"] if simpler else None,
                "simpler": simpler["simpler"]["name"] if simpler else None,
                "first_audited": audited,
                "sentence": _sentence(defect, unit, tried, first, simpler),
            }
        )
    return table


def _sentence(defect: str, unit: str, tried: Sequence[float], first: float | None, simpler: dict[str, Any] | None) -> str:
    """Say from which strength on the network finds a defect, and the simpler classifier where that one finds a weaker one."""
    weaker = [strength for strength in tried if first is None or strength < first]
    without = f", not at {', '.join(f'{strength:g}' for strength in weaker)}" if weaker else ""
    network = f"found from {first:g} {unit} on{without}" if first is not None else f"not found up to {tried[-1]:g} {unit}"
    if simpler is None or (first is not None and first <= simpler["strength"]):
        return f"{defect}: {network}"
    by = f"by the classifier that sees the {simpler['simpler']['name']}"
    return f"{defect}: found from {simpler['strength']:g} {unit} on {by}; by the network {network}"


def put_into_report(study: Study, found: dict[str, Any]) -> Path:
    """Add what a study has found, see `collect`, to the survey's own report, and write its HTML anew; return the HTML's path.

    Raises
    ------
    InputError
        There is no report.
    """
    folder = load_config(study.config, study.asked).paths.report
    path = folder / "report.json"
    content = read_object(path, "hpc-galaxy realism", examples=int)
    if study.name == "replicate":
        found["arms"].insert(0, _honest(content))
    content[study.name] = found
    write_json(path, content)
    return write_html(content, folder)


def _honest(content: dict[str, Any]) -> dict[str, Any]:
    """Return the report's own run as a row beside those with the defects of 2018."""
    numbers = {key: content[key] for key in ("examples", "bricks", "auc", "auc_interval", "p_value", "verdict")}
    found = content["p_value"] is not None and content["p_value"] <= SIGNIFICANCE
    row = {"name": "honest", "kind": "2018", "purpose": "none of these defects: the run of this report", **numbers, "found": found}
    nothing = dict.fromkeys(("defect", "strength", "unit", "expected", "as_expected", "report", "command"))
    return {**nothing, **row, "leaks": [check["name"] for check in content["audit"]["checks"] if check["result"] == "fail"]}
