"""Coadd planes: read and write, Rice-compressed, in nanomaggies and 1/nanomaggies^2."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fitsio
import numpy as np
from astropy.wcs import WCS

from hpc_galaxy.bricks.layout import coadd_path, find
from hpc_galaxy.errors import InputError
from hpc_galaxy.files import whole_file

BANDS = ("g", "r", "z")
PLANES = ("image", "invvar")
UNITS = {"image": "nanomaggy", "invvar": "1/nanomaggy^2"}
TILE = (100, 100)
# Absolute steps of quantisation, the image's about 2 % of the deepest band's sky noise: steps relative to the noise would
# depend on what is in each tile.
QUANTUM = {"image": 1e-4, "invvar": 1e-2}


def read_plane(root: Path, brick: str, plane: str, band: str, rs: str = "") -> np.ndarray:
    """Read one coadd plane.

    Parameters
    ----------
    root, brick, rs : Path, str, str
        Which tree, brick and realisation.
    plane, band : str
        ``image`` or ``invvar``; ``g``, ``r`` or ``z``.

    Returns
    -------
    ndarray, shape (ny, nx), float32
        An inverse variance is never negative: lossy decompression can make it so (legacypipe issue 530).

    Raises
    ------
    InputError
        The file is missing, unreadable, or has no two-dimensional image.
    """
    path = find(coadd_path(root, brick, plane, band, rs))
    try:
        with fitsio.FITS(str(path)) as hdus:
            data = next((hdu.read() for hdu in hdus if _is_image(hdu)), None)
    except OSError as error:
        raise InputError(path, f"not a readable FITS file ({error})", "copy the file again") from error
    if data is None:
        raise InputError(path, "has no two-dimensional image, expected one", "copy the file again")
    pixels = np.asarray(data, dtype=np.float32)
    return np.maximum(pixels, 0, out=pixels) if plane == "invvar" else pixels


def read_planes(root: Path, brick: str, rs: str = "") -> dict[str, np.ndarray]:
    """Read image and inverse variance of every band, ``image_g`` to ``invvar_z``, each of shape (ny, nx), float32.

    Raises
    ------
    InputError
        A plane is missing or unreadable, has another shape than the others, or pixels that are no numbers.
    """
    planes = {f"{plane}_{band}": read_plane(root, brick, plane, band, rs) for plane in PLANES for band in BANDS}
    where = coadd_path(root, brick, "image", "g", rs).parent
    shapes = {name: pixels.shape for name, pixels in planes.items()}
    if len(set(shapes.values())) > 1:
        raise InputError(where, f"planes differ in shape: {shapes}, expected one", "copy them again")
    for name, pixels in planes.items():
        bad = pixels.size - int(np.isfinite(pixels).sum())
        if bad:
            raise InputError(where, f"{name} has {bad} pixels that are no numbers, expected 0", "copy it again")
    return planes


def _is_image(hdu: Any) -> bool:
    return hdu.get_exttype() == "IMAGE_HDU" and len(hdu.get_info().get("dims", ())) == 2


def read_header(root: Path, brick: str, plane: str, band: str) -> Any:
    """Read the header of one of the survey's own coadds."""
    path = find(coadd_path(root, brick, plane, band))
    return fitsio.read_header(str(path), ext=1 if path.suffix == ".fz" else 0)


def write_plane(root: Path, brick: str, plane: str, band: str, data: np.ndarray, header: Any, rs: str = "") -> None:
    """Write one coadd plane as the Legacy Surveys do: Rice with 100 x 100 tiles and dither, data in HDU 1.

    Parameters
    ----------
    data : ndarray, shape (ny, nx), float32
        Pixels.
    header : fitsio.FITSHDR or list of dict
        Keywords to store.
    """
    with whole_file(coadd_path(root, brick, plane, band, rs)) as temporary, fitsio.FITS(str(temporary), "rw", clobber=True) as file:
        file.write(
            np.ascontiguousarray(data, dtype=np.float32),
            header=header,
            compress="RICE",
            tile_dims=TILE,
            qlevel=-QUANTUM[plane],  # negative: an absolute step
            qmethod="SUBTRACTIVE_DITHER_2",
            dither_seed=1,
        )


def wcs_header(wcs: WCS, brick: str, plane: str, band: str) -> list[dict[str, Any]]:
    """Return the header of a coadd: its projection, its brick, band and units."""
    crpix, crval, cd = wcs.wcs.crpix, wcs.wcs.crval, wcs.wcs.cd
    values = {
        "CTYPE1": "RA---TAN",
        "CTYPE2": "DEC--TAN",
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
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = [header["CTYPE1"].strip(), header["CTYPE2"].strip()]
    wcs.wcs.crval = [header["CRVAL1"], header["CRVAL2"]]
    wcs.wcs.crpix = [header["CRPIX1"], header["CRPIX2"]]
    wcs.wcs.cd = np.array([[header["CD1_1"], header["CD1_2"]], [header["CD2_1"], header["CD2_2"]]])
    return wcs
