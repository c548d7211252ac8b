"""What the report says of the data, from the manifest of the shards."""

from __future__ import annotations

from typing import Any

from hpc_galaxy.shards.manifest import SPLITS, Manifest
from hpc_galaxy.splits.balance import balance_problems


def describe_shards(manifest: Manifest) -> dict[str, Any]:
    """Return the keys ``stamps``, ``splits`` and ``matching`` of ``report.json``.

    Parameters
    ----------
    manifest : Manifest
        Of the shards that the network was trained on.
    """
    stamps, report = manifest.stamps, manifest.report
    splits = {name: report[name] for name in ("groups", "dropped", *SPLITS) if name in report}
    return {
        "stamps": {"size": stamps.size, "channels": list(manifest.channels)},
        "splits": splits or None,
        "matching": matching(manifest),
    }


def matching(manifest: Manifest) -> dict[str, Any] | None:
    """Return how alike the classes are in the columns that they were matched on; None where they were not.

    Returns
    -------
    dict or None
        ``columns``: a list of ``column``, ``before``, ``after``: mean of fake minus mean of real, in units of the scatter, None where that
        is not defined. ``tabular``: what a classifier on these columns makes of held-out galaxies, ``before`` and ``after``, each with
        ``auc`` and ``interval``. ``pairs``, ``real``, ``fake``, ``caliper``, and ``problems``: sentences, none where all is well.
    """
    found = manifest.report.get("matching")
    if not found:
        return None
    columns = [
        {"column": name, "before": values.get("smd_before"), "after": values.get("smd_after")} for name, values in found["columns"].items()
    ]
    tabular = {name: found[f"tabular_auc_{name}"] for name in ("before", "after")}
    counts = {name: found[name] for name in ("pairs", "real", "fake", "caliper")}
    return {"columns": columns, "tabular": tabular, **counts, "problems": balance_problems(found)}
