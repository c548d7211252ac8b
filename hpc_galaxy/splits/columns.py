"""The columns on which real and fake galaxies are matched: numbers of the source table, and a few derived from them."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence

import numpy as np

from hpc_galaxy.errors import ConfigError, InputError
from hpc_galaxy.shards.schema import LABELS, SOURCE_COLUMNS, StampFormat

DERIVED_OF_BANDS = ("depth",)
ELLIPTICITY = "ellipticity"


def expand_columns(names: Sequence[str], stamps: StampFormat) -> list[str]:
    """Return the single columns that names stand for, each once, in their order.

    Parameters
    ----------
    names : sequence of str
        Floating point columns of the source table; ``mag`` and the like for all bands; ``ellipticity``; ``depth``.
    stamps : StampFormat
        Whose source table it is.

    Raises
    ------
    ConfigError
        There is no such column, or no name at all.
    """
    if not names:
        raise ConfigError("split.match_columns", "is empty, expected names of columns", "name some, or set split.match = 'none'")
    known = _known(stamps)
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
            problem = f"'{name}' is no column to match on, the nearest valid one is '{near}'"
            raise ConfigError("split.match_columns", problem, f"choose among {', '.join(known)}")
    return list(dict.fromkeys(column for name in names for column in known[name]))


def _known(stamps: StampFormat) -> dict[str, list[str]]:
    """Return the columns behind every valid name."""
    dtype = stamps.source_dtype
    single = [name for name in dtype.names or () if dtype[name].kind == "f"]
    of_bands = {name: [f"{name}_{band}" for band in stamps.bands] for name in (*SOURCE_COLUMNS, *DERIVED_OF_BANDS)}
    single += [name for base in DERIVED_OF_BANDS for name in of_bands[base]]
    return of_bands | {name: [name] for name in (*single, ELLIPTICITY)}


def features(table: np.ndarray, columns: Sequence[str]) -> np.ndarray:
    """Return the columns of sources as numbers; what is not known or not finite is NaN.

    Parameters
    ----------
    table : ndarray, shape (N,), `hpc_galaxy.shards.schema.StampFormat.source_dtype`
        Sources.
    columns : sequence of str
        From `expand_columns`. ``ellipticity`` is Tractor's ``|e| = (a - b) / (a + b)``, ``depth_<band>`` the AB magnitude of a point
        source at 5 sigma, not corrected for extinction.

    Returns
    -------
    ndarray, shape (N, number of columns), float32
    """
    out = np.empty((len(table), len(columns)), np.float32)
    for number, name in enumerate(columns):
        out[:, number] = _column(name)(table)
    out[~np.isfinite(out)] = np.nan
    return out


def _column(name: str) -> Callable[[np.ndarray], np.ndarray]:
    if name == ELLIPTICITY:
        return lambda table: np.hypot(table["shape_e1"], table["shape_e2"])
    base, _, band = name.rpartition("_")
    if base in DERIVED_OF_BANDS:
        return lambda table: _depth(table[f"psfdepth_{band}"])
    return lambda table: np.asarray(table[name])


def _depth(psfdepth: np.ndarray) -> np.ndarray:
    """Return the AB magnitude at 5 sigma of 1 / nanomaggies^2, NaN where there is no exposure."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(22.5 - 2.5 * np.log10(5 / np.sqrt(psfdepth.astype(np.float64))))


def require_measured(values: np.ndarray, labels: np.ndarray, columns: Sequence[str]) -> None:
    """Refuse to match on what was never measured.

    Parameters
    ----------
    values, labels, columns : ndarray, shape (N, k); ndarray, shape (N,); sequence of k str
        `features` of sources, whether they are real (0) or fake (1), and the names.

    Raises
    ------
    InputError
        A column has no value in one of the classes, as the files of 2018 have none of anything.
    """
    for name, label in LABELS.items():
        here = values[labels == label]
        missing = [column for column, empty in zip(columns, np.isnan(here).all(axis=0), strict=True) if empty]
        if len(here) and missing:
            problem = f"none of {len(here)} {name} sources has a value of {', '.join(missing)}, which split.match_columns asks for"
            raise InputError("cutouts", problem, "set split.match = 'none', or leave these columns out of split.match_columns")
