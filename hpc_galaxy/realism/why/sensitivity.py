"""Which parameter of the injection the fakes' scores follow, and what changing it might do to the AUC.

The answer comes from how scores and parameters go together among the fakes that there are. Nothing is injected again: a parameter that
goes together with the true reason, and is not among those that are looked at, is named in its place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from hpc_galaxy.auc import auc
from hpc_galaxy.chance import student_tail
from hpc_galaxy.realism.power import SIGNIFICANCE
from hpc_galaxy.realism.where import holm

STEP = 0.5  # scatters by which a parameter is changed
FARTHEST = 3.0  # scatters from the mean: what lies further counts as that far
FAKES_A_COLUMN = 5
FEWEST_BRICKS = 4
LIMITS = (
    "This is correlation within the sample, not a new injection: a parameter can be named because it goes together with the true reason. "
    "Only the fakes' scores are moved; the real galaxies stay as they are."
)


@dataclass(frozen=True)
class Effect:
    """How the fakes' logit goes with one parameter, all others being equal.

    Attributes
    ----------
    parameter, unit : str
        Of the injection.
    scatter : float
        Its standard deviation among the fakes, in this unit.
    slope, error : float
        Change of the logit for one scatter, at the mean; its standard error by bricks.
    p_value, adjusted : float
        That the slope is 0; corrected for the number of parameters (Holm).
    auc_if_changed : float
        The AUC were all fakes changed by `change`: the better of the two directions.
    change : str
        Such as ``+0.5 scatter``.
    """

    parameter: str
    unit: str
    scatter: float
    slope: float
    error: float
    p_value: float
    adjusted: float
    auc_if_changed: float
    change: str


def sensitivity(
    labels: np.ndarray,
    scores: np.ndarray,
    bricks: np.ndarray,
    parameters: Mapping[str, np.ndarray],
    conditions: Mapping[str, np.ndarray],
    units: Mapping[str, str],
) -> dict[str, Any] | str:
    """Return which parameter's change would lower the AUC most, ready for JSON; or why that cannot be said.

    The fakes' logit is fitted by least squares with each parameter in units of its scatter, its square, and the conditions. The errors
    are from leaving out one brick at a time (the jackknife, CR3 of Cameron & Miller 2015, J. Hum. Resour. 50, 317), with Student's t of one
    degree of freedom less than bricks. It is correlation, see `LIMITS`.

    Parameters
    ----------
    labels, scores, bricks : ndarray, shape (N,)
        0 real or 1 fake; the logit of fake minus that of real; what examples may not be independent within.
    parameters, conditions : mapping of str to ndarray, shape (N,)
        What the injection chose, and what it did not (seeing, depth). Only those of the fakes count. A fake of which one is not finite
        is left out; what has no value at all, or the same for all fakes, is left out itself.
    units : mapping of str to str
        Of the parameters.
    """
    sample = _take(np.flatnonzero(labels == 1), parameters, conditions)
    mine, count = sample.rows, len(np.unique(bricks[sample.rows]))
    fewest = FAKES_A_COLUMN * sample.design.shape[1]
    if not sample.standard or len(mine) < fewest or count < FEWEST_BRICKS:
        had = f"{len(mine)} fakes with known parameters in {count} brick{'s' * (count != 1)}"
        return f"{had}, and {fewest} fakes in {FEWEST_BRICKS} bricks are needed"
    fitted, errors = fit_by_bricks(sample.design, scores[mine], bricks[mine])
    kept = np.sort(np.append(mine, np.flatnonzero(labels == 0)))
    before, effects = float(auc(labels[kept], scores[kept])), []
    for number, (name, values) in enumerate(sample.standard.items()):
        place = 1 + 2 * number
        slope, error = float(fitted[place]), float(errors[place])
        p_value = float(2 * student_tail(abs(slope) / error, count - 1)) if error else float(slope == 0)
        shifts = {sign * STEP: _shift(values, sign * STEP, fitted[place : place + 2]) for sign in (1, -1)}
        areas = {step: _moved_auc(labels, scores, kept, mine, shift) for step, shift in shifts.items()}
        step = min(areas, key=lambda each: areas[each])
        change = f"{step:+g} scatter"
        effects.append(Effect(name, units[name], sample.scatters[name], slope, error, p_value, p_value, areas[step], change))
    adjusted = holm([each.p_value for each in effects])
    effects = [replace(each, adjusted=value) for each, value in zip(effects, adjusted, strict=True)]
    return {"auc": before, "rows": [asdict(each) for each in effects], "sentence": describe(effects, before), "limits": LIMITS}


@dataclass(frozen=True)
class _Sample:
    """The fakes that are fitted: their rows, their parameters in scatters from the mean, the scatters, and the design matrix."""

    rows: np.ndarray
    standard: dict[str, np.ndarray]
    scatters: dict[str, float]
    design: np.ndarray


def _take(fakes: np.ndarray, parameters: Mapping[str, np.ndarray], conditions: Mapping[str, np.ndarray]) -> _Sample:
    chosen, given = ({name: values[fakes] for name, values in each.items() if _varies(values[fakes])} for each in (parameters, conditions))
    known = np.ones(len(fakes), bool)
    for values in (*chosen.values(), *given.values()):
        known &= np.isfinite(values)
    # Of those that are left, one may be the same everywhere.
    chosen, given = ({name: values[known] for name, values in each.items() if _varies(values[known])} for each in (chosen, given))
    standard = {name: _standardised(values) for name, values in chosen.items()}
    columns = [np.ones(known.sum())] + [column for values in standard.values() for column in (values, values**2)]
    columns += [_standardised(values) for values in given.values()]
    return _Sample(fakes[known], standard, {name: float(np.std(values)) for name, values in chosen.items()}, np.column_stack(columns))


def _varies(values: np.ndarray) -> bool:
    known = values[np.isfinite(values)]
    return bool(len(known) and np.std(known) > 1e-6 * max(1.0, float(np.abs(known).max())))


def _standardised(values: np.ndarray) -> np.ndarray:
    return np.asarray(np.clip((values - values.mean()) / values.std(), -FARTHEST, FARTHEST))


def fit_by_bricks(design: np.ndarray, response: np.ndarray, bricks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return coefficients by least squares, and their standard errors from leaving out one brick at a time.

    Parameters
    ----------
    design : ndarray, shape (n, columns)
        One row an example.
    response, bricks : ndarray, shape (n,)
        What is fitted; what examples may not be independent within.

    Returns
    -------
    coefficients, errors : ndarray, shape (columns,)
    """
    names, member = np.unique(bricks, return_inverse=True)
    columns = design.shape[1]
    squares, products = np.zeros((len(names), columns, columns)), np.zeros((len(names), columns))
    for number in range(columns):
        np.add.at(squares[:, number], member, design[:, number, None] * design)
    np.add.at(products, member, design * response[:, None])
    all_squares, all_products = squares.sum(axis=0), products.sum(axis=0)
    fitted = np.linalg.pinv(all_squares, hermitian=True) @ all_products
    without = np.linalg.pinv(all_squares - squares, hermitian=True) @ (all_products - products)[..., None]
    spread = np.sum((without[..., 0] - fitted) ** 2, axis=0)
    return fitted, np.sqrt((len(names) - 1) / len(names) * spread)


def _shift(values: np.ndarray, step: float, fitted: np.ndarray) -> np.ndarray:
    """Return by how much logits move when a parameter, given in scatters from its mean, changes by a step."""
    there = np.clip(values + step, -FARTHEST, FARTHEST)
    return np.asarray(fitted[0] * (there - values) + fitted[1] * (there**2 - values**2))


def _moved_auc(labels: np.ndarray, scores: np.ndarray, kept: np.ndarray, fakes: np.ndarray, shift: np.ndarray) -> float:
    moved = scores.astype(float)
    moved[fakes] += shift
    return float(auc(labels[kept], moved[kept]))


def describe(effects: list[Effect], before: float) -> str:
    """Return in one sentence which parameter's change would lower the AUC most, of those whose slope is significant."""
    lowering = [each for each in effects if each.adjusted <= SIGNIFICANCE and each.auc_if_changed < before]
    if not lowering:
        return f"no parameter of the injection goes significantly with the fakes' scores (corrected for {len(effects)} parameters)"
    best = min(lowering, key=lambda each: each.auc_if_changed)
    by = STEP * best.scatter * (1 if best.change.startswith("+") else -1)
    size = f"{by:+.2g}{f' {best.unit}' if best.unit else ''}"
    return (
        f"{best.parameter}: changed by half its scatter ({size}) in all fakes, the AUC would fall from {before:.3f} to "
        f"{best.auc_if_changed:.3f} (p = {best.adjusted:.2g}, corrected for {len(effects)} parameters)"
    )
