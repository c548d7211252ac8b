"""Files that are whole or absent."""

from __future__ import annotations

import errno
import gc
import hashlib
import json
import os
import pickle
import tracemalloc
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from hpc_galaxy.errors import InputError, OutputError
from hpc_galaxy.files import PathList, read_json, sha256, shown, whole_file, write_json, write_text


@pytest.fixture
def umask_022() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def test_the_final_name_appears_with_the_end_of_the_block(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.fits.fz"
    with whole_file(path) as temporary:
        temporary.write_text("content")
        assert temporary.parent == path.parent
        assert temporary.suffixes == path.suffixes
        assert not path.exists()

    assert path.read_text() == "content"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt])
def test_a_failed_block_leaves_nothing_behind(tmp_path: Path, failure: type[BaseException]) -> None:
    path = tmp_path / "a.txt"
    with pytest.raises(failure), whole_file(path) as temporary:
        temporary.write_text("half")
        raise failure

    assert list(tmp_path.iterdir()) == []


def test_a_failed_block_keeps_the_earlier_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "earlier")
    with pytest.raises(ValueError, match="stop"), whole_file(path) as temporary:
        temporary.write_text("half")
        raise ValueError("stop")

    assert path.read_text() == "earlier"
    assert list(tmp_path.iterdir()) == [path]


def test_a_block_that_wrote_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="No such file"), whole_file(tmp_path / "a.txt"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_other_members_of_the_group_may_read(tmp_path: Path, umask_022: None) -> None:
    write_text(tmp_path / "a.txt", "content")
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o644


def test_json_keeps_the_order_of_keys(tmp_path: Path) -> None:
    content = {"b": [1, 2.5], "a": None}
    write_json(tmp_path / "a.json", content)

    assert (tmp_path / "a.json").read_text().endswith("}\n")
    assert list(read_json(tmp_path / "a.json", "hpc-galaxy split").items()) == list(content.items())


def test_missing_json_names_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.json: no such file; run 'hpc-galaxy split' first"):
        read_json(tmp_path / "a.json", "hpc-galaxy split")


@pytest.mark.parametrize("content", [b'{"a": ', b"\xff\xfe"])
def test_broken_json_names_the_remedy(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(InputError, match=r"not JSON .*run 'hpc-galaxy split --overwrite'"):
        read_json(tmp_path / "a.json", "hpc-galaxy split")


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"galaxy")
    assert sha256(tmp_path / "a") == hashlib.sha256(b"galaxy").hexdigest()


def test_paths_below_the_working_directory_are_shown_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert shown(tmp_path / "run" / "DONE") == "run/DONE"
    assert shown(Path("/elsewhere/run")) == "/elsewhere/run"


def test_what_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match=r"file/a\.json: cannot be written \(File exists\); check permissions, quota and free space"):
        write_json(tmp_path / "file" / "a.json", {})
    with pytest.raises(OutputError, match="No space left on device"), whole_file(tmp_path / "b.bin"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_an_error_of_another_file_is_not_blamed_on_the_output(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="absent"), whole_file(tmp_path / "out") as temporary:
        temporary.write_text("begun")
        (tmp_path / "absent").read_text()
    assert list(tmp_path.iterdir()) == []


def test_json_is_written_piece_by_piece(tmp_path: Path) -> None:
    content = {"stage": "extract", "items": [{"brick": f"{number:08d}", "real": [number, 0.5, None, "\u00e9"]} for number in range(20_000)]}
    text = json.dumps(content, indent=2) + "\n"
    tracemalloc.start()
    write_json(tmp_path / "ledger.json", content)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (tmp_path / "ledger.json").read_text() == text
    assert peak < len(text) / 10


def test_json_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_json(tmp_path / "ledger.json", {"whole": 1, "not": object()})
    assert list(tmp_path.iterdir()) == []


def sent(value: Sequence[Path]) -> Sequence[Path]:
    """Return what another rank would get."""
    return pickle.loads(pickle.dumps(value))  # noqa: S301


def test_a_list_of_paths_is_what_a_list_would_be_in_a_tenth_of_the_bytes() -> None:
    root = Path("/data/cutouts")
    paths = [root / "real" / f"{number:04d}"[:3] / f"{number:04d}p000.h5" for number in range(2000)] + [root / "hdf5" / "\u00e9t\u00e9.h5"]
    short = PathList(root, paths)
    assert list(short) == paths
    assert (short[0], short[-1], list(short[3:9:2])) == (paths[0], paths[-1], paths[3:9:2])
    assert short[np.uint32(7)] == paths[7]
    again = sent(short)
    assert list(again) == paths and len(again) == len(paths)
    with pytest.raises(IndexError):
        short[len(paths)]
    assert list(PathList(root, [])) == []
    with pytest.raises(ValueError, match="is not in the subpath"):
        PathList(root, [Path("/elsewhere/a.h5")])
    tracemalloc.start()
    kept = sent(short)
    small = tracemalloc.get_traced_memory()[0]
    tracemalloc.clear_traces()
    plain = sent(paths)
    large = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(kept) == len(plain) and small < large / 5


def test_reading_json_is_not_interrupted_by_the_collector(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", [{"number": number} for number in range(20_000)])
    seen: list[str] = []
    gc.callbacks.append(lambda phase, _: seen.append(phase))
    try:
        assert len(read_json(tmp_path / "a.json", "the test")) == 20_000
        during = len(seen)
        json.loads((tmp_path / "a.json").read_text())
    finally:
        gc.callbacks.pop()
    # One at the most, when it is over: a start and a stop.
    assert during <= 2 and len(seen) - during > 20
