"""Checks of what the tables say: no sky, no group, no galaxy in two splits, and nothing twice."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from hpc_galaxy.bricks.geometry import chord, unit_vectors
from hpc_galaxy.shards.manifest import SPLITS
from hpc_galaxy.shards.schema import LABELS
from hpc_galaxy.splits.audit.examples import Examples
from hpc_galaxy.splits.audit.findings import Finding, judge
from hpc_galaxy.splits.groups import overlap_arcsec

BLOCK = 1_000_000  # sources whose neighbours are looked up at a time
FEW = 0.001  # share of examples that repeat another's pixels, on its own side, up to which that is only to be known
AGAIN = "run 'hpc-galaxy split --overwrite'"


def check_tables(examples: Examples) -> list[Finding]:
    """Return the findings on positions, groups, injected galaxies, ids and repeated pixels."""
    return [shared_pixels(examples), shared_groups(examples), shared_injected(examples), repeated_ids(examples), repeated_pixels(examples)]


def shared_pixels(examples: Examples) -> Finding:
    """Look for sources of different splits that are so near that their stamps could share pixels."""
    keys, diagonal = examples.keys, overlap_arcsec(examples.manifest.stamps.size)
    guard = float(examples.manifest.report.get("groups", {}).get("guard_arcsec", 0.0))
    placed = np.flatnonzero(np.isfinite(keys["ra"]) & np.isfinite(keys["dec"]))
    points = unit_vectors(keys["ra"][placed], keys["dec"][placed])
    apart = nearest_elsewhere(points, keys["split"][placed], chord(2 * diagonal + guard))
    # Positions exactly as far apart as was asked for are none too near.
    overlapping, guarded = (int((apart < chord(limit) * (1 - 1e-9)).sum()) for limit in (diagonal, diagonal + guard))
    unplaced, nearest = len(keys) - len(placed), _arcsec(apart.min(initial=math.inf))
    numbers: dict[str, Any] = {
        "overlapping": overlapping,
        "within_guard": guarded,
        "unplaced": unplaced,
        "limit_arcsec": diagonal,
        "guard_arcsec": guard,
    }
    numbers["nearest_arcsec"] = nearest
    found = f"{overlapping} stamps within {diagonal:.1f} arcsec of one in another split"
    found += f", nearest {nearest:.1f}" if nearest is not None else ""
    found += f"; {unplaced} without position" if unplaced else ""
    return Finding(
        "shared pixels", judge(overlapping > 0, guarded + unplaced > 0), found, _why_shared(examples, apart, placed, numbers), numbers
    )


def _arcsec(length: float) -> float | None:
    """Return the angle of a chord; None where it is infinite."""
    return math.degrees(2 * math.asin(length / 2)) * 3600 if math.isfinite(length) else None


def _why_shared(examples: Examples, apart: np.ndarray, placed: np.ndarray, numbers: dict[str, Any]) -> str:
    if numbers["overlapping"]:
        first = examples.name(int(placed[apart.argmin()]))
        return f"a network can learn the test's pixels by heart; nearest: {first}; {AGAIN}"
    if numbers["within_guard"]:
        count, guard = numbers["within_guard"], numbers["guard_arcsec"]
        return f"{count} stamps come nearer than the {guard:g} arcsec that split.guard_arcsec adds to a stamp's diagonal; {AGAIN}"
    return f"{numbers['unplaced']} sources have no position: whether they share sky is not known; prefer catalogs with ra and dec"


def nearest_elsewhere(points: np.ndarray, split: np.ndarray, reach: float) -> np.ndarray:
    """Return how far it is to the nearest source of any other split.

    Parameters
    ----------
    points : ndarray, shape (N, 3)
        Unit vectors.
    split : ndarray, shape (N,), int
        Which split each is in.
    reach : float
        How far is looked, length of a chord.

    Returns
    -------
    ndarray, shape (N,)
        Lengths of chords; infinite where there is none within `reach`.
    """
    apart = np.full(len(points), math.inf)
    # In slices of declination, so that no tree holds a whole survey: a chord is at least as long as the difference in z.
    order = np.argsort(points[:, 2], kind="stable")
    height = points[order, 2]
    for start in range(0, len(order), BLOCK):
        here = order[start : start + BLOCK]
        low, high = height[start] - reach, height[start + len(here) - 1] + reach
        near = order[np.searchsorted(height, low) : np.searchsorted(height, high, "right")]
        for number in range(len(SPLITS)):
            own, others = here[split[here] == number], near[split[near] != number]
            if len(own) and len(others):
                apart[own] = cKDTree(points[others]).query(points[own], distance_upper_bound=reach)[0]
    return apart


def shared_groups(examples: Examples) -> Finding:
    """Look for sky groups that are in more than one split."""
    keys = examples.keys
    bad = in_two_splits(keys["group"], keys["split"])
    count, total = len(np.unique(keys["group"][bad])), len(np.unique(keys["group"]))
    advice = f"whole sky groups have to be on one side; first: that of {examples.name(int(bad[0]))}; {AGAIN}" if count else ""
    return Finding(
        "shared groups", judge(count > 0, False), f"{count} of {total} sky groups in two splits", advice, {"shared": count, "groups": total}
    )


def shared_injected(examples: Examples) -> Finding:
    """Look for galaxies that were injected more than once, on two sides; and whether the tables can tell."""
    keys = examples.keys
    # Of a control nobody says that the fakes were injected.
    fakes = (keys["label"] == LABELS["fake"]) & (not examples.control)
    known = np.flatnonzero(keys["injected"] != 0)
    bad = known[in_two_splits(keys["injected"][known], keys["split"][known])]
    count, unknown = len(np.unique(keys["injected"][bad])), int((fakes & (keys["injected"] == 0)).sum())
    total = len(np.unique(keys["injected"][known]))
    found = f"{count} of {total} injected galaxies in two splits" + (f"; {unknown} fakes not known" if unknown else "")
    if count:
        advice = f"a network can learn the galaxy itself by heart; first: {examples.name(int(bad[0]))}; {AGAIN}"
    else:
        advice = f"the truth tables do not say which galaxy was injected for {unknown} fakes; draw each galaxy once, or give its parameters"
    return Finding(
        "injected galaxies", judge(count > 0, unknown > 0), found, advice, {"shared": count, "galaxies": total, "unknown": unknown}
    )


def repeated_ids(examples: Examples) -> Finding:
    """Look for ids that occur more than once."""
    keys = examples.keys
    again = repeats(keys["id"])
    across = len(np.unique(keys["id"][in_two_splits(keys["id"], keys["split"])]))
    count = len(np.unique(keys["id"][again]))
    advice = f"each galaxy has to be there once; first: {examples.name(int(again[0]))}; {AGAIN}" if count else ""
    numbers = {"repeated": count, "across_splits": across}
    return Finding(
        "duplicate ids", judge(count > 0, False), f"{count} ids occur more than once, {across} of them in two splits", advice, numbers
    )


def repeated_pixels(examples: Examples) -> Finding:
    """Look for stamps with the same pixels, whatever their ids; stamps that are 0 everywhere are set aside."""
    keys = examples.keys
    some = np.flatnonzero(keys["pixels"] != 0)
    again = some[repeats(keys["pixels"][some])]
    bad = some[in_two_splits(keys["pixels"][some], keys["split"][some])]
    across, blank = len(np.unique(keys["pixels"][bad])), len(keys) - len(some)
    within = len(again) - len(bad)
    numbers = {"repeated": len(again), "across_splits": across, "blank": blank}
    found = f"{len(again)} stamps are not the only ones with their pixels, {across} such in two splits"
    found += f"; {blank} are 0 everywhere" if blank else ""
    if across:
        advice = f"the same pixels are on two sides; first: {examples.name(int(bad[0]))}; {AGAIN}"
    elif within:
        advice = f"one stamp counts several times; first: {examples.name(int(again[0]))}; look for sources at one place in the catalog"
    else:
        advice = f"{blank} stamps hold no data; raise extract.nobs, or select sources on covered sky"
    return Finding("duplicate pixels", judge(across > 0 or within > FEW * len(keys), len(again) + blank > 0), found, advice, numbers)


def repeats(keys: np.ndarray) -> np.ndarray:
    """Return the places of keys that occur more than once, increasing."""
    order = np.argsort(keys, kind="stable")
    same = np.flatnonzero(keys[order][1:] == keys[order][:-1])
    return np.unique(order[np.concatenate([same, same + 1])])


def in_two_splits(keys: np.ndarray, split: np.ndarray) -> np.ndarray:
    """Return the places of keys that occur in more than one split, increasing."""
    order = np.lexsort((split, keys))
    sorted_keys, sorted_split = keys[order], split[order]
    border = np.append(True, sorted_keys[1:] != sorted_keys[:-1])
    member = np.cumsum(border) - 1
    changes = np.append(False, ~border[1:] & (sorted_split[1:] != sorted_split[:-1]))
    return np.sort(order[np.bincount(member, changes)[member] > 0]) if len(keys) else order
