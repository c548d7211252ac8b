"""What an HDF5 file may contain before a single pixel of it is read.

HDF5 can make a file show other files' bytes (links, external storage, virtual datasets) and run code to read it (filters). Of all
this a file of cutouts needs two filters, so everything else is refused.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hpc_galaxy.errors import FormatError, InputError

FLETCHER32 = h5py.h5z.FILTER_FLETCHER32
BITSHUFFLE = 32008  # registered at the HDF Group; hdf5plugin has it
FILTERS = {"none": [FLETCHER32], "bitshuffle": [BITSHUFFLE, FLETCHER32]}

Require = Callable[[str, Any, Any], None]
"""Takes what is looked at, what was found and what was expected; raises `FormatError` where these differ."""


def requirement(path: Path, remedy: str) -> Require:
    """Return a function that refuses the file where something is not as expected."""

    def require(what: str, got: Any, expected: Any) -> None:
        if got != expected:
            raise FormatError(path, f"{what} is {_short(got)}, expected {_short(expected)}", remedy)

    return require


def _short(value: Any) -> str:
    text = value.__name__ if isinstance(value, type) else repr(value)
    return text if len(text) <= 400 else f"{text[:400]}..."


@contextmanager
def reading(path: Path, what: str, remedy: str) -> Iterator[None]:
    """Turn whatever the HDF5 library raises on a damaged or hostile file into a `FormatError`."""
    try:
        yield
    # What HDF5 finds wrong comes as almost any type: OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError, ...
    except Exception as error:
        if isinstance(error, FormatError | InputError):
            raise
        raise FormatError(path, f"{what} cannot be read ({_short(str(error) or type(error).__name__)})", remedy) from error


@contextmanager
def open_hdf5(path: Path, remedy: str) -> Iterator[h5py.File]:
    """Open an HDF5 file for reading.

    Raises
    ------
    FormatError
        It is missing, or not HDF5.
    """
    try:
        file = h5py.File(path, "r")
    except FileNotFoundError:
        raise FormatError(path, "no such cutout file", "run 'hpc-galaxy extract'") from None
    except (OSError, RuntimeError, ValueError) as error:
        raise FormatError(path, f"not a readable HDF5 file ({error})", remedy) from error
    with file:
        yield file


class PatientFile(io.FileIO):
    """A new file that HDF5 writes to, and that never tells it of a failure.

    HDF5 2.0 crashes the process when it closes a file to which it could not write: a full disk would end the whole job instead
    of failing one brick. Here the first error is kept for `raise_error`, and what comes after it is dropped.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, "w+b")
        self.error: OSError | None = None

    def write(self, content: Any) -> int:
        """Write all of `content`."""
        rest = memoryview(content)
        while len(rest) and self.error is None:
            try:
                rest = rest[super().write(rest) :]
            except OSError as error:
                self.error = error
        return len(content)

    def truncate(self, size: int | None = None) -> int:
        """Set the file's length."""
        try:
            return super().truncate(size)
        except OSError as error:
            self.error = self.error or error
            return size or 0

    def raise_error(self) -> None:
        """Raise the first error there was.

        Raises
        ------
        OSError
            There was one.
        """
        if self.error is not None:
            raise self.error


@contextmanager
def new_hdf5(path: Path) -> Iterator[tuple[h5py.File, PatientFile]]:
    """Make an HDF5 file whose bytes depend on its content alone; yield it and what it is written through.

    Raises
    ------
    OSError
        It could not be written.
    """
    with PatientFile(path) as patient:
        with h5py.File(patient, "w", libver="v110", track_order=True) as file:
            yield file, patient
        patient.raise_error()


def own_object(group: h5py.Group, name: str, kind: type, require: Require) -> Any:
    """Return a group or dataset that lies in this file, no link to elsewhere.

    Raises
    ------
    FormatError
        It is absent, a soft or external link, or of another kind.
    """
    shown = f"{group.name.rstrip('/')}/{name}".lstrip("/")
    require(f"link of '{shown}'", type(group.get(name, getlink=True)) if name in group.id else None, h5py.HardLink)
    require(f"kind of '{shown}'", group.get(name, getclass=True), kind)
    return group[name]


def own_dataset(group: h5py.Group, name: str, require: Require) -> h5py.Dataset:
    """Return a dataset whose bytes lie in this file, and that HDF5 alone can read.

    Raises
    ------
    FormatError
        As `own_object`; or its bytes lie in other files.
    """
    dataset = own_object(group, name, h5py.Dataset, require)
    shown = dataset.name.lstrip("/")
    require(f"external storage of '{shown}'", dataset.external, None)
    require(f"virtual storage of '{shown}'", dataset.is_virtual, False)
    return dataset


def filters(dataset: h5py.Dataset) -> list[int]:
    """Return the numbers of the filters that a dataset's chunks go through when they are written, in order."""
    properties = dataset.id.get_create_plist()
    return [properties.get_filter(number)[0] for number in range(properties.get_nfilters())]


def require_all_chunks(dataset: h5py.Dataset, require: Require) -> None:
    """Refuse a dataset that lacks chunks: HDF5 would show them as zeros, and take a size of any magnitude on trust."""
    expected = math.prod(-(-length // chunk) for length, chunk in zip(dataset.shape, dataset.chunks, strict=True))
    require(f"number of chunks of '{dataset.name.lstrip('/')}'", dataset.id.get_num_chunks(), expected)


def write_attributes(attributes: h5py.AttributeManager, values: Mapping[str, Any]) -> None:
    """Store values as attributes: numbers and arrays as they are, text as strings of fixed length, all else as JSON.

    HDF5 keeps strings of variable length in a heap without checksums, and reading a damaged one may never end.
    """
    for name, value in values.items():
        if isinstance(value, int | float | np.ndarray):
            attributes[name] = value
        else:
            text = (value if isinstance(value, str) else json.dumps(value)).encode()
            attributes.create(name, np.array(text, dtype=f"S{max(1, len(text))}"))


def plain_attributes(attributes: h5py.AttributeManager, require: Require) -> dict[str, Any]:
    """Return attributes as Python's own types: str, int, float, bool, or lists of them.

    Raises
    ------
    FormatError
        One is of another type, of which the bytes lie elsewhere.
    """
    plain: dict[str, Any] = {}
    for name in attributes:
        kind = attributes.get_id(name).get_type()
        fixed = kind.get_class() in (h5py.h5t.INTEGER, h5py.h5t.FLOAT, h5py.h5t.ENUM)
        fixed = fixed or (kind.get_class() == h5py.h5t.STRING and not kind.is_variable_str())
        require(f"type of attribute '{name}'", "fixed" if fixed else "variable", "fixed")
        plain[name] = _plain(np.asarray(attributes[name]).tolist())
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value.decode() if isinstance(value, bytes) else value


def load_bitshuffle(path: Path) -> Any:
    """Import hdf5plugin, which brings the bitshuffle filter; only files that are compressed need it.

    Raises
    ------
    InputError
        It is not installed.
    """
    try:
        import hdf5plugin
    except ImportError as error:
        raise InputError(path, f"is compressed with bitshuffle, which needs hdf5plugin ({error})", "pip install hdf5plugin") from error
    return hdf5plugin
