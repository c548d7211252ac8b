"""Cutout files that are not as specified: damaged, foreign, or made to deceive."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from sample_cutouts import sample, write_sample

from hpc_galaxy.errors import FormatError
from hpc_galaxy.shards.cutout_file import open_cutouts
from hpc_galaxy.shards.schema import STAMP_SHAPE


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_sample(tmp_path)


def replace(change: Callable[[h5py.File], object]) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            change(file)

    return apply


def dataset(**layout: Any) -> Callable[[Path], None]:
    """Return a change that replaces ``images``."""

    def change(file: h5py.File) -> None:
        del file["images"]
        usual = {"shape": (3, *STAMP_SHAPE), "dtype": "<f4", "chunks": (1, *STAMP_SHAPE), "fletcher32": True}
        made = file.create_dataset("images", **{name: value for name, value in (usual | layout).items() if value is not None})
        if made.dtype.kind == "f" and made.chunks:
            made[...] = 1

    return replace(change)


def virtual(file: h5py.File) -> None:
    del file["images"]
    layout = h5py.VirtualLayout((3, *STAMP_SHAPE), "<f4")
    layout[...] = h5py.VirtualSource("other.h5", "images", (3, *STAMP_SHAPE))
    file.create_virtual_dataset("images", layout)


def group(file: h5py.File) -> None:
    del file["images"]
    file.create_group("images")


def linked(link: Any) -> Callable[[Path], None]:
    def change(file: h5py.File) -> None:
        file.move("images", "elsewhere")
        file["images"] = link

    return replace(change)


def attribute(name: str, value: Any) -> Callable[[Path], None]:
    fixed = np.array(value, "S") if isinstance(value, str) or (isinstance(value, list) and isinstance(value[0], str)) else value
    return replace(lambda file: file.attrs.create(name, fixed))


def more_rows(file: h5py.File) -> None:
    for name in ("images", "sources"):
        file[name].resize(2**40, axis=0)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (dataset(shape=(3, 65, 65, 6), chunks=(1, 65, 65, 6)), r"stamps is .*\(3, 65, 65, 6\)\), expected 'channels such as image_g"),
        (dataset(shape=(3, 64, 64), chunks=(1, 64, 64)), r"stamps is .*\(3, 64, 64\)"),
        (dataset(shape=(), chunks=None, fletcher32=None), r"stamps is .*\(\)\)"),
        (dataset(shape=(4, *STAMP_SHAPE)), r"'sources' length is \(3,\), expected \(4,\)"),
        (dataset(dtype=">f4"), "'images' dtype is dtype\\('>f4'\\)"),
        (dataset(dtype="<f8"), "'images' dtype is dtype\\('<f8'\\)"),
        (dataset(dtype=h5py.string_dtype(), fletcher32=None), "'images' dtype is dtype\\('O'\\)"),
        (dataset(fletcher32=False), r"filters of 'images' is \[\], expected \[3\]"),
        (dataset(compression="gzip"), r"filters of 'images' is \[1, 3\]"),
        (dataset(compression="lzf"), r"filters of 'images' is \[32000, 3\]"),
        (dataset(shuffle=True), r"filters of 'images' is \[2, 3\]"),
        (dataset(chunks=None, fletcher32=None), r"filters of 'images' is \[\]"),
        (dataset(chunks=(3, *STAMP_SHAPE)), r"'images' chunks is \(3, 64, 64, 6\)"),
        (replace(lambda file: file["images"].id), None),
        (replace(virtual), "virtual storage of 'images' is True"),
        (replace(group), "kind of 'images' is Group, expected Dataset"),
        (replace(lambda file: file.__delitem__("sources")), "link of 'sources' is None, expected HardLink"),
        (linked(h5py.SoftLink("/elsewhere")), "link of 'images' is SoftLink"),
        (linked(h5py.ExternalLink("other.h5", "images")), "link of 'images' is ExternalLink"),
        (linked(np.dtype("f4")), "kind of 'images' is Datatype"),
        (attribute("format", "something else"), "format is 'something else', expected 'hpc_galaxy cutouts'"),
        (attribute("format", h5py.Empty("f4")), "format is |its structure cannot be read"),
        (replace(lambda file: file.attrs.__setitem__("brick", "x")), "type of attribute 'brick' is 'variable', expected 'fixed'"),
        (attribute("version", 1), "version is 1, expected 3; run 'hpc-galaxy extract --overwrite'"),
        (attribute("version", 2), "version is 2, expected 3; run 'hpc-galaxy extract --overwrite'"),
        (attribute("version", "3"), "version is '3', expected 3"),
        (attribute("version", [3, 3]), r"version is \[3, 3\]"),
        (attribute("channels", "image_g"), "stamps is"),
        (attribute("channels", 7), "its structure cannot be read"),
        (attribute("channels", ["image_g"] * 6), "stamps is"),
        (attribute("compression", "bitshuffle"), r"filters of 'images' is \[3\], expected \[32008, 3\]"),
        (attribute("compression", "zstd"), "compression is 'zstd', expected 'none or bitshuffle'"),
        (attribute("compression", np.zeros(3)), "compression is"),
        (replace(more_rows), "number of chunks of 'images' is 3, expected 1099511627776"),
    ],
)
def test_a_file_that_is_not_as_specified_is_refused(path: Path, change: Callable[[Path], None], problem: str | None) -> None:
    change(path)
    if problem is None:
        with open_cutouts(path) as cutouts:
            assert len(cutouts) == 3
    else:
        with pytest.raises(FormatError, match=problem), open_cutouts(path):
            pass


def test_external_storage_is_refused(path: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"x" * 400_000)
    dataset(external=[(str(secret), 0, h5py.h5f.UNLIMITED)], chunks=None, fletcher32=None)(path)
    with pytest.raises(FormatError, match="external storage of 'images'"), open_cutouts(path):
        pass


def test_a_table_with_other_columns_is_refused(path: Path) -> None:
    def rename(file: h5py.File) -> None:
        table = file["sources"][()]
        del file["sources"]
        names = ["nom", *(table.dtype.names or ())[1:]]
        table.dtype = np.dtype([(name, table.dtype[number]) for number, name in enumerate(names)])
        file.create_dataset("sources", data=table, chunks=(3,), maxshape=(None,), fletcher32=True)

    replace(rename)(path)
    with pytest.raises(FormatError, match="'sources' columns is"), open_cutouts(path):
        pass


def test_every_byte_of_a_file_may_be_wrong_without_a_traceback(path: Path, tmp_path: Path) -> None:
    """Whatever byte of the file's own structure is destroyed, the file reads as it was, or a `FormatError` says so."""
    images, sources = sample()
    content = path.read_bytes()
    starts = [content.index(stamp.tobytes()) for stamp in images]
    structure = np.array([place for place in range(len(content)) if not any(start <= place < start + images[0].nbytes for start in starts)])
    rng = np.random.default_rng(5)
    broken, refused = tmp_path / "broken.h5", 0
    for place in rng.choice(structure, 300, replace=False):
        changed = bytearray(content)
        changed[place] ^= int(rng.integers(1, 256))
        broken.write_bytes(changed)
        try:
            with open_cutouts(broken) as cutouts:
                np.testing.assert_array_equal(cutouts.images(), images)
                np.testing.assert_array_equal(cutouts.sources(), sources)
        except FormatError:
            refused += 1
    assert refused > 20
