"""Do the interval and the p-value of the realism test keep their promise? Many small experiments in which fake and real are alike.

In each, bricks have a seeing and a depth of their own, and real and fake galaxies come from the same generator. A linear classifier on
the pixels is trained on some bricks and scores the galaxies of others. The 95 % interval should hold 0.5 in 95 % of the experiments, and
the permutation test should reject in 5 %. The percentiles of a bootstrap over the bricks are shown beside.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from common import begin
from sklearn.linear_model import LogisticRegression

from hpc_galaxy.auc import bootstrap_auc
from hpc_galaxy.bench.measuring import Log
from hpc_galaxy.realism.clustered import clustered_auc, permutation_p

SIZE = 12  # pixels a side of a stamp
EACH = 12  # galaxies of a class and brick, on average
TRAINING_BRICKS = 15
TEST_BRICKS = (6, 13, 40)
RESAMPLINGS = 500  # of the bootstrap, and permutations
SEED = 1
TARGETS = {"interval holds 0.5": "0.93 to 0.97", "bootstrap holds 0.5": "-", "p-value rejects": "0.03 to 0.07"}


@dataclass(frozen=True)
class Sample:
    """Galaxies of some bricks: pixels of shape (N, SIZE * SIZE), 0 real or 1 fake, and their brick."""

    pixels: np.ndarray
    labels: np.ndarray
    bricks: np.ndarray


def draw(bricks: int, rng: np.random.Generator) -> Sample:
    """Draw real and fake galaxies, unequal numbers a brick, from one generator: round, with the brick's seeing and depth."""
    counts = 1 + rng.poisson(EACH - 1, (bricks, 2))
    labels = np.concatenate([np.repeat([0, 1], pair) for pair in counts])
    member = np.repeat(np.arange(bricks), counts.sum(axis=1))
    seeing, depth = rng.uniform(1.0, 2.0, bricks)[member], rng.uniform(0.5, 2.0, bricks)[member]
    width = np.hypot(seeing, rng.uniform(0.5, 2.5, len(labels)))[:, None, None]
    flux = rng.pareto(2.5, len(labels))[:, None, None] + 1
    y, x = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    light = 40 * flux * np.exp(-(x**2 + y**2) / (2 * width**2)) / width**2
    pixels = light / depth[:, None, None] + rng.normal(size=(len(labels), SIZE, SIZE))
    return Sample(np.arcsinh(pixels).reshape(len(labels), -1), labels, member)


def experiment(bricks: int, seed: int) -> tuple[bool, bool, bool]:
    """Return whether one experiment's interval holds 0.5, whether the bootstrap's does, and whether the p-value rejects."""
    rng = np.random.default_rng((SEED, bricks, seed))
    train, test = draw(TRAINING_BRICKS, rng), draw(bricks, rng)
    scores = LogisticRegression(C=0.01, max_iter=200).fit(train.pixels, train.labels).decision_function(test.pixels)
    found = clustered_auc(test.labels, scores, test.bricks)
    resampled = bootstrap_auc(test.labels, scores, test.bricks, RESAMPLINGS, seed)
    assert found is not None and resampled is not None
    rejects = permutation_p(test.labels, scores, test.bricks, RESAMPLINGS, seed) <= 0.05
    return *(low <= 0.5 <= high for low, high in (found.interval(), resampled)), rejects


def measure(bricks: int, experiments: int, log: Log) -> None:
    """Print how often the promises were kept with so many test bricks."""
    shares = np.mean([experiment(bricks, number) for number in range(experiments)], axis=0)
    print(f"{bricks:6d} {experiments:11d}" + "".join(f"{share:21.3f}" for share in shares))
    for (what, target), share in zip(TARGETS.items(), shares, strict=True):
        log.ratio(f"coverage_{re.sub(r'[^a-z0-9]+', '_', what)}_{bricks}_bricks", float(share), target)


def main() -> None:
    """Run the experiments."""
    quick, log = begin(__doc__)
    experiments = 100 if quick else 1000
    print(f"seed {SEED}; one standard error of a share of 0.05 is {np.sqrt(0.05 * 0.95 / experiments):.3f}")
    print(f"bricks experiments{'':4}" + "".join(f"{what:>21}" for what in TARGETS))
    for bricks in TEST_BRICKS:
        measure(bricks, experiments, log)


if __name__ == "__main__":
    main()
