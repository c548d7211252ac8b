"""Names and places of files in the Legacy Surveys and obiwan layouts."""

from __future__ import annotations

from pathlib import Path

import fitsio
import numpy as np

from hpc_galaxy.bricks.geometry import Brick
from hpc_galaxy.errors import InputError

SUFFIXES = (".fits.fz", ".fits.gz", ".fits")


def coadd_path(root: Path, brick: str, plane: str, band: str, rs: str = "") -> Path:
    """Return where the coadd of a plane (``image``, ``invvar``) and band lies; `rs` names the realisation in obiwan's layout."""
    return root / "coadd" / brick[:3] / brick / rs / f"legacysurvey-{brick}-{plane}-{band}.fits.fz"


def tractor_path(root: Path, brick: str, rs: str = "") -> Path:
    """Return where a brick's Tractor catalog lies."""
    folder = root / "tractor" / brick[:3]
    return (folder / brick / rs if rs else folder) / f"tractor-{brick}.fits"


def truth_path(root: Path, brick: str) -> Path:
    """Return where the synthetic survey keeps a brick's noiseless parameters."""
    return root / "truth" / brick[:3] / f"truth-{brick}.fits"


def obiwan_path(root: Path, brick: str, rs: str, name: str) -> Path:
    """Return where obiwan keeps a table of a realisation; `name` is ``simcat-elg``, ``skippedids-elg`` or ``sim_ids_added``."""
    folder = root / "obiwan" / brick[:3] / brick / rs
    return folder / (f"{name}.fits" if name == "sim_ids_added" else f"{name}-{brick}.fits")


def bricks_path(root: Path) -> Path:
    """Return where the table of bricks lies."""
    return root / "survey-bricks.fits.gz"


def find(path: Path) -> Path:
    """Return `path`, or the same name under another FITS suffix.

    Raises
    ------
    InputError
        None of ``.fits.fz``, ``.fits.gz`` and ``.fits`` is there.
    """
    stem = path.name
    for suffix in SUFFIXES:
        stem = stem.removesuffix(suffix)
    for suffix in SUFFIXES:
        candidate = path.with_name(stem + suffix)
        if candidate.exists():
            return candidate
    raise InputError(path, f"no such file, expected {stem} with one of {', '.join(SUFFIXES)}", "check the paths in the configuration")


def list_bricks(root: Path) -> list[str]:
    """Return the names of the bricks that have a catalog under `root`, sorted.

    Raises
    ------
    InputError
        There is none.
    """
    names = {path.name.removeprefix("tractor-").removesuffix(".fits") for path in root.glob("tractor/*/tractor-*.fits")}
    if not names:
        raise InputError(root / "tractor", "holds no tractor-<brick>.fits", "check [paths] or run 'hpc-galaxy survey'")
    return sorted(names)


def list_injected_bricks(root: Path) -> list[str]:
    """Return the names of the bricks that have a realisation in obiwan's layout, sorted.

    Raises
    ------
    InputError
        There is none.
    """
    names = {path.parent.parent.name for path in root.glob("obiwan/*/*/*rs*/simcat-elg-*.fits")}
    if not names:
        raise InputError(root / "obiwan", "holds no <brick>/rs*/simcat-elg-<brick>.fits", "check paths.obiwan or run 'hpc-galaxy inject'")
    return sorted(names)


def list_realisations(root: Path, brick: str) -> list[str]:
    """Return the realisations (``rs0``, ...) of a brick in obiwan's layout, sorted.

    Raises
    ------
    InputError
        There is none.
    """
    folder = root / "obiwan" / brick[:3] / brick
    names = sorted(path.parent.name for path in folder.glob(f"*rs*/simcat-elg-{brick}.fits"))
    if not names:
        raise InputError(folder, f"holds no rs*/simcat-elg-{brick}.fits", "check paths.obiwan or run 'hpc-galaxy inject'")
    return names


def read_table(path: Path) -> np.ndarray:
    """Read the first table of a FITS file as a structured array of native byte order, column names in lower case.

    Raises
    ------
    InputError
        The file is missing or not a FITS table.
    """
    try:
        table = fitsio.read(str(find(path)), ext=1, lower=True)
    except OSError as error:
        raise InputError(path, f"not a readable FITS table ({error})", "copy the file again") from error
    return np.asarray(table).astype(table.dtype.newbyteorder("="), copy=False)


def write_table(path: Path, table: np.ndarray, extname: str) -> None:
    """Write a structured array as a FITS table under exactly the name `path`."""
    fitsio.write(str(path), table, extname=extname, clobber=True)


def read_bricks(survey: Path) -> dict[str, Brick]:
    """Read ``survey-bricks.fits.gz``: the cells of the sky by name, column names in any letter case.

    Raises
    ------
    InputError
        The table is missing or lacks its columns.
    """
    path = bricks_path(survey)
    table = read_table(path)
    columns = ("brickname", "brickrow", "brickcol", "ra", "dec", "ra1", "ra2", "dec1", "dec2", "brickid")
    absent = [name for name in columns if name not in (table.dtype.names or ())]
    if absent:
        raise InputError(path, f"lacks the columns {', '.join(absent)}", "expected the Legacy Surveys' table of bricks")
    cells = [Brick(str(line["brickname"]).strip(), *(line[name].item() for name in columns[1:])) for line in table]
    return {cell.name: cell for cell in cells}
