"""What simpler classifiers make of the same galaxies: the catalog's columns, the centroid, the light profile, the noise, linear on pixels.

If one of them does as well as the network, then the network has seen no more than that. If one of them does better, then the network has
learned too little, of which there are always too few galaxies to be sure, and the verdict is that one's (`hpc_galaxy.realism.verdict`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpc_galaxy.realism.clustered import clustered_auc, permutation_p
from hpc_galaxy.realism.measures import fine_scatter, light_profile
from hpc_galaxy.realism.pixels import pixel_scatter, plane_of
from hpc_galaxy.shards.manifest import SHARD_SIZE
from hpc_galaxy.shards.numpy_shards import SplitReader
from hpc_galaxy.shards.schema import StampFormat
from hpc_galaxy.splits.audit.measure import centroids, positions
from hpc_galaxy.splits.columns import expand_columns, features
from hpc_galaxy.splits.tabular import fit_trees, one_thread, score

LINEAR = "linear on pixels"
COLUMNS = ("mag", "shape_r", "ellipticity", "psfsize", "depth")
MOST = 20_480  # examples that are learned from, and that are asked about; whole shards, drawn
SIDE = 32  # pixels of the middle of a stamp that the linear one sees, averaged in squares of 2 x 2
PENALTY = 1e-3  # scikit-learn's C


@dataclass(frozen=True)
class Baseline:
    """How well a simple classifier does.

    Attributes
    ----------
    name : str
        What it sees.
    examples : int
        Test galaxies that it was asked about.
    auc, interval : float, (float, float)
        With its 95 % interval by bricks.
    p_value : float
        Of the permutation test.
    """

    name: str
    examples: int
    auc: float
    interval: tuple[float, float]
    p_value: float


@dataclass(frozen=True)
class Measured:
    """What the baselines see of some galaxies: labels and bricks, and for each baseline its numbers, shape (n, features)."""

    labels: np.ndarray
    bricks: np.ndarray
    numbers: dict[str, np.ndarray]


def run_baselines(train: SplitReader, test: SplitReader, permutations: int, seed: int) -> list[Baseline]:
    """Return how well classifiers do that see the catalog, the centroid, the light profile, the noise, or pixels linearly.

    Parameters
    ----------
    train, test : SplitReader
        They learn from the first and are asked about the second; of large ones, from `MOST` examples.
    permutations, seed : int
        Of the permutation test; the seed also draws the shards.

    Returns
    -------
    list of Baseline
        The simplest first; without those for which there is no error to be had.
    """
    learned, asked = measure(train, seed), measure(test, seed)
    found = []
    for name in learned.numbers:
        fit = _linear if name == LINEAR else _trees
        scores = fit(learned.numbers[name], learned.labels, seed)(asked.numbers[name])
        area = clustered_auc(asked.labels, scores, asked.bricks)
        if area is not None:
            p_value = permutation_p(asked.labels, scores, asked.bricks, permutations, seed)
            found.append(Baseline(name, len(scores), area.auc, area.interval(), p_value))
    return found


def measure(reader: SplitReader, seed: int) -> Measured:
    """Measure what the baselines see, of whole shards that are drawn until there are `MOST` examples."""
    drawn = np.random.default_rng(seed).permutation(len(reader.shards))[: MOST // SHARD_SIZE]
    parts = [_measure_shard(reader, int(number)) for number in np.sort(drawn)]
    numbers = {name: np.concatenate([part.numbers[name] for part in parts]) for name in parts[0].numbers}
    return Measured(np.concatenate([part.labels for part in parts]), np.concatenate([part.bricks for part in parts]), numbers)


def _measure_shard(reader: SplitReader, number: int) -> Measured:
    table, stamps = reader.shard_table(number), reader.stamp_format
    catalog = features(table, expand_columns(COLUMNS, stamps))
    numbers = {"catalog": catalog}
    if "image" in stamps.planes:
        pixels = reader.stamps(np.arange(number * SHARD_SIZE, number * SHARD_SIZE + len(table)))
        image, noise = plane_of(pixels, "image", stamps), pixel_scatter(plane_of(pixels, "image", stamps))
        position = positions(table, stamps.size)
        x, y, snr = centroids(image, position, noise.tolist())
        numbers["centroid"] = np.stack([x, y, snr], axis=1).astype(np.float32)
        # How a profile or its noise should look depends on the galaxy and the seeing, which the catalog tells.
        numbers["light profile"] = np.concatenate([light_profile(image, position), catalog], axis=1)
        numbers["noise"] = np.concatenate([fine_scatter(image, _variance(pixels, stamps, noise)), catalog], axis=1)
        numbers[LINEAR] = _shrink(np.arcsinh(image / noise.astype(np.float32)))
    return Measured(reader.shard_labels(number), table["brick"], numbers)


def _variance(pixels: np.ndarray, stamps: StampFormat, noise: np.ndarray) -> np.ndarray:
    """Return the variance of stamps' images, NaN where there are no data; without inverse variances that of the sky, by band."""
    if "invvar" in stamps.planes:
        invvar = plane_of(pixels, "invvar", stamps)
        return np.divide(1, invvar, out=np.full_like(invvar, np.nan), where=invvar > 0)
    return np.where(plane_of(pixels, "image", stamps) == 0, np.nan, noise**2).astype(np.float32)


def _shrink(image: np.ndarray) -> np.ndarray:
    """Return the middle of stamps, averaged in squares of 2 x 2 pixels, as rows of numbers."""
    side = min(SIDE, image.shape[1])
    first = (image.shape[1] - side) // 2
    middle = image[:, first : first + side, first : first + side]
    return middle.reshape(len(image), side // 2, 2, side // 2, 2, -1).mean(axis=(2, 4)).reshape(len(image), -1)


Scorer = Callable[[np.ndarray], np.ndarray]


def _trees(numbers: np.ndarray, labels: np.ndarray, seed: int) -> Scorer:
    model = fit_trees(numbers, labels, seed)
    return lambda asked: score(model, asked)


def _linear(numbers: np.ndarray, labels: np.ndarray, seed: int) -> Scorer:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if len(np.unique(labels)) < 2:
        return lambda asked: np.zeros(len(asked))
    model: Any = make_pipeline(StandardScaler(), LogisticRegression(C=PENALTY, max_iter=500, random_state=seed % 2**32))
    with one_thread():
        model.fit(numbers, labels)
    return lambda asked: np.asarray(model.decision_function(asked))


def ladder(baselines: list[Baseline]) -> Iterator[str]:
    """Yield a line for each, as text."""
    for each in baselines:
        low, high = each.interval
        yield f"  {each.name:18}AUC {each.auc:.3f} [{low:.3f}, {high:.3f}], p = {each.p_value:.2g}"
