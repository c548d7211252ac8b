"""The files of the 2018 test (obiwan): a group and two datasets a galaxy, ``<class>/hdf5/<AAA>/<brick>/img_ivar_grz.hdf5``.

Group names are integers. ``<group>/img`` and ``<group>/ivar`` are float32 (64, 64, 3) with axes (x, y, band), bands g, r, z: the
transpose of this package's stamps. Files that this package writes have each galaxy's row of the source table as the group's
attribute ``source``; 2018's own know nothing of their galaxies but number, brick and class. Stamps at the edge of a coadd went to
``*_onedge.hdf5`` in 2018, one pixel too large and with wrong pixels; those files are not read.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hpc_galaxy.errors import ConfigError
from hpc_galaxy.files import whole_file
from hpc_galaxy.shards.cutout_file import require_matching
from hpc_galaxy.shards.hdf5 import (
    PatientFile,
    filters,
    new_hdf5,
    open_hdf5,
    own_dataset,
    own_object,
    plain_attributes,
    reading,
    require_all_chunks,
    requirement,
    write_attributes,
)
from hpc_galaxy.shards.schema import CLASSES, DEFAULT, STAMP_DTYPE, StampFormat, describe

FILE, ON_EDGE = "img_ivar_grz.hdf5", "img_ivar_grz_onedge.hdf5"
PLANES = {"img": slice(0, 3), "ivar": slice(3, 6)}
SHAPE = (64, 64, 3)
REMEDY = "make or copy it again"


def path_2018(root: Path, label: str, brick: str) -> Path:
    """Return ``root/label/hdf5/AAA/brick/img_ivar_grz.hdf5``, where AAA is the first three characters of the brick's name."""
    return root / label / "hdf5" / brick[:3] / brick / FILE


def list_2018(root: Path, label: str, name: str = FILE) -> list[Path]:
    """Return the files of a class, sorted."""
    return sorted((root / label / "hdf5").glob(f"*/*/{name}"))


@dataclass
class Writer2018:
    """A file of the 2018 layout being written, as `hpc_galaxy.shards.cutout_file.CutoutWriter` is.

    Attributes
    ----------
    file : h5py.File
        The open file.
    disk : PatientFile
        Knows of errors when they happen.
    attributes : dict
        Provenance, stored when the file is closed.
    count : int
        Stamps written so far.
    """

    file: h5py.File
    disk: PatientFile
    attributes: dict[str, Any] = field(default_factory=dict)
    count: int = 0

    def __len__(self) -> int:
        return self.count

    def append(self, images: np.ndarray, sources: np.ndarray) -> None:
        """Add stamps, shape (n, 64, 64, 6), and their rows of the source table, shape (n,)."""
        require_matching(DEFAULT, images, sources)
        for stamp, source in zip(images, sources, strict=True):
            group = self.file.create_group(str(self.count))
            for name, channels in PLANES.items():
                group.create_dataset(name, data=np.ascontiguousarray(stamp[..., channels].transpose(1, 0, 2)))
            group.attrs.create("source", source, dtype=source.dtype)
            self.count += 1
        self.disk.raise_error()


@contextmanager
def create_2018(path: Path, stamps: StampFormat = DEFAULT, compression: str = "none", mantissa_bits: int = 23) -> Iterator[Writer2018]:
    """Write one file of the 2018 layout, whole or not at all.

    Raises
    ------
    ConfigError
        Anything but 64 x 64 stamps of image and inverse variance in g, r, z was asked for, or compression, or rounding.
    OutputError
        The file cannot be written.
    """
    require_2018(stamps, compression, mantissa_bits)
    with whole_file(path) as temporary, new_hdf5(temporary) as (file, disk):
        writer = Writer2018(file, disk)
        yield writer
        write_attributes(file.attrs, writer.attributes)


def require_2018(stamps: StampFormat, compression: str, mantissa_bits: int) -> None:
    """Refuse what the 2018 layout has no place for.

    Raises
    ------
    ConfigError
        Other stamps than 2018's, compression or rounding.
    """
    for key, got, expected in (
        ("bands", list(stamps.bands), list(DEFAULT.bands)),
        ("planes", list(stamps.planes), list(DEFAULT.planes)),
        ("size", stamps.size, DEFAULT.size),
        ("compression", compression, "none"),
        ("mantissa_bits", mantissa_bits, 23),
    ):
        if got != expected:
            raise ConfigError(f"extract.{key}", f"is {got}, expected {expected} in the layout '2018'", "or set extract.layout = 'brick'")


@dataclass(frozen=True)
class File2018:
    """An open file of the 2018 layout, with what `hpc_galaxy.shards.cutout_file.CutoutFile` has.

    Attributes
    ----------
    path : Path
        Where it is; its folders tell class and brick.
    file : h5py.File
        The open file.
    groups : tuple of str
        A name a galaxy, in the order of the numbers that they are.
    attributes : dict
        The provenance; empty in 2018's own files.
    """

    path: Path
    file: h5py.File
    groups: tuple[str, ...]
    attributes: dict[str, Any]
    stamps: StampFormat = DEFAULT

    def __len__(self) -> int:
        return len(self.groups)

    def sources(self) -> np.ndarray:
        """Return the source table, shape (N,), `StampFormat.source_dtype`.

        Of 2018's own files ``id`` is ``<class>-<brick>-<group>``, positions and measurements are NaN, everything else is 0.
        """
        brick, label = self.path.parent.name, self.path.parents[3].name
        require = requirement(self.path, "put it in <class>/hdf5/<AAA>/<brick>/, class 'real' or 'fake'")
        require("brick's name (its folder)", len(brick.encode()) <= DEFAULT.source_dtype["brick"].itemsize, True)
        require("class (a folder above)", label, label if label in CLASSES else " or ".join(CLASSES))
        table = unknown_sources(len(self))
        for row, name in zip(table, self.groups, strict=True):
            row["id"], row["brick"], row["label"] = f"{label}-{brick}-{name}".encode(), brick.encode(), CLASSES[label]
            with reading(self.path, f"group '{name}'", REMEDY):
                self._fill(row, name)
        return table

    def _fill(self, row: np.void, name: str) -> None:
        attributes = self._group(name).attrs
        if "source" in attributes:
            found, expected = describe(attributes.get_id("source").dtype), describe(DEFAULT.source_dtype)
            requirement(self.path, REMEDY)(f"columns of 'source' of group '{name}'", found, expected)
            source = attributes["source"]
            for column in source.dtype.names:
                row[column] = source[column]

    def images(self, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Return stamps, shape (n, 64, 64, 6), of the given rows, axes (source, y, x, channel).

        Raises
        ------
        FormatError
            A group lacks a dataset, or it has another shape; the message names the group.
        """
        names = np.array(self.groups, dtype=object)[rows]
        stamps = np.empty((len(names), *DEFAULT.shape), STAMP_DTYPE)
        for stamp, name in zip(stamps, names, strict=True):
            with reading(self.path, f"group '{name}'", REMEDY):
                self._read(stamp, name)
        return stamps

    def _read(self, stamp: np.ndarray, name: str) -> None:
        require, group = requirement(self.path, REMEDY), self._group(name)
        for kind, channels in PLANES.items():
            dataset = own_dataset(group, kind, require)
            require(f"shape of '{name}/{kind}'", dataset.shape, SHAPE)
            require(f"dtype of '{name}/{kind}'", dataset.dtype.newbyteorder("<"), STAMP_DTYPE)  # FITS has the bytes the other way round
            require(f"filters of '{name}/{kind}'", filters(dataset), [])
            if dataset.chunks:  # 2018's own let h5py choose some; this package writes none
                require_all_chunks(dataset, require)
            stamp[..., channels] = dataset[()].transpose(1, 0, 2)

    def _group(self, name: str) -> h5py.Group:
        return own_object(self.file, name, h5py.Group, requirement(self.path, REMEDY))


def unknown_sources(count: int) -> np.ndarray:
    """Return a source table of galaxies of which nothing is known: floating-point columns NaN, all else 0."""
    table = np.zeros(count, DEFAULT.source_dtype)
    for name in table.dtype.names or ():
        if table.dtype[name].kind == "f":
            table[name] = np.nan
    return table


@contextmanager
def open_2018(path: Path) -> Iterator[File2018]:
    """Open a file of the 2018 layout.

    Raises
    ------
    FormatError
        It is missing, not HDF5, or a group's name is not a number.
    """
    with open_hdf5(path, REMEDY) as file:
        with reading(path, "its structure", REMEDY):
            names = list(file)
            for name in names:
                requirement(path, REMEDY)("name of a group", name, name if name.isascii() and name.isdecimal() else "a number")
            attributes = plain_attributes(file.attrs, requirement(path, REMEDY))
        yield File2018(path, file, tuple(sorted(names, key=int)), attributes)
