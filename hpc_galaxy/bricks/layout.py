"""Names and places of files in the Legacy Surveys and obiwan layouts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fitsio
import numpy as np

from hpc_galaxy.bricks.geometry import Brick
from hpc_galaxy.bricks.hdus import most_bytes
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


def lookup(path: Path) -> Path | None:
    """Return `path`, or the same name under another FITS suffix, or None where none of ``.fits.fz``, ``.fits.gz`` and ``.fits`` is there.

    Raises
    ------
    InputError
        It cannot be told whether the file is there.
    """
    stem = path.name
    for suffix in SUFFIXES:
        stem = stem.removesuffix(suffix)
    candidates = [path.with_name(stem + suffix) for suffix in SUFFIXES]
    try:
        return next((candidate for candidate in candidates if candidate.exists()), None)
    except OSError as error:
        raise InputError(path, f"cannot be looked up ({error.strerror})", "check permissions") from error


def find(path: Path) -> Path:
    """Return `path`, or the same name under another FITS suffix.

    Raises
    ------
    InputError
        None of ``.fits.fz``, ``.fits.gz`` and ``.fits`` is there.
    """
    found = lookup(path)
    if found is None:
        raise InputError(path, f"no such file, expected it with one of {', '.join(SUFFIXES)}", "check the paths in the configuration")
    return found


def read_table(path: Path, choose: Callable[[list[str]], list[str]] | None = None) -> np.ndarray:
    """Read the first table of a FITS file as a structured array of native byte order, column names in lower case.

    Parameters
    ----------
    path : Path
        Also found under another FITS suffix.
    choose : callable, optional
        Is given the names of all columns and returns those to read; all are read without it.

    Raises
    ------
    InputError
        The file is missing, has no readable FITS table, or one that does not fit into the memory.
    """
    with open_table(find(path)) as hdu:
        names = [name.lower() for name in hdu.get_colnames()]
        table = hdu.read(columns=choose(names) if choose else names)
    return np.asarray(table).astype(table.dtype.newbyteorder("="), copy=False)


@contextmanager
def open_table(path: Path) -> Iterator[Any]:
    """Open the first table of a FITS file, fitsio's HDU, when what its header says of its size was compared with the bytes there are.

    Raises
    ------
    InputError
        As `read_table`.
    """
    most = most_bytes(path)
    try:
        with fitsio.FITS(str(path), lower=True) as hdus:
            hdu = next((hdu for hdu in hdus if hdu.get_exttype() in ("BINARY_TBL", "ASCII_TBL")), None)
            if hdu is None:
                raise InputError(path, "has no FITS table, expected one", "copy the file again")
            header = hdu.read_header()
            if header.get("ZTABLE"):
                raise InputError(path, "is a compressed table, expected a plain one", "run 'funpack' on it")
            promised = header["NAXIS1"] * header["NAXIS2"]
            if promised > most:
                problem = f"not a readable FITS table (its header promises {promised:,} bytes, the file has at most {most:,})"
                raise InputError(path, problem, "copy the file again")
            yield hdu
    except (OSError, ValueError, MemoryError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(path, f"not a readable FITS table ({reason})", "copy the file again") from error


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
