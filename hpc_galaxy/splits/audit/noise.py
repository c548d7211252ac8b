"""Whether the classes can be told apart by their inverse variances alone, and by what the light of the galaxies does not explain in them.

Where a survey's inverse variances count the photons of galaxies, they are pictures of the galaxies, without noise: they tell how the
light of a faint galaxy truly lies, which its image does not, and by that a population that differs a little from the real one. That is
to be known, but it is no fault of the bookkeeping. Such a fault is what remains when the photons are taken off.
"""

from __future__ import annotations

import warnings

import numpy as np

from hpc_galaxy.shards.schema import LABELS
from hpc_galaxy.splits.audit.examples import Examples
from hpc_galaxy.splits.audit.findings import Finding, judge
from hpc_galaxy.splits.audit.measure import CORE, FEATURES, GRID
from hpc_galaxy.splits.tabular import tabular_auc

MARGIN = 0.02  # of an AUC above 0.5: fewer than some thousand test galaxies a class could not tell it from 0.5
SAMPLE = 50_000  # examples that are judged by: an AUC is then known to 0.003
RESAMPLINGS = 1000
BRIGHT = 10.0  # signal to noise ratio from which a galaxy's photons say how they are counted
FEWEST = 20  # such galaxies


def check_noise_maps(examples: Examples, seed: int) -> list[Finding]:
    """Return the findings on the inverse variances alone, and on what is in them beyond the photons of galaxies."""
    names, planes = ("noise maps", "noise beyond light"), examples.manifest.stamps.planes
    if "invvar" not in planes:
        return [Finding(name, "pass", "no inverse variances in these stamps") for name in names]
    labels = examples.labels
    if not 0 < labels.sum() < len(labels):
        return [Finding(name, "warn", "not known", "an audit needs both classes") for name in names]
    chosen = np.sort(np.argsort(examples.hashes, kind="stable")[:SAMPLE])
    alone = _judge(examples, names[0], examples.sample["invvar"], chosen, seed, "image" not in planes)
    if "image" not in planes:
        return [alone, Finding(names[1], "pass", "no images in these stamps")]
    return [alone, _judge(examples, names[1], beyond_light(examples.sample, labels), chosen, seed, True)]


def _judge(examples: Examples, name: str, features: np.ndarray, chosen: np.ndarray, seed: int, serious: bool) -> Finding:
    """Return what a classifier makes of features; what is not `serious` is at most a warning."""
    numbers = tabular_auc(features[chosen], examples.labels[chosen], examples.groups[chosen], seed, RESAMPLINGS)
    value, interval = numbers["auc"], numbers["interval"]
    if value is None or interval is None:
        advice = f"{numbers.get('reason', 'no reason given')}; audit a set of more bricks, or split it with split.groups = 'tile'"
        return Finding(name, "warn", "AUC not known" if value is None else f"AUC {value:.3f}, no interval", advice, numbers)
    low, high = interval
    found = f"a classifier on them alone has AUC {value:.3f} [{low:.3f}, {high:.3f}]; {len(chosen)} examples"
    return Finding(name, judge(serious and low > 0.5 + MARGIN, low > 0.5), found, ADVICE[serious], numbers)


ADVICE = {
    True: "the classes' inverse variances differ by more than the light of their galaxies; use coadds of the same depth for both, and set "
    "injection.update_invvar by whether the survey's own inverse variances count the photons of galaxies",
    False: "inverse variances tell the classes apart; where the next line passes, that is because they show the galaxies' light without "
    "noise: compare with a network that sees images alone (extract.planes = ['image'])",
}


def beyond_light(sample: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return what the variances of stamps are like when the photons of the light that is seen there are taken off.

    Parameters
    ----------
    sample : ndarray, shape (N,), `hpc_galaxy.splits.audit.measure.Ruler.dtype`
        ``variance`` and ``light``, mean by region of the stamp, band by band; ``invvar`` for the share without data; ``snr``.
    labels : ndarray, shape (N,)
        How photons are counted is learned from the real galaxies.

    Returns
    -------
    ndarray, shape (N, bands x (regions + 2)), float32
        Relative to the sky's variance, the median of the squares around the middle one; with it log10 of its inverse, and the share of
        pixels without data.
    """
    bands = sample["variance"].shape[1]
    rest = sample["variance"] - photons(sample, labels)[:, None] * sample["light"]
    sky = around(rest)
    with np.errstate(divide="ignore", invalid="ignore"):
        relative, level = rest / sky[..., None], -np.log10(sky)
    no_data = sample["invvar"].reshape(len(sample), bands, -1)[..., FEATURES.index("no_data")]
    features = np.concatenate([relative, level[..., None], no_data[..., None]], axis=-1).reshape(len(sample), -1).astype(np.float32)
    return np.where(np.isfinite(features), features, np.float32("nan"))


def photons(sample: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return by how much light raises the variance, shape (bands,), nanomaggies: the inverse of the gain.

    It is about 0 where photons are not counted. The median over bright real galaxies of what the core of the stamp has more of variance
    than the squares around the middle one, by what it has more of light: a large galaxy reaches there as well.
    """
    bright = (labels == LABELS["real"]) & (sample["snr"] > BRIGHT)
    if bright.sum() < FEWEST:
        return np.zeros(sample["variance"].shape[1])
    variance, light = (sample[name][bright][..., :CORE].mean(axis=-1) - around(sample[name][bright]) for name in ("variance", "light"))
    ratio = np.where(light > 0, variance / np.where(light > 0, light, 1), np.nan)
    known = [column[np.isfinite(column)] for column in ratio.T]
    return np.array([np.median(column) if len(column) else 0.0 for column in known])


def around(values: np.ndarray) -> np.ndarray:
    """Return the median over the squares around a stamp's middle one, where there are data, of values by region; shape (N, bands)."""
    squares = np.delete(values[..., -(GRID**2) :], GRID**2 // 2, axis=-1)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice")  # no data anywhere around: NaN
        return np.asarray(np.nanmedian(squares, axis=-1))
