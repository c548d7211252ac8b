"""Stamps read from many files in any order: both ways, every layout, and files that are damaged or change meanwhile."""

from __future__ import annotations

import errno
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from patience import patience

from hpc_galaxy.errors import FormatError, InputError
from hpc_galaxy.shards import stamp_files
from hpc_galaxy.shards.cutout_file import open_cutouts, write_cutouts
from hpc_galaxy.shards.layout_2018 import create_2018, path_2018
from hpc_galaxy.shards.layouts import open_stamps
from hpc_galaxy.shards.places import Places, find_places
from hpc_galaxy.shards.schema import DEFAULT, StampFormat
from hpc_galaxy.shards.stamp_files import StampFiles

SMALL = StampFormat(("g", "z"), ("image", "invvar"), 16)
COUNTS = (7, 1, 700, 0, 12)


def make(path: Path, number: int, count: int, stamps: StampFormat = SMALL, **how: str) -> Path:
    """Write a file whose pixels and rows tell which they are."""
    rng = np.random.default_rng(number)
    table = np.zeros(count, stamps.source_dtype)
    table["id"] = [f"{number}-{row}".encode() for row in range(count)]
    table["ra"], table["edge"], table["injected"] = rng.uniform(0, 360, count), rng.random(count) < 0.5, rng.integers(0, 2**63, count)
    write_cutouts(path, rng.normal(size=(count, *stamps.shape)).astype(np.float32), table, {}, stamps, **how)
    return path


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    return [make(tmp_path / f"{number}.h5", number, count) for number, count in enumerate(COUNTS)]


@pytest.fixture(params=["direct", "hdf5"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "direct":
        assert stamp_files.COMPILED, "the package's C parts were not compiled"
    else:
        monkeypatch.setattr(stamp_files, "COMPILED", False)
    return str(request.param)


def everywhere(counts: tuple[int, ...] = COUNTS, seed: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Return all places of the files, shuffled, some of them twice."""
    file = np.repeat(np.arange(len(counts)), counts)
    row = np.concatenate([np.arange(count) for count in counts])
    order = np.random.default_rng(seed).permutation(np.r_[np.arange(len(file)), 0, 5, 8, 8])
    return file[order].astype(np.uint32), row[order].astype(np.uint32)


def read(files: StampFiles, file: np.ndarray, row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    out = np.full((len(row), *files.stamps.shape), np.nan, np.float32)
    table = np.zeros(len(row), files.stamps.example_dtype)
    table["group"] = b"stays"
    files.read(file, row, out, table)
    assert set(table["group"]) <= {b"stays"}
    return out, table


def require_right(paths: list[Path], file: np.ndarray, row: np.ndarray, out: np.ndarray, table: np.ndarray) -> None:
    for number, path in enumerate(paths):
        here = file == number
        with open_stamps(path) as opened:
            np.testing.assert_array_equal(out[here], opened.images()[row[here]])
            np.testing.assert_array_equal(table[list(opened.stamps.source_dtype.names or ())][here], opened.sources()[row[here]])


def flip(path: Path, offset: int) -> None:
    """Destroy one bit, and leave size and time as they were: a disk's mistake."""
    status = path.stat()
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 16]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def places_of(paths: list[Path]) -> dict[int, Places]:
    found = {}
    for number, path in enumerate(paths):
        with open_stamps(path) as file:
            found[number] = find_places(file)
    return found


def test_every_stamp_comes_with_its_row_wherever_it_belongs(paths: list[Path], way: str) -> None:
    file, row = everywhere()
    with StampFiles(paths, SMALL) as files:
        for _ in range(2):
            require_right(paths, file, row, *read(files, file, row))
        for part in [np.arange(0), *np.array_split(np.arange(len(file)), 40)]:
            require_right(paths, file[part], row[part], *read(files, file[part], row[part]))


def test_uncompressed_files_are_read_without_hdf5_and_once_checked_never_again(paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    known = pickle.loads(pickle.dumps(places_of(paths)))  # noqa: S301
    assert all(places.images is not None for places in known.values())
    monkeypatch.setattr(stamp_files, "open_stamps", None)
    file, row = everywhere()
    with StampFiles(paths, SMALL, known) as files:
        require_right(paths, file, row, *read(files, file, row))


def test_what_was_learnt_of_a_file_outlives_its_eviction(paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    monkeypatch.setattr(stamp_files, "open_stamps", lambda path: opened.append(path) or open_stamps(path))
    monkeypatch.setattr(stamp_files, "MOST_FILES", 2)
    file, row = everywhere()
    with StampFiles(paths, SMALL) as files:
        for _ in range(3):
            require_right(paths, file, row, *read(files, file, row))
            assert len(files._opened) <= 2
    assert sorted(opened) == [path for path, count in zip(paths, COUNTS, strict=True) if count]


def test_what_is_not_in_memory_is_read_too(paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    real = os.preadv

    def some_are_cold(descriptor: int, buffers: list[memoryview], offset: int, flags: int = 0) -> int:
        if flags:
            asked.append(offset)
            if len(asked) % 3 == 0:
                raise BlockingIOError(errno.EAGAIN, "not in memory")
            if len(asked) % 3 == 1:
                return real(descriptor, [buffers[0][:5]], offset)  # a page of it is
        return real(descriptor, buffers, offset)

    monkeypatch.setattr(os, "preadv", some_are_cold)
    file, row = everywhere()
    with StampFiles(paths, SMALL) as files:
        read(files, file[:100], row[:100])
        require_right(paths, file, row, *read(files, file, row))
    assert len(asked) > 700


@pytest.mark.parametrize("lacking", ["RWF_NOWAIT", "posix_fadvise"])
def test_systems_that_cannot_read_ahead(paths: list[Path], monkeypatch: pytest.MonkeyPatch, lacking: str) -> None:
    if lacking == "RWF_NOWAIT":
        monkeypatch.setattr(stamp_files, "IF_CACHED", None)
    else:
        monkeypatch.delattr(os, lacking)
    file, row = everywhere()
    with StampFiles(paths, SMALL, places_of(paths)) as files:
        require_right(paths, file, row, *read(files, file, row))


def test_short_reads_are_continued(paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    real, real_vector = os.pread, os.preadv
    monkeypatch.setattr(os, "pread", lambda descriptor, count, offset: real(descriptor, min(count, 1000), offset))
    monkeypatch.setattr(os, "preadv", lambda descriptor, buffers, offset, flags=0: real_vector(descriptor, [buffers[0][:2]], offset))
    file, row = everywhere()
    with StampFiles(paths, SMALL) as files:
        require_right(paths, file, row, *read(files, file, row))


@pytest.mark.parametrize("layout", ["compressed", "2018", "user block", "mixed"])
def test_everything_else_is_read_with_hdf5(tmp_path: Path, layout: str, paths: list[Path]) -> None:
    stamps, counts = (DEFAULT, (5, 9)) if layout == "2018" else (SMALL, (5, 9))
    others = [tmp_path / layout / "0.h5", tmp_path / layout / "1.h5"]
    for number, (path, count) in enumerate(zip(others, counts, strict=True)):
        if layout == "2018":
            others[number] = path_2018(tmp_path, "real", f"000{number}p060")
            with create_2018(others[number]) as writer:
                table = np.zeros(count, DEFAULT.source_dtype)
                table["id"] = [f"{number}-{row}".encode() for row in range(count)]
                writer.append(np.random.default_rng(number).normal(size=(count, *DEFAULT.shape)).astype(np.float32), table)
        else:
            make(path, number, count, compression="none" if layout == "user block" else "bitshuffle")
    if layout == "user block":
        for path in others:
            with_user_block(path)
    if layout == "mixed":
        others[1], counts = paths[2], (5, 700)
    file, row = everywhere(counts)
    with StampFiles(others, stamps) as files:
        for _ in range(2):
            require_right(others, file, row, *read(files, file, row))
        assert [files.places[number].images is None for number in (0, 1)] == [True, layout != "mixed"]


def with_user_block(path: Path) -> None:
    """Put bytes of somebody else's before all others: every offset moves."""
    old = path.rename(path.with_suffix(".old"))
    with h5py.File(old) as source, h5py.File(path, "w", userblock_size=1024) as file:
        for name in source:
            source.copy(name, file)
        for name, value in source.attrs.items():
            file.attrs[name] = value


@pytest.mark.parametrize("more", [0, 4])
def test_a_chunk_without_a_checksum_is_left_to_hdf5(paths: list[Path], more: int) -> None:
    with h5py.File(paths[0], "r+") as file:
        pixels = np.ones(SMALL.shape, np.float32)
        # HDF5 only notes the mask where the length changes too.
        for content in (pixels.tobytes(), pixels.tobytes() + bytes(more)):
            file["images"].id.write_direct_chunk((2, 0, 0, 0), content, filter_mask=1)
    assert places_of(paths)[0].images is None
    with StampFiles(paths, SMALL) as files:
        assert (read(files, np.array([0]), np.array([2]))[0] == 1).all()


def test_chunks_in_any_order_of_the_file_are_found(tmp_path: Path) -> None:
    path = make(tmp_path / "0.h5", 0, 40)
    with open_cutouts(path) as file:
        images = file.images()
    with h5py.File(path, "r+", rdcc_nbytes=0) as file:
        layout = {"chunks": file["images"].chunks, "maxshape": file["images"].maxshape, "fletcher32": True}
        del file["images"]
        dataset = file.create_dataset("images", images.shape, "<f4", **layout)
        for row in np.random.default_rng(1).permutation(40):
            dataset[row] = images[row]
            if row % 3 == 0:
                file.create_dataset(f"between {row}", data=np.arange(row + 1))
    file, row = everywhere((40,))
    with StampFiles([path], SMALL) as files:
        require_right([path], file, row, *read(files, file, row))
        runs = files.places[0].images
        assert runs is not None
        assert len(runs) > 20


def offset_of(path: Path, row: int) -> int:
    with open_cutouts(path) as file:
        return path.read_bytes().index(file.images(slice(row, row + 1)).tobytes())


@pytest.mark.parametrize("within", [0, 5000 % (16 * 16 * 4 * 4), 16 * 16 * 4 * 4 - 1, 16 * 16 * 4 * 4, 16 * 16 * 4 * 4 + 3])
def test_a_flipped_bit_is_an_error_that_names_file_and_row(paths: list[Path], way: str, within: int) -> None:
    flip(paths[0], offset_of(paths[0], 4) + within)
    with StampFiles(paths, SMALL) as files:
        read(files, np.array([0, 0]), np.array([3, 5]))
        row = "row 4 " if way == "direct" else ""
        with pytest.raises(FormatError, match=rf"0\.h5: 'images' {row}cannot be read .*; run 'hpc-galaxy extract --overwrite'"):
            read(files, np.array([0, 0]), np.array([3, 4]))


@pytest.mark.parametrize("row", [0, 600])
def test_a_flipped_bit_in_the_table_is_an_error(paths: list[Path], way: str, row: int) -> None:
    identifier = f"2-{row}\0".encode()
    known = places_of(paths)
    flip(paths[2], paths[2].read_bytes().index(identifier))
    with StampFiles(paths, SMALL, known) as files, pytest.raises(FormatError, match=r"2\.h5: 'sources' .*cannot be read"):
        read(files, np.array([2]), np.array([row]))


@pytest.mark.parametrize("known", [True, False], ids=["known before", "first met so"])
def test_a_truncated_file_is_refused(paths: list[Path], way: str, known: bool) -> None:
    places = places_of(paths) if known else {}
    os.truncate(paths[2], paths[2].stat().st_size // 2)
    with StampFiles(paths, SMALL, places) as files, pytest.raises(FormatError, match=r"2\.h5: "):
        read(files, np.array([1, 2]), np.array([0, 699]))


def test_a_file_that_ends_earlier_than_its_length_says(paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """What a network file system shows while another node truncates."""
    real, end = os.preadv, offset_of(paths[0], 6)
    monkeypatch.setattr(os, "preadv", lambda d, buffers, offset, flags=0: 0 if offset >= end else real(d, buffers, offset, flags))
    monkeypatch.setattr(os, "pread", lambda descriptor, count, offset: b"")
    problem = rf"0\.h5: ends at byte {end}, expected {paths[0].stat().st_size} bytes"
    with StampFiles(paths, SMALL) as files, pytest.raises(FormatError, match=problem):
        read(files, np.array([0]), np.array([6]))


@pytest.mark.parametrize("when", ["open", "evicted", "known from elsewhere"])
@pytest.mark.parametrize("how", ["replaced", "rewritten in place", "touched"])
def test_a_file_that_changes_meanwhile_is_refused(paths: list[Path], way: str, when: str, how: str, tmp_path: Path) -> None:
    files = StampFiles(paths, SMALL, places_of(paths) if when == "known from elsewhere" else None)
    if when != "known from elsewhere":
        read(files, np.array([0]), np.array([1]))
    if when == "evicted":
        files.close()
    other = make(tmp_path / "other.h5", 99, 7)
    later = paths[0].stat().st_mtime_ns + 1_000_000
    if how == "replaced":
        os.replace(other, paths[0])
    elif how == "rewritten in place":
        shutil.copyfile(other, paths[0])
    os.utime(paths[0], ns=(later, later))
    with files:
        if when == "open" and how == "replaced":
            # The old file is still there for who has it open: its stamps and rows are of one piece.
            assert read(files, np.array([0]), np.array([3]))[1]["id"] == b"0-3"
        else:
            with pytest.raises(FormatError, match=r"0\.h5: has \d+ bytes of .*, expected .*: it was changed; let no other job write"):
                read(files, np.array([0]), np.array([3]))


def test_a_file_that_is_gone(paths: list[Path], way: str) -> None:
    known = places_of(paths)
    paths[1].unlink()
    with StampFiles(paths, SMALL, known) as files, pytest.raises(FormatError, match=r"1\.h5: no such cutout file"):
        read(files, np.array([1]), np.array([0]))


def test_a_disk_that_fails_is_no_traceback(paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "preadv", broken)
    with StampFiles(paths, SMALL) as files, pytest.raises(InputError, match=r"0\.h5: cannot be read \(Input/output error\)"):
        read(files, np.array([0]), np.array([6]))


def test_a_row_that_there_is_not(paths: list[Path], way: str) -> None:
    with StampFiles(paths, SMALL) as files, pytest.raises(FormatError, match=r"0\.h5: has 7 stamps, expected more than 7"):
        read(files, np.array([0, 0]), np.array([1, 7]))


def test_stamps_of_another_format_are_refused(paths: list[Path], tmp_path: Path) -> None:
    other = make(tmp_path / "other.h5", 1, 3, DEFAULT)
    with (
        StampFiles([other], SMALL) as files,
        pytest.raises(FormatError, match=r"other\.h5: has stamps \(64, 64, 6\) of image_g"),
    ):
        read(files, np.array([0]), np.array([0]))


@pytest.mark.parametrize(
    ("file", "row", "out"),
    [
        ([0], [0], np.empty((1, 16, 16, 4))),
        ([0], [0], np.empty((1, 16, 16, 6), np.float32)),
        ([0], [0], np.empty((2, 16, 16, 4), np.float32)),
        ([0], [0], np.empty((1, 16, 16, 8), np.float32)[..., ::2]),
        ([0, 1], [0], np.empty((1, 16, 16, 4), np.float32)),
        ([-1], [0], np.empty((1, 16, 16, 4), np.float32)),
        ([5], [0], np.empty((1, 16, 16, 4), np.float32)),
        ([0], [-1], np.empty((1, 16, 16, 4), np.float32)),
    ],
)
def test_misuse_is_refused(paths: list[Path], file: list[int], row: list[int], out: np.ndarray) -> None:
    with StampFiles(paths, SMALL) as files, pytest.raises(ValueError, match=r"room is|places are"):
        files.read(np.array(file), np.array(row), out, np.zeros(len(row), SMALL.source_dtype))


def test_tables_do_not_fill_the_memory(paths: list[Path], way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stamp_files, "MEMORY", SMALL.source_dtype.itemsize * 600)
    file, row = everywhere()
    with StampFiles(paths, SMALL) as files:
        for _ in range(3):
            require_right(paths, file, row, *read(files, file, row))
            assert files._memory == sum(opened.nbytes for opened in files._opened.values())
            assert len(files._opened) == 1 or files._memory <= stamp_files.MEMORY
        files.close()
        assert files._memory == 0


FEW = """
import resource, sys
import numpy as np
from pathlib import Path
from hpc_galaxy.shards.schema import StampFormat
from hpc_galaxy.shards.stamp_files import StampFiles, RESERVE

resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[2]), int(sys.argv[3])))
stamps = StampFormat(("g", "z"), ("image", "invvar"), 16)
paths = sorted(Path(sys.argv[1]).glob("*.h5"), key=lambda path: int(path.stem))
file = np.random.default_rng(1).permutation(np.repeat(np.arange(len(paths)), 2))
out, table = np.empty((len(file), *stamps.shape), np.float32), np.empty(len(file), stamps.source_dtype)
with StampFiles(paths, stamps) as files:
    for _ in range(2):
        files.read(file, np.ones(len(file), int), out, table)
        assert table["id"].tolist() == [f"{number}-1".encode() for number in file]
    print(files.capacity, len(files._opened), resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


@pytest.mark.parametrize(("soft", "hard", "at_least", "at_most"), [(90, 90, 1, 26), (30, 30, 1, 1), (90, 4096, 120, 120)])
def test_more_files_than_the_system_allows(tmp_path: Path, soft: int, hard: int, at_least: int, at_most: int) -> None:
    for number in range(120):
        make(tmp_path / f"{number}.h5", number, 2)
    command = [sys.executable, "-c", FEW, str(tmp_path), str(soft), str(hard)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=patience(120), check=False)
    assert done.returncode == 0, done.stderr
    capacity, opened, limit = map(int, done.stdout.split())
    assert at_least <= opened <= capacity <= at_most
    assert limit >= soft


def test_descriptors_are_given_back(paths: list[Path], way: str) -> None:
    file, row = everywhere()
    with StampFiles(paths, SMALL) as files:
        read(files, file, row)
    held = {str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()}
    assert not {str(path) for path in paths} & held
