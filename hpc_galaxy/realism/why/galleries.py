"""The galaxies that give the network away: the fakes that it is surest of, and the real ones that it takes for fakes."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import expit

from hpc_galaxy.realism.mosaic import brightness_band
from hpc_galaxy.shards.schema import LABELS, StampFormat

SHOWN = 12  # a gallery
GALLERIES = {"most_fake": LABELS["fake"], "most_fooled": LABELS["real"]}


def choose_galleries(labels: np.ndarray, scores: np.ndarray) -> dict[str, np.ndarray]:
    """Return the rows of each gallery's galaxies, the highest score first; a gallery without galaxies is left out.

    Parameters
    ----------
    labels, scores : ndarray, shape (N,)
        0 real or 1 fake, and what is higher the more fake the network takes a galaxy for.
    """
    found = {}
    for name, label in GALLERIES.items():
        rows = np.flatnonzero(labels == label)
        if len(rows):
            found[name] = rows[np.argsort(-scores[rows], kind="stable")][:SHOWN]
    return found


def list_galaxies(table: np.ndarray, scores: np.ndarray, rows: np.ndarray, stamps: StampFormat) -> list[dict[str, Any]]:
    """Return what is said of the galaxies in some rows, ready for JSON.

    Parameters
    ----------
    table, scores : ndarray, shape (N,)
        The split's table, and the logit of fake minus that of real; ``score`` is its probability.
    rows : ndarray, shape (n,), int
        Which.
    stamps : StampFormat
        Tells the band of ``mag``, see `hpc_galaxy.realism.mosaic.brightness_band`; None where it is not known.
    """
    magnitudes = table[f"mag_{brightness_band(stamps)}"]
    return [
        {
            "id": table["id"][row].decode(errors="replace"),
            "brick": table["brick"][row].decode(errors="replace"),
            "score": float(expit(scores[row])),
            "mag": float(magnitudes[row]) if np.isfinite(magnitudes[row]) else None,
        }
        for row in rows.tolist()
    ]
