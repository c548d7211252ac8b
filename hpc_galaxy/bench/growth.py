"""How time or memory grows with the size of a job: a power law with its interval, and what it says of sizes that do not fit here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.optimize import nnls
from scipy.stats import f as f_distribution

LEVEL = 0.95
STEEPEST, STEP = 4.0, 0.005
LEAST_SIZES = 4  # three numbers are fitted, and something has to be left that tells how well


@dataclass(frozen=True)
class Growth:
    """``fixed + factor * size ** exponent``, fitted to measured values.

    Attributes
    ----------
    sizes, values : ndarray, shape (n,)
        What was measured, by increasing size.
    fixed, factor, exponent : float
        Of the law; `fixed` and `factor` are not negative.
    low, high : float
        The exponent's 95 % interval.
    """

    sizes: np.ndarray
    values: np.ndarray
    fixed: float
    factor: float
    exponent: float
    low: float
    high: float

    def at(self, size: float) -> float:
        """Return the value at `size` by the law, in the unit of the values."""
        return float(self.fixed + self.factor * size**self.exponent)


def fit_growth(sizes: Sequence[float], values: Sequence[float]) -> Growth:
    """Fit a power law on top of what is the same at every size, as the start of a program is.

    All values count alike relative to themselves: what is minimised is the sum of the squares of (law / value - 1). The interval is
    the profile likelihood's (Bates & Watts 1988, Nonlinear Regression Analysis, sect. 6.1): all exponents whose best law is
    not significantly worse than the best of all.

    Parameters
    ----------
    sizes, values : sequence of float, the same number, at least `LEAST_SIZES`
        Positive; the sizes all different.

    Raises
    ------
    ValueError
        They are not like that.
    """
    points = sorted(zip(map(float, sizes), map(float, values), strict=False))
    x, y = np.array(points).reshape(-1, 2).T
    if len(sizes) != len(values) or len(x) < LEAST_SIZES or not (np.diff(x) > 0).all() or not min(x[0], y.min()) > 0:
        expected = f"expected {LEAST_SIZES} or more positive ones, and sizes all different"
        raise ValueError(f"got sizes {list(sizes)} and values {list(values)}, {expected}")
    exponents = np.arange(0, STEEPEST + STEP, STEP)
    laws = [_law(x / x[-1], y, exponent) for exponent in exponents]
    residuals = np.array([residual for *_, residual in laws])
    best = int(residuals.argmin())
    free = len(x) - 3
    allowed = (residuals[best] + _rounding(x)) * (1 + float(f_distribution.ppf(LEVEL, 1, free)) / free)
    within = exponents[residuals <= allowed]
    fixed, factor, _ = laws[best]
    exponent = float(exponents[best])
    return Growth(x, y, fixed, factor / float(x[-1]) ** exponent, exponent, float(within[0]), float(within[-1]))


def _law(x: np.ndarray, y: np.ndarray, exponent: float) -> tuple[float, float, float]:
    """Return the best fixed part and factor for an exponent, neither negative, and the sum of the squares that is left."""
    terms = np.stack([np.ones_like(x), x**exponent], axis=1) / y[:, None]
    (fixed, factor), left = nnls(terms, np.ones_like(y))
    return float(fixed), float(factor), float(left) ** 2


def _rounding(x: np.ndarray) -> float:
    """Return what sum of squares is as good as nothing: the exponents tried are `STEP` apart."""
    return len(x) * (STEP * float(np.log(x[-1] / x[0]))) ** 2 / 12


def draw_growth(curves: dict[str, dict[str, Growth]], full: dict[str, float], path: Path) -> None:
    """Draw laws and what they were fitted to, in logarithmic axes, one panel for each thing that grows.

    Parameters
    ----------
    curves : dict of str to dict of str to Growth
        By panel, whose name is the horizontal axis's, such as ``bricks``; then by curve. Values named ``... [MB]`` are megabytes, all
        others seconds.
    full : dict of str to float
        The size up to which each panel is drawn.
    path : Path
        The PNG.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(7, 4.6 * len(curves)), 11), layout="constrained")
    panels = figure.subplots(2, len(curves), squeeze=False)
    for column, (what, laws) in enumerate(curves.items()):
        for row, unit in enumerate(("seconds", "MB")):
            axes = panels[row, column]
            shown = {name: law for name, law in laws.items() if name.endswith("[MB]") == (unit == "MB")}
            for colour, (name, law) in enumerate(shown.items()):
                x = np.geomspace(law.sizes[0], max(full[what], law.sizes[-1]), 100)
                label = f"{name.removesuffix(' [MB]')}: {law.exponent:.2f} [{law.low:.2f}, {law.high:.2f}]"
                axes.loglog(law.sizes, law.values, "o", color=f"C{colour}", markersize=4)
                axes.loglog(x, [law.at(size) for size in x], "-", color=f"C{colour}", label=label, linewidth=1)
            axes.set(xlabel=what, ylabel="time, seconds" if unit == "seconds" else "memory or file, MB")
            if not shown:
                axes.text(0.5, 0.5, "nothing that grows", ha="center", transform=axes.transAxes)
                axes.set(xticks=[], yticks=[])
                continue
            axes.axvline(full[what], color="0.6", linestyle=":")
            place = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.12)}
            axes.legend(frameon=False, fontsize=7, title="exponent [95 %]", title_fontsize=7, **place)
    figure.supxlabel("points: measured; lines: fixed + factor x size^exponent; dotted: full size", fontsize=9)
    figure.savefig(path, dpi=110)
