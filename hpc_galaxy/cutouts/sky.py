"""The control ``sky``: the places of injected galaxies, and as many places at random, on coadds that nothing was injected into."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hpc_galaxy.bricks.layout import find
from hpc_galaxy.bricks.positions import POSITION_DTYPE, pixel_positions, sky_positions
from hpc_galaxy.bricks.simcat import read_injected
from hpc_galaxy.bricks.views import View, injected_views
from hpc_galaxy.config import Config
from hpc_galaxy.cutouts.choose import Chosen, outlined, stamp_format
from hpc_galaxy.cutouts.sources import positions_table
from hpc_galaxy.cutouts.stamps import inside
from hpc_galaxy.shards.schema import LABELS

STREAM = 4  # see hpc_galaxy.bricks.survey.STREAM
NAMES = {"real": "random", "fake": "sky"}  # what ids begin with


def sky_files(config: Config, view: View) -> dict[str, Path]:
    """Return what the control is made from, by names relative to the trees: the survey's coadds and the tables of what was injected.

    Raises
    ------
    InputError
        A file is missing, or nothing is injected into this brick.
    """
    planes = [view.coadd(plane, band) for plane in config.extract.planes for band in config.extract.bands]
    files = {str(path.relative_to(view.root)): path for path in planes}
    for other in injected_views(config.paths.obiwan, view.brick):
        tables = [find(path) for path in (other.injected, other.added) if path is not None]
        files |= {str(path.relative_to(other.root)): path for path in tables}
    return files


def choose_sky(config: Config, view: View, shape: tuple[int, int], labels: Sequence[str]) -> dict[str, Chosen]:
    """Choose the places of all realisations of a brick.

    Parameters
    ----------
    config : Config
        The stamps, the seed, and where the tables of what was injected are.
    view : View
        The survey's own copy of the brick.
    shape : tuple of int
        Of its coadds, (ny, nx).
    labels : sequence of str
        ``real``: places at random; ``fake``: those of injected galaxies. Those off the coadd are left out, and not replaced.

    Raises
    ------
    InputError
        A table is missing or unreadable.
    """
    coadd = view.coadd(config.extract.planes[0], config.extract.bands[0])
    tables: dict[str, list[np.ndarray]] = {label: [] for label in labels}
    found = 0
    for other in injected_views(config.paths.obiwan, view.brick):
        injected = read_injected(other)
        bx, by = pixel_positions(coadd, injected["ra"], injected["dec"])
        on = inside(bx, by, shape)
        found += len(injected)
        places = {"fake": (bx[on], by[on]), "real": _random_places(config.seed, other, shape, int(on.sum()))}
        for label in labels:
            tables[label].append(_table(config, view.brick, other.rs, label, coadd, *places[label]))
    cut = {label: np.concatenate(parts) for label, parts in tables.items()}
    flows = {"fake": found, "real": len(cut[labels[0]]) if labels else 0}
    return {
        label: outlined(config.extract, shape, table, {"catalog": flows[label], "on_coadd": flows[label] - len(table)}, set())
        for label, table in cut.items()
    }


def _random_places(seed: int, other: View, shape: tuple[int, int], count: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng([seed, STREAM, *f"{other.brick}/{other.rs}".encode()])
    return rng.uniform(-0.5, shape[1] - 0.5, count), rng.uniform(-0.5, shape[0] - 0.5, count)


def _table(config: Config, brick: str, rs: str, label: str, coadd: Path, bx: np.ndarray, by: np.ndarray) -> np.ndarray:
    places = np.zeros(len(bx), POSITION_DTYPE)
    places["id"] = [f"{NAMES[label]}-{rs}-{brick}-{number}".encode() for number in range(len(bx))]
    places["ra"], places["dec"] = sky_positions(coadd, bx, by)
    table = positions_table(places, stamp_format(config.extract), brick, bx, by)
    table["label"] = LABELS[label]
    return table
