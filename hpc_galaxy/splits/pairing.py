"""By what real and fake galaxies are paired: the logit of the propensity score, fitted to a sample and known to every rank."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from hpc_galaxy.config import Config
from hpc_galaxy.shards.manifest import SPLITS
from hpc_galaxy.splits.balance import Sample, balance_report
from hpc_galaxy.splits.columns import require_measured
from hpc_galaxy.splits.groups import WORD
from hpc_galaxy.splits.sources import SOURCE, Sources, codes
from hpc_galaxy.splits.tabular import fit_cross, spread
from hpc_galaxy.world import World

BLOCK = 1 << 20  # places that are looked at together, 8 MB
SAMPLE = 50_000  # sources of each split that the score is fitted to, and the balance is measured with


@dataclass(frozen=True)
class Pairing:
    """The fitted score.

    Attributes
    ----------
    model : CrossFit or None
        None without matching.
    width : float
        The caliper, in units of the logit.
    table, features : ndarray, shapes (n,), `SOURCE`, and (n, k), float32
        The sample, on rank 0.
    """

    model: Any = None
    width: float = 0.0
    table: np.ndarray = field(default_factory=lambda: np.empty(0, SOURCE))
    features: np.ndarray = field(default_factory=lambda: np.empty((0, 0), np.float32))

    def logit(self, features: np.ndarray, table: np.ndarray) -> np.ndarray:
        """Return the score of sources, shape (n,), from trees that never saw their sky groups; 0 without matching."""
        return np.zeros(len(table)) if self.model is None else np.asarray(self.model.logit(features, table["group"], table["side"]))

    def balance(self, config: Config, columns: list[str], kept: Iterable[np.ndarray]) -> dict[str, Any]:
        """Return how well the classes are balanced before and after matching, on rank 0, ready for JSON.

        Parameters
        ----------
        config : Config
            Caliper and seed.
        columns : list of str
            Names of the features.
        kept : iterable of ndarray, shape (n,), `hpc_galaxy.splits.sources.PLACE`
            Where the sources are that stayed.
        """
        stayed = stayed_of(self.table, kept)
        before, after = self._sample(np.ones(len(stayed), bool)), self._sample(stayed)
        return balance_report(before, after, columns, config.split.caliper, config.seed)

    def _sample(self, rows: np.ndarray) -> Sample:
        table = self.table[rows]
        return Sample(self.features[rows], table["label"], table["group"], table["side"])


def stayed_of(table: np.ndarray, kept: Iterable[np.ndarray]) -> np.ndarray:
    """Return which rows of `table` are among the places `kept`, shape (n,), bool.

    A block of these at a time: sorting all of a large survey's, as `numpy.isin` does, would take rank 0 six times the memory of the plan.

    Parameters
    ----------
    table : ndarray, shape (n,), with the columns ``file`` and ``row``
        Each place once.
    kept : iterable of ndarray, shape (m,), `hpc_galaxy.splits.sources.PLACE`
        Any number of places.
    """
    wanted = codes(table)
    order = np.argsort(wanted)
    ordered, stayed = wanted[order], np.zeros(len(wanted), bool)
    for part in kept:
        for start in range(0, len(part) if len(wanted) else 0, BLOCK):
            block = codes(part[start : start + BLOCK])
            place = np.minimum(np.searchsorted(ordered, block), len(ordered) - 1)
            stayed[order[place[ordered[place] == block]]] = True
    return stayed


def fit_pairing(config: Config, world: World, sources: Sources) -> Pairing:
    """Fit the score on rank 0, to the sources with the smallest hashes. Collective."""
    if config.split.match == "none":
        return Pairing()
    table, features = _gather_sample(world, sources)
    pairing = Pairing()
    if world.is_root:
        require_measured(features, table["label"], sources.columns)
        model = fit_cross(features, table["label"], table["group"], config.seed, config.split.caliper, table["side"])
        pairing = Pairing(model, 0.0, table, features)
        pairing = replace(pairing, width=config.split.caliper * spread(pairing.logit(features, table), table["label"]))
    model, width = world.bcast((pairing.model, pairing.width))
    return pairing if world.is_root else Pairing(model, width)


def _gather_sample(world: World, sources: Sources) -> tuple[np.ndarray, np.ndarray]:
    """Gather the sample on rank 0, ordered by hash. Collective."""
    side = sources.table["side"]
    counts = world.sum(np.bincount(side[sources.kept()], minlength=len(SPLITS)))
    limits = np.array([min(2**64 - 1, int(WORD * SAMPLE / max(1, count))) for count in counts.tolist()], np.uint64)
    chosen = sources.kept() & (sources.table["order"] <= limits[side])
    tables, features = world.gather(sources.table[chosen]), world.gather(sources.features[chosen])
    if not world.is_root:
        return sources.table[:0], sources.features[:0]
    table = np.concatenate(tables)
    order = np.lexsort((table["row"], table["file"], table["order"]))
    return table[order], np.concatenate(features)[order]
