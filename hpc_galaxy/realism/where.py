"""Where fakes are told apart: the AUC of bright and faint, blue and red, small and large galaxies by themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from hpc_galaxy.realism.clustered import clustered_auc, permutation_p
from hpc_galaxy.realism.power import SIGNIFICANCE
from hpc_galaxy.shards.schema import StampFormat

BINS = 4


@dataclass(frozen=True)
class Bin:
    """Galaxies that are alike in one quantity, and how well they are told apart.

    Attributes
    ----------
    quantity : str
        As on an axis, with its unit.
    low, high : float
        Of the quantity, in the bin.
    examples : int
        Real and fake.
    auc, interval : float, (float, float)
        With its 95 % interval by bricks; of this bin alone.
    p_value, adjusted : float
        Of the permutation test: of this bin alone, and corrected for the number of all bins that were looked at.
    """

    quantity: str
    low: float
    high: float
    examples: int
    auc: float
    interval: tuple[float, float]
    p_value: float
    adjusted: float

    @property
    def is_told_apart(self) -> bool:
        """Whether fake and real differ here, by the corrected p-value."""
        return self.adjusted <= SIGNIFICANCE


def quantities(table: np.ndarray, stamps: StampFormat) -> dict[str, np.ndarray]:
    """Return what galaxies are sorted by, each of shape (N,); NaN where it was not measured.

    Parameters
    ----------
    table : ndarray, shape (N,)
        A source table.
    stamps : StampFormat
        Tells its bands: the first is that of the magnitude, which comes first; the middle one of signal to noise and seeing.
    """
    first, middle, last = stamps.bands[0], stamps.bands[len(stamps.bands) // 2], stamps.bands[-1]
    found = {f"{first} (mag)": table[f"mag_{first}"]}
    if first != last:
        found[f"{first} - {last} (mag)"] = table[f"mag_{first}"] - table[f"mag_{last}"]
    found["half-light radius (arcsec)"] = table["shape_r"]
    found[f"signal to noise in {middle}"] = table[f"flux_{middle}"] * np.sqrt(np.maximum(table[f"flux_ivar_{middle}"], 0))
    found[f"seeing in {middle} (arcsec)"] = table[f"psfsize_{middle}"]
    return {name: np.asarray(values, float) for name, values in found.items()}


def locate(
    labels: np.ndarray, scores: np.ndarray, bricks: np.ndarray, values: dict[str, np.ndarray], permutations: int, seed: int
) -> list[Bin]:
    """Return how well fakes are told apart in bins of each quantity.

    A bin holds about as many galaxies as the next of its quantity. The p-values of all bins are corrected together (Holm 1979, Scand. J.
    Stat. 6, 65), so that where nothing differs, one bin or more is called so in 5 % of all tests at most.

    Parameters
    ----------
    labels, scores, bricks : ndarray
        As of `hpc_galaxy.realism.clustered.clustered_auc`: shape (N,), and scores also (networks, N).
    values : dict of str to ndarray, shape (N,)
        See `quantities`; what is NaN is in no bin.
    permutations, seed : int
        Of the permutation tests.

    Returns
    -------
    list of Bin
        Low values first, quantity by quantity; without those that lack a class or a second brick.
    """
    found = []
    for name, numbers in values.items():
        rows = np.flatnonzero(np.isfinite(numbers))
        for part in _split(numbers[rows]):
            mine = rows[part]
            area = clustered_auc(labels[mine], scores[..., mine], bricks[mine])
            if area is None:
                continue
            p_value = permutation_p(labels[mine], scores[..., mine], bricks[mine], permutations, seed)
            limits = float(numbers[mine].min()), float(numbers[mine].max())
            found.append(Bin(name, *limits, len(mine), area.auc, area.interval(), p_value, p_value))
    adjusted = holm([each.p_value for each in found])
    return [replace(each, adjusted=value) for each, value in zip(found, adjusted, strict=True)]


def _split(numbers: np.ndarray) -> list[np.ndarray]:
    """Return the rows of each bin; equal numbers are in one bin."""
    inner = np.unique(np.quantile(numbers, np.arange(1, BINS) / BINS)) if len(numbers) else np.empty(0)
    place = np.searchsorted(inner, numbers, "left")
    return [np.flatnonzero(place == number) for number in range(len(inner) + 1) if np.any(place == number)]


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number: whichever of them are at most 0.05 are so together with a chance of at most 5 %."""
    order = np.argsort(p_values, kind="stable")
    stepped = np.maximum.accumulate(np.array(p_values, float)[order] * np.arange(len(order), 0, -1))
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(stepped, 1)
    return [float(value) for value in adjusted]


def describe(bins: Sequence[Bin], magnitude: str) -> str:
    """Return in words where fakes are told apart, by the quantity `magnitude`, such as ``g (mag)``; empty where nowhere."""
    mine = [each for each in bins if each.quantity == magnitude]
    apart = [each.is_told_apart for each in mine]
    if not any(apart):
        return ""
    name = magnitude.split()[0]
    if all(apart):
        return "at all magnitudes"
    bright = apart.index(False)
    if bright and not any(apart[bright:]):
        return f"brighter than {name} = {mine[bright - 1].high:.1f}, not fainter"
    faint = len(apart) - apart[::-1].index(False)
    if faint < len(apart) and not any(apart[:faint]):
        return f"fainter than {name} = {mine[faint].low:.1f}, not brighter"
    return "at " + ", ".join(f"{name} = {each.low:.1f} to {each.high:.1f}" for each in mine if each.is_told_apart)
