"""FITS tables and gzipped files that promise more than any memory holds. (Images: tests/unit/test_tiles_hostile.py.)"""

from __future__ import annotations

import gzip
import resource
from collections.abc import Iterator
from pathlib import Path

import fitsio
import numpy as np
import pytest

from hpc_galaxy.bricks import hdus
from hpc_galaxy.bricks.images import read_plane
from hpc_galaxy.bricks.layout import read_table
from hpc_galaxy.bricks.positions import read_positions
from hpc_galaxy.errors import InputError

ABSURD = (-1, 10**15, 2**62, 2**63, 10**30)
TABLE = np.array([("a", 10.0, 20.0)] * 5, [("id", "S8"), ("ra", "<f8"), ("dec", "<f8")])


def written(path: Path) -> bytes:
    fitsio.write(str(path), TABLE, clobber=True)
    return path.read_bytes()


def with_card(content: bytes, keyword: str, value: object) -> bytes:
    """Change a card of the table's header."""
    place = content.index(f"{keyword:<8}=".encode(), hdus.BLOCK)
    return content[:place] + f"{keyword:<8}= {value:>20}".ljust(hdus.CARD).encode() + content[place + hdus.CARD :]


@pytest.fixture(autouse=True)
def _bounded_memory() -> Iterator[None]:
    """What believes such a header all the same fails the test, and does not take the machine with it."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + (2 << 30), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.parametrize("keyword", ["NAXIS1", "NAXIS2", "TFIELDS", "NAXIS"])
@pytest.mark.parametrize("value", ABSURD)
def test_tables_of_absurd_size_are_refused(tmp_path: Path, keyword: str, value: int) -> None:
    path = tmp_path / "tractor-0001p000.fits"
    path.write_bytes(with_card(written(path), keyword, value))
    with pytest.raises(InputError, match=r"tractor-0001p000\.fits: (not a readable FITS table|has no FITS table)"):
        read_table(path)
    with pytest.raises(InputError):
        read_positions(path)


def test_columns_of_objects_are_not_read_as_such(tmp_path: Path) -> None:
    path = tmp_path / "table.fits"
    path.write_bytes(with_card(written(path), "TFORM1", "'O       '"))
    with pytest.raises(InputError, match="has no FITS table"):
        read_table(path)


def test_a_few_bytes_that_unpack_to_more_than_the_memory_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hdus, "SMALL", 1 << 22)
    monkeypatch.setattr(hdus, "PIECE", 1 << 20)
    table, image = tmp_path / "bomb.fits.gz", tmp_path / "image.fits.gz"
    plain = tmp_path / "plain.fits"
    for path, data in ((table, TABLE), (image, np.ones((8, 8), np.float32))):
        fitsio.write(str(plain), data, clobber=True)
        path.write_bytes(gzip.compress(plain.read_bytes() + bytes(1 << 26)))
        assert path.stat().st_size < 1 << 17
    expected = r"not a readable FITS file \([\d,]+ bytes hold more than [\d,]+, expected at most 100 times as many\)"
    with pytest.raises(InputError, match=expected):
        read_table(table)
    with pytest.raises(InputError, match=expected):
        read_plane(image)
    fitsio.write(str(plain), TABLE, clobber=True)
    table.write_bytes(gzip.compress(plain.read_bytes()))
    assert len(read_table(table)) == len(TABLE)
