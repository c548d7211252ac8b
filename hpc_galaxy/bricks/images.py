"""Coadd planes: read and write, Rice-compressed, in nanomaggies and 1/nanomaggies^2."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fitsio
import numpy as np

from hpc_galaxy.bricks.geometry import TAN, projection
from hpc_galaxy.bricks.hdus import Hdu, check_data_sum, damaged, data_sum, open_bytes, plane_hdu
from hpc_galaxy.bricks.layout import coadd_path, find
from hpc_galaxy.bricks.tiles import decode_tiles, tiled_plane, touched_tiles
from hpc_galaxy.errors import InputError
from hpc_galaxy.files import whole_file
from hpc_galaxy.tracing.spans import Stopwatch

if TYPE_CHECKING:
    from astropy.wcs import WCS

BANDS = ("g", "r", "z")
PLANES = ("image", "invvar")
UNITS = {"image": "nanomaggy", "invvar": "1/nanomaggy^2"}
TILE = (100, 100)
NO_SUM = "0000000000"  # as long as a checksum can be
# Absolute steps of quantisation, the image's about 2 % of the deepest band's sky noise: steps relative to the noise would
# depend on what is in each tile.
QUANTUM = {"image": 1e-4, "invvar": 1e-2}


@dataclass(frozen=True)
class Plane:
    """One plane of a coadd, and what is known of its file.

    Attributes
    ----------
    pixels : ndarray, shape (ny, nx), float32
        As stored: an inverse variance may be negative, a pixel NaN.
    path : Path
        The file.
    bytes : int
        Its size.
    datasum : int or None
        The checksum of the data that the pixels were stored in (FITS keyword DATASUM); None when not all of them were read.
    """

    pixels: np.ndarray
    path: Path
    bytes: int
    datasum: int | None


def read_plane(
    path: Path,
    boxes: np.ndarray | None = None,
    *,
    buffer: np.ndarray | None = None,
    checksum: bool = True,
    watch: Stopwatch | None = None,
) -> Plane:
    """Read one plane, from the first HDU with two-dimensional data.

    Parameters
    ----------
    path : Path
        The file; what it holds counts, not its suffix.
    boxes : ndarray of int, shape (n, 4), optional
        x0, y0, x1, y1 of what is wanted, half-open; they may hang over the edge. All other pixels are undefined.
    buffer : ndarray, optional
        The pixels of an earlier plane, to be overwritten with this one's when they have the same shape.
    checksum : bool
        Whether to read the file whole and compare its checksum with the one it states. Otherwise no more is read than needed.
    watch : Stopwatch, optional
        Times reading and decompressing; without `checksum` they go hand in hand, and are called decompressing.

    Raises
    ------
    InputError
        The file is missing, unreadable or corrupt, or has no two-dimensional image.
    """
    watch = watch or Stopwatch()
    with open_bytes(path, whole=checksum) as source:
        with watch.span("read", detail=path.name):
            if source.size is None:
                source.load()  # what lies where in a gzipped file is known only after all that is before it
            hdu = plane_hdu(source)
            datasum = check_data_sum(source, hdu) if checksum else None
            tiled = tiled_plane(source, hdu)
        with watch.span("decompress", detail=path.name):
            pixels = _room(hdu, buffer)
            if tiled is not None:
                numbers = np.arange(tiled.grid[0] * tiled.grid[1]) if boxes is None else touched_tiles(tiled, boxes)
                decode_tiles(source, tiled, numbers, pixels)
            else:
                pixels[:] = _read_foreign(hdu)
        return Plane(pixels, path, source.disk_size, datasum)


def plane_shape(path: Path) -> tuple[int, int]:
    """Return the shape (ny, nx) of the plane in a file, of which no more than headers is read.

    Raises
    ------
    InputError
        The file is missing or unreadable, or has no two-dimensional image.
    """
    with open_bytes(path, whole=False) as source:
        return plane_hdu(source).shape


def _room(hdu: Hdu, buffer: np.ndarray | None) -> np.ndarray:
    if buffer is not None and buffer.shape == hdu.shape and buffer.dtype == np.float32 and buffer.flags.carray:
        return buffer
    return np.empty(hdu.shape, np.float32)


def _read_foreign(hdu: Hdu) -> np.ndarray:
    """Read what the compiled decoder does not: other compressions, integers, images that are not compressed."""
    try:
        with fitsio.FITS(str(hdu.path)) as hdus:
            pixels = np.asarray(hdus[hdu.index].read())
    except (OSError, ValueError, TypeError, LookupError, ArithmeticError, RuntimeError) as error:
        raise damaged(hdu.path, str(error)) from error  # fitsio trusts headers, and stumbles anywhere
    if pixels.shape != hdu.shape:
        raise damaged(hdu.path, f"HDU {hdu.index} holds pixels of shape {pixels.shape}, expected {hdu.shape}")
    with np.errstate(over="ignore"):  # what does not fit becomes infinite
        return pixels.astype(np.float32, copy=False)


def read_planes(root: Path, brick: str, rs: str = "") -> dict[str, np.ndarray]:
    """Read image and inverse variance of every band, ``image_g`` to ``invvar_z``, each of shape (ny, nx), float32.

    An inverse variance is never negative: lossy decompression can make it so (legacypipe issue 530).

    Raises
    ------
    InputError
        A plane is missing or unreadable, has another shape than the others, or pixels that are no numbers.
    """
    names = {f"{plane}_{band}": find(coadd_path(root, brick, plane, band, rs)) for plane in PLANES for band in BANDS}
    planes = {name: read_plane(path).pixels for name, path in names.items()}
    where = coadd_path(root, brick, "image", "g", rs).parent
    shapes = {name: pixels.shape for name, pixels in planes.items()}
    if len(set(shapes.values())) > 1:
        raise InputError(where, f"planes differ in shape: {shapes}, expected one", "copy them again")
    for name, pixels in planes.items():
        bad = pixels.size - int(np.isfinite(pixels).sum())
        if bad:
            raise InputError(where, f"{name} has {bad} pixels that are no numbers, expected 0", "copy it again")
        if name.startswith("invvar"):
            np.maximum(pixels, 0, out=pixels)
    return planes


def read_header(root: Path, brick: str, plane: str, band: str) -> Any:
    """Read the header of one of the survey's own coadds."""
    path = find(coadd_path(root, brick, plane, band))
    with open_bytes(path, whole=False) as source:
        index = plane_hdu(source).index
    return fitsio.read_header(str(path), ext=index)


def write_plane(root: Path, brick: str, plane: str, band: str, data: np.ndarray, header: Any, rs: str = "") -> None:
    """Write one coadd plane as the Legacy Surveys do: Rice with 100 x 100 tiles and dither, data in HDU 1, with their checksum.

    Parameters
    ----------
    data : ndarray, shape (ny, nx), float32
        Pixels.
    header : fitsio.FITSHDR or list of dict
        Keywords to store.
    """
    with whole_file(coadd_path(root, brick, plane, band, rs)) as temporary:
        with fitsio.FITS(str(temporary), "rw", clobber=True) as file:
            file.write(
                np.ascontiguousarray(data, dtype=np.float32),
                header=header,
                compress="RICE",
                tile_dims=TILE,
                qlevel=-QUANTUM[plane],  # negative: an absolute step
                qmethod="SUBTRACTIVE_DITHER_2",
                dither_seed=1,
            )
            file[-1].write_key("DATASUM", NO_SUM, "data unit checksum")
        _write_sum(temporary)


def _write_sum(path: Path) -> None:
    """Put the checksum of its data in a file. CFITSIO's own would come with the date, and no two files would be alike."""
    with open_bytes(path, whole=True) as source:
        hdu = plane_hdu(source)
        header = source.read(0, hdu.start).tobytes()
        place = header.index(NO_SUM.encode(), header.rindex(b"DATASUM ="))
        total = data_sum(source, hdu)
    with open(path, "r+b") as file:
        file.seek(place)
        file.write(str(total).ljust(len(NO_SUM)).encode())


def wcs_header(wcs: WCS, brick: str, plane: str, band: str) -> list[dict[str, Any]]:
    """Return the header of a coadd: its projection, its brick, band and units."""
    crpix, crval, cd = wcs.wcs.crpix, wcs.wcs.crval, wcs.wcs.cd
    values = {
        "CTYPE1": TAN[0],
        "CTYPE2": TAN[1],
        "CUNIT1": "deg",
        "CUNIT2": "deg",
        "CRVAL1": crval[0],
        "CRVAL2": crval[1],
        "CRPIX1": crpix[0],
        "CRPIX2": crpix[1],
        "CD1_1": cd[0, 0],
        "CD1_2": cd[0, 1],
        "CD2_1": cd[1, 0],
        "CD2_2": cd[1, 1],
        "BRICKNAM": brick,
        "FILTER": band,
        "MAGZERO": 22.5,
        "BUNIT": UNITS[plane],
    }
    return [{"name": name, "value": value} for name, value in values.items()]


def header_wcs(header: Any) -> WCS:
    """Return the TAN projection that a coadd's header describes."""
    ctype, crval, crpix = ([header[f"{name}1"], header[f"{name}2"]] for name in ("CTYPE", "CRVAL", "CRPIX"))
    cd = np.array([[header["CD1_1"], header["CD1_2"]], [header["CD2_1"], header["CD2_2"]]])
    return projection([axis.strip() for axis in ctype], crval, crpix, cd)
