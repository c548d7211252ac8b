"""The cutout file: all stamps of one class in one brick, in HDF5."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hpc_galaxy.errors import FormatError
from hpc_galaxy.files import whole_file
from hpc_galaxy.shards.schema import CHANNELS, SOURCE_DTYPE, STAMP_DTYPE, STAMP_SHAPE, describe

FORMAT = "hpc_galaxy cutouts"
VERSION = 1
REMEDY = "run 'hpc-galaxy extract --overwrite'"


def cutout_path(root: Path, label: str, brick: str) -> Path:
    """Return ``root/label/AAA/brick.h5``, where AAA is the first three characters of the brick's name."""
    return root / label / brick[:3] / f"{brick}.h5"


def write_cutouts(path: Path, images: np.ndarray, sources: np.ndarray, attributes: Mapping[str, Any]) -> None:
    """Write one cutout file, whole or not at all.

    Parameters
    ----------
    path : Path
        Final name.
    images : ndarray, shape (N, 64, 64, 6), float32
        Stamps, axes (source, y, x, channel), channels as in `CHANNELS`; nanomaggies and 1/nanomaggies^2.
    sources : ndarray, shape (N,), `SOURCE_DTYPE`
        One row a stamp, in the same order.
    attributes : mapping
        Provenance stored with the file; values that HDF5 has no type for are stored as JSON.
    """
    with whole_file(path) as temporary, h5py.File(temporary, "w", libver="v110", track_order=True) as file:
        # One chunk a stamp: any stamp is one read. fletcher32: a flipped bit is an error, not a galaxy.
        chunks = (1, *STAMP_SHAPE)
        file.create_dataset("images", data=images, dtype=STAMP_DTYPE, chunks=chunks, maxshape=(None, *STAMP_SHAPE), fletcher32=True)
        file.create_dataset("sources", data=sources, chunks=(max(1, min(len(sources), 512)),), maxshape=(None,), fletcher32=True)
        file.attrs["format"] = FORMAT
        file.attrs["version"] = VERSION
        file.attrs["channels"] = list(CHANNELS)
        for name, value in attributes.items():
            file.attrs[name] = value if isinstance(value, str | int | float) else json.dumps(value)


@dataclass(frozen=True)
class CutoutFile:
    """An open cutout file that has passed its checks."""

    path: Path
    file: h5py.File

    def __len__(self) -> int:
        return int(self.file["images"].shape[0])

    @property
    def attributes(self) -> dict[str, Any]:
        """The provenance that was stored with the file."""
        return dict(self.file.attrs)

    def sources(self) -> np.ndarray:
        """Return the source table, shape (N,), `SOURCE_DTYPE`."""
        return np.asarray(self._read("sources"))

    def images(self, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Return stamps, shape (n, 64, 64, 6), of the given rows (increasing, without repeats).

        Raises
        ------
        FormatError
            A stamp's checksum does not agree with its pixels.
        """
        return np.asarray(self._read("images", rows))

    def _read(self, name: str, rows: np.ndarray | slice = slice(None)) -> Any:
        try:
            return self.file[name][rows]
        except OSError as error:
            raise FormatError(self.path, f"'{name}' cannot be read ({error})", REMEDY) from error


@contextmanager
def open_cutouts(path: Path) -> Iterator[CutoutFile]:
    """Open a cutout file and check its structure.

    Raises
    ------
    FormatError
        The file is missing, not HDF5, of another version, or its datasets are not as specified.
    """
    if not path.exists():
        raise FormatError(path, "no such cutout file", "run 'hpc-galaxy extract'")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise FormatError(path, f"not a readable HDF5 file ({error})", REMEDY) from error
    with file:
        _check(path, file)
        yield CutoutFile(path, file)


def _check(path: Path, file: h5py.File) -> None:
    def require(what: str, got: Any, expected: Any) -> None:
        if got != expected:
            raise FormatError(path, f"{what} is {got!r}, expected {expected!r}", REMEDY)

    require("format", file.attrs.get("format"), FORMAT)
    require("version", int(file.attrs.get("version", 0)), VERSION)
    require("channels", list(file.attrs.get("channels", ())), list(CHANNELS))
    for name in ("images", "sources"):
        # A soft or external link, or external storage, could make this file show another one's bytes.
        require(f"link of '{name}'", type(file.get(name, getlink=True)), h5py.HardLink)
        require(f"external storage of '{name}'", file[name].external, None)
    images, sources = file["images"], file["sources"]
    require("'images' dtype", images.dtype, STAMP_DTYPE)
    require("'images' shape", images.shape, (images.shape[0] if images.shape else 0, *STAMP_SHAPE))
    require("'sources' columns", describe(sources.dtype), describe(SOURCE_DTYPE))
    require("'sources' length", sources.shape, images.shape[:1])
