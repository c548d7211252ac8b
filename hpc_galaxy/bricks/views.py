"""Which bricks a tree holds, and where the files of a brick are, whatever the layout. Layouts are recognised from the folders.

=============  =====================================================================================================
the survey's   ``{tractor,coadd}``, or ``{north,south}/{tractor,coadd}``: a brick at the seam is in both
obiwan's       ``{obiwan,tractor,coadd}/<AAA>/<brick>/<rs>/``, rs = ``rsN``, ``skip_rsN``, ``more_rsN``, ``more_skip_rsN``
legacysim's    ``file<F>_rs<R>_skip<S>/{sim,tractor,coadd}/<AAA>/...``
=============  =====================================================================================================
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hpc_galaxy.bricks.layout import coadd_path, find, lookup, obiwan_path, tractor_path
from hpc_galaxy.errors import InputError

REGIONS = ("", "north", "south")
BRICK = re.compile(r"([0-9]{4}[mp][0-9]{3})")
CATALOG = re.compile(r"tractor-([0-9]{4}[mp][0-9]{3})\.fits(\.gz|\.fz)?")
INJECTED = re.compile(r"injected-([0-9]{4}[mp][0-9]{3})\.fits(\.gz|\.fz)?")
OBIWAN_RS = re.compile(r"(more_)?(skip_)?rs([0-9]+)")
LEGACYSIM_RS = re.compile(r"file([0-9]+)_rs([0-9]+)_skip([0-9]+)")


@dataclass(frozen=True)
class View:
    """One copy of a brick: its catalog, its coadds, and what was injected into them.

    Attributes
    ----------
    brick : str
        Its name.
    rs : str
        The realisation, which names the folder; empty for the survey's own.
    root : Path
        The tree that all its files are in, as it was given.
    catalog : Path
        Tractor's. It may be missing, which `files` and whoever reads it report.
    coadds : Path
        The folder of the coadds.
    injected : Path, optional
        obiwan's ``simcat`` or legacysim's ``injected`` table.
    added : Path, optional
        obiwan's ``sim_ids_added``: the rows of `injected` that really were.
    """

    brick: str
    rs: str
    root: Path
    catalog: Path
    coadds: Path
    injected: Path | None = None
    added: Path | None = None

    def coadd(self, plane: str, band: str) -> Path:
        """Return where the coadd of a plane (``image``, ``invvar``) and band lies.

        Raises
        ------
        InputError
            It is missing.
        """
        return find(self.coadds / coadd_path(self.root, self.brick, plane, band).name)

    def files(self, planes: Sequence[str], bands: Sequence[str]) -> list[Path]:
        """Return all files that are read for these planes and bands: the catalog, the tables of what was injected, the coadds.

        Raises
        ------
        InputError
            One is missing.
        """
        tables = [find(path) for path in (self.catalog, self.injected, self.added) if path is not None]
        return [*tables, *[self.coadd(plane, band) for plane in planes for band in bands]]


def list_bricks(root: Path) -> list[str]:
    """Return the names of the bricks that have a catalog in the survey's own layout under `root`, sorted.

    Raises
    ------
    InputError
        There is none.
    """
    names = {name for region in REGIONS for name in _listed(root / region / "tractor", CATALOG)}
    if not names:
        raise InputError(root / "tractor", "holds no tractor-<brick>.fits", "check [paths] or run 'hpc-galaxy survey'")
    return sorted(names)


def list_without_catalog(root: Path) -> list[str]:
    """Return the names of the bricks that have a folder of coadds in the survey's own layout and no catalog, sorted."""
    coadds = {name for region in REGIONS for name in _listed(root / region / "coadd", BRICK, directories=True)}
    return sorted(coadds - {name for region in REGIONS for name in _listed(root / region / "tractor", CATALOG)})


def list_injected_bricks(root: Path) -> list[str]:
    """Return the names of the bricks of which `root` has copies in the layout of obiwan or legacysim, sorted.

    Raises
    ------
    InputError
        There is none.
    """
    names = set(_listed(root / "obiwan", BRICK, directories=True))
    for folder in _folders(root, LEGACYSIM_RS):
        names.update(_listed(root / folder / "sim", INJECTED))
    if not names:
        expected = "obiwan/<AAA>/<brick>/ or file<F>_rs<R>_skip<S>/sim/<AAA>/injected-<brick>.fits"
        raise InputError(root, f"holds no {expected}", "check paths.obiwan or run 'hpc-galaxy inject'")
    return sorted(names)


def survey_views(root: Path, brick: str) -> list[View]:
    """Return a brick in the survey's own layout: one view, or two where north and south both have it.

    Raises
    ------
    InputError
        There is neither a catalog nor a folder of coadds of it.
    """
    views = []
    for region in REGIONS:
        catalog, coadds = tractor_path(root / region, brick), coadd_path(root / region, brick, "image", "g").parent
        found = lookup(catalog)
        # Where one of the two is missing the view is there all the same, so that this is reported.
        if found or coadds.is_dir():
            views.append(View(brick, "", root, found or catalog, coadds))
    if not views:
        raise InputError(tractor_path(root, brick), "no such file, nor one in north or south", "check paths.survey")
    return views


def injected_views(root: Path, brick: str) -> list[View]:
    """Return the copies of a brick with something injected, in the layout of obiwan or legacysim.

    Returns
    -------
    list of View
        In natural order (``rs2`` before ``rs10``); in obiwan's, the initial runs before those of skipped and of further
        galaxies.

    Raises
    ------
    InputError
        There is none.
    """
    views = [_obiwan_view(root, brick, rs) for rs in _folders(root / "obiwan" / brick[:3] / brick, OBIWAN_RS)]
    for rs in _folders(root, LEGACYSIM_RS):
        injected = lookup(root / rs / "sim" / brick[:3] / f"injected-{brick}.fits")
        if injected:
            views.append(_legacysim_view(root, brick, rs, injected))
    if not views:
        problem = f"holds no folder rs*, skip_rs*, more_rs* or more_skip_rs*, and {root} no file*_rs*_skip* with this brick"
        raise InputError(root / "obiwan" / brick[:3] / brick, problem, "check paths.obiwan or run 'hpc-galaxy inject'")
    return views


def _obiwan_view(root: Path, brick: str, rs: str) -> View:
    catalog, coadds = tractor_path(root, brick, rs), coadd_path(root, brick, "image", "g", rs).parent
    simcat, added = (obiwan_path(root, brick, rs, name) for name in ("simcat-elg", "sim_ids_added"))
    return View(brick, rs, root, lookup(catalog) or catalog, coadds, simcat, added)


def _legacysim_view(root: Path, brick: str, rs: str, injected: Path) -> View:
    catalog = tractor_path(root / rs, brick)
    return View(brick, rs, root, lookup(catalog) or catalog, coadd_path(root / rs, brick, "image", "g").parent, injected)


def _names(folder: Path, directories: bool) -> list[str]:
    """Return what a folder holds, nothing where it is missing; no file is looked at, which matters for 200,000 bricks."""
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries if not directories or entry.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise InputError(folder, f"cannot be listed ({error.strerror})", "check permissions") from error


def _listed(folder: Path, pattern: re.Pattern[str], directories: bool = False) -> Iterator[str]:
    """Return the bricks that the entries of the folders <AAA> of a folder are named after."""
    for part in _names(folder, True):
        for name in _names(folder / part, directories):
            match = pattern.fullmatch(name)
            if match and match[1][:3] == part:
                yield match[1]


def _folders(folder: Path, pattern: re.Pattern[str]) -> list[str]:
    """Return the folders whose whole name `pattern` matches, naturally sorted."""
    return sorted((name for name in _names(folder, True) if pattern.fullmatch(name)), key=lambda name: (_order(pattern, name), name))


def _order(pattern: re.Pattern[str], name: str) -> list[int]:
    """Return the numbers in a name, and 0 or 1 for each prefix that is absent or there."""
    match = pattern.fullmatch(name)
    return [int(part) if part.isdigit() else 1 for part in match.groups(default="0")] if match else []
