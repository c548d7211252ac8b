"""A user's own positions on the sky: read, sorted into bricks, and found on coadds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fitsio
import numpy as np

from hpc_galaxy.bricks.geometry import Brick
from hpc_galaxy.bricks.images import header_wcs
from hpc_galaxy.bricks.layout import open_table
from hpc_galaxy.errors import InputError

if TYPE_CHECKING:
    from astropy.table import Table

POSITION_DTYPE = np.dtype([("id", "S48"), ("ra", "<f8"), ("dec", "<f8")])  # degrees
LONGEST_ID = POSITION_DTYPE["id"].itemsize


def read_positions(path: Path) -> np.ndarray:
    """Read a table of positions: CSV with a line of column names, ECSV or FITS, told apart by the suffix.

    Parameters
    ----------
    path : Path
        Has the columns ``id``, ``ra`` and ``dec`` (degrees) in any letter case; others are ignored.

    Returns
    -------
    ndarray, shape (N,), `POSITION_DTYPE`
        In the file's order.

    Raises
    ------
    InputError
        The file is missing or unreadable, lacks a column, or has a row whose id is empty, too long, not printable ASCII or there
        before, or whose position is not on the sphere. Rows are counted from 1, without the line of column names.
    """
    table = _read(path)
    columns = [_column(path, table, name) for name in ("id", "ra", "dec")]
    ids = [_text(value) for value in columns[0]]
    _require_ids(path, ids)
    positions = np.zeros(len(ids), POSITION_DTYPE)
    positions["id"] = [identifier.encode() for identifier in ids]
    positions["ra"] = _numbers(path, "ra", columns[1])
    positions["dec"] = _numbers(path, "dec", columns[2])
    _require(path, "ra", positions["ra"], (positions["ra"] >= 0) & (positions["ra"] < 360), "0 <= ra < 360")
    _require(path, "dec", positions["dec"], np.abs(positions["dec"]) <= 90, "-90 <= dec <= 90")
    return positions


def _read(path: Path) -> Table:
    # A fifth of what a stage reads before it begins, and few have a table of positions.
    from astropy.io import fits
    from astropy.table import Table

    try:
        if path.suffix.lower() == ".csv":
            # As text: an id 007 is not the number 7.
            return Table.read(path, format="ascii.csv", converters={"*": str}, fill_values=None, encoding="utf-8-sig")
        if path.suffix.lower() == ".ecsv":
            return Table.read(path, format="ascii.ecsv")
        if path.exists():
            with open_table(path):
                pass  # astropy believes what a header says of sizes
        with fits.open(path) as hdus:
            hdu = next(hdu for hdu in hdus if isinstance(hdu, fits.BinTableHDU | fits.TableHDU))
            return Table.read(hdu, unit_parse_strict="silent")
    except FileNotFoundError:
        raise InputError(path, "no such file", "set paths.positions to a table with the columns id, ra, dec") from None
    except StopIteration:
        raise InputError(path, "has no FITS table, expected one", "write it again") from None
    except (OSError, ValueError, TypeError, KeyError, MemoryError, fits.VerifyError) as error:  # what astropy says to damaged files
        raise InputError(path, f"not a readable table ({error})", "write it as .csv, .ecsv or .fits") from error


def _column(path: Path, table: Table, name: str) -> np.ndarray:
    """Return a column, whatever its letter case, that has no unset values and no other unit than degrees."""
    found = [other for other in table.colnames if other.lower() == name]
    if len(found) != 1:
        problem = f"has {len(found)} columns {name!r}, expected 1; its columns are {', '.join(table.colnames)}"
        raise InputError(path, problem, "rename its columns to id, ra, dec")
    column = table[found[0]]
    if column.ndim != 1:
        raise InputError(path, f"has {name} of shape {column.shape[1:]} in each row, expected one value", "write one value a row")
    if name != "id" and column.unit is not None and str(column.unit) != "deg":
        raise InputError(path, f"has {name} in {column.unit}, expected deg", "convert it to degrees")
    unset = np.flatnonzero(np.ma.getmaskarray(np.ma.asarray(column)))
    if len(unset):
        raise InputError(path, f"row {unset[0] + 1} has no {name}", "fill it in or remove the row")
    return np.asarray(column)


def _text(value: Any) -> str:
    return (value.decode("latin-1") if isinstance(value, bytes) else str(value)).strip()


def _require_ids(path: Path, ids: list[str]) -> None:
    """Refuse ids that a file of stamps could not hold or tell apart."""
    for row, identifier in enumerate(ids, 1):
        if not (identifier and identifier.isascii() and identifier.isprintable() and len(identifier) <= LONGEST_ID):
            expected = f"expected 1 to {LONGEST_ID} printable ASCII characters"
            raise InputError(path, f"row {row} has the id {identifier!r}, {expected}", "give it another id")
    repeated = next((identifier for identifier, count in Counter(ids).items() if count > 1), None)
    if repeated is not None:
        rows = [str(row) for row, identifier in enumerate(ids, 1) if identifier == repeated]
        raise InputError(path, f"rows {' and '.join(rows[:2])} have the same id {repeated!r}", "give each its own")


def _numbers(path: Path, name: str, values: np.ndarray) -> np.ndarray:
    try:
        return values.astype(np.float64)
    except ValueError:
        row, value = next((row, value) for row, value in enumerate(values, 1) if not _is_number(value))
        raise InputError(path, f"row {row} has the {name} {_text(value)!r}, expected a number", "give it in degrees") from None


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True


def _require(path: Path, name: str, values: np.ndarray, good: np.ndarray, expected: str) -> None:
    bad = np.flatnonzero(~good)  # NaN is never good
    if len(bad):
        raise InputError(path, f"row {bad[0] + 1} has the {name} {values[bad[0]]}, expected {expected}", "correct or remove the row")


def group_by_brick(positions: np.ndarray, bricks: Mapping[str, Brick]) -> dict[str, np.ndarray]:
    """Sort positions into the bricks whose cells they lie in, edges at the lower end included.

    Parameters
    ----------
    positions : structured ndarray, shape (N,)
        With ``ra`` and ``dec``, degrees.
    bricks : mapping of str to Brick
        By name; the cells do not overlap.

    Returns
    -------
    dict of str to ndarray of int
        Rows of `positions` by brick, in the bricks' order of names; rows of positions in no brick are in none of them.
    """
    rows: dict[int, list[Brick]] = {}
    for brick in bricks.values():
        rows.setdefault(brick.row, []).append(brick)
    order = np.argsort(positions["dec"], kind="stable")
    dec = positions["dec"][order]
    groups: dict[str, np.ndarray] = {}
    for cells in rows.values():
        # The cells of a row lie side by side along ra, between the same two declinations.
        low, high = min(cell.dec1 for cell in cells), max(cell.dec2 for cell in cells)
        inside = order[np.searchsorted(dec, low) : np.searchsorted(dec, high)]
        groups |= _group_row(positions, np.sort(inside), sorted(cells, key=lambda cell: cell.ra1))
    return dict(sorted(groups.items()))


def _group_row(positions: np.ndarray, rows: np.ndarray, cells: list[Brick]) -> dict[str, np.ndarray]:
    """Return which of `rows` lie in which cell of a row of bricks."""
    ra, dec = positions["ra"][rows], positions["dec"][rows]
    number = np.searchsorted([cell.ra1 for cell in cells], ra, side="right") - 1
    ra2, dec1, dec2 = (np.array([getattr(cell, name) for cell in cells])[number] for name in ("ra2", "dec1", "dec2"))
    good = (number >= 0) & (ra < ra2) & (dec >= dec1) & (dec < dec2)
    rows, number = rows[good], number[good]
    order = np.argsort(number, kind="stable")
    present, first, counts = np.unique(number[order], return_index=True, return_counts=True)
    slices = [slice(start, start + count) for start, count in zip(first, counts, strict=True)]
    return {cells[index].name: rows[order[part]] for index, part in zip(present, slices, strict=True)}


def pixel_positions(coadd: Path, ra: np.ndarray, dec: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return where positions on the sky lie on a coadd.

    Parameters
    ----------
    coadd : Path
        The FITS file, whose header has the projection.
    ra, dec : ndarray, shape (N,)
        Degrees.

    Returns
    -------
    bx, by : ndarray, shape (N,), float64
        Pixels, 0-indexed; outside the coadd they go on.

    Raises
    ------
    InputError
        The file is unreadable or its header describes no projection.
    """
    return _projected(coadd, "all_world2pix", ra, dec)


def sky_positions(coadd: Path, bx: np.ndarray, by: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return where pixels of a coadd lie on the sky: the inverse of `pixel_positions`, which describes parameters and errors.

    Returns
    -------
    ra, dec : ndarray, shape (N,), float64
        Degrees.
    """
    return _projected(coadd, "all_pix2world", bx, by)


def _projected(coadd: Path, way: str, first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if len(first) == 0:
        return np.zeros(0), np.zeros(0)
    try:
        found = getattr(header_wcs(_image_header(coadd)), way)(first, second, 0)
    except OSError as error:
        raise InputError(coadd, f"not a readable FITS file ({error})", "copy the file again") from error
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise InputError(coadd, f"has no projection of the sky in its header ({error})", "copy the file again") from error
    return np.asarray(found[0]), np.asarray(found[1])


def _image_header(coadd: Path) -> Any:
    with fitsio.FITS(str(coadd)) as hdus:
        images = (hdu for hdu in hdus if hdu.get_exttype() == "IMAGE_HDU" and len(hdu.get_info().get("dims", ())) == 2)
        hdu = next(images, None)
        if hdu is None:
            raise OSError("it has no two-dimensional image")
        return hdu.read_header()
