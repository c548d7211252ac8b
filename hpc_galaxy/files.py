"""Files that are whole or absent.

Every output is written under a temporary name in its own directory, flushed to disk, and renamed. Whoever finds a file
under its final name may trust that its writer finished.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO, overload

import numpy as np

from hpc_galaxy.collector import uncollected
from hpc_galaxy.errors import InputError, OutputError

PROBE = 1 << 16  # bytes


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` when the block ends well, remove it when it does not.

    Parameters
    ----------
    path : Path
        Final name. Missing parent directories are made. The temporary name keeps the suffixes, because
        FITS and HDF5 writers choose formats by them.

    Yields
    ------
    Path
        The name to write to.

    Raises
    ------
    OutputError
        The file or its directory cannot be written.
    """
    temporary = path.with_name(f".partial-{os.getpid()}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if isinstance(error.filename, str) and Path(error.filename) not in (path, temporary, *path.parents):
            raise  # of another file, that the block was reading
        raise OutputError(path, f"cannot be written ({_reason(error, path)})", "check permissions, quota and free space") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _reason(error: OSError, path: Path) -> str:
    """Return why a file cannot be written. CFITSIO keeps that for itself: the system says it of another file beside it."""
    if error.strerror:
        return error.strerror
    probe = path.with_name(f".partial-{os.getpid()}-probe")
    try:
        probe.write_bytes(bytes(PROBE))
    except OSError as cause:
        return cause.strerror or str(cause)
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)
    return str(error).partition("\n")[0]


def remove_partial(path: Path) -> None:
    """Remove what killed processes have left of writing `path`. To be called by whoever alone may write it now."""
    remove_partials(path.parent, path.name)


def remove_partials(directory: Path, name: str = "*") -> None:
    """Remove what killed processes have left of writing `name`, or anything, in a directory that nobody else writes to now."""
    for leftover in directory.glob(f".partial-*-{name}"):
        leftover.unlink(missing_ok=True)


@contextmanager
def lock(path: Path, shared: bool = False) -> Iterator[Callable[[], None]]:
    """Hold a lock file while the block runs. The system lets go of it when the process ends, however it ends.

    Where the file system has no locks (some mounts of Lustre) a line on stderr says so, and the block runs without.

    Parameters
    ----------
    path : Path
        The lock file.
    shared : bool
        Hold it together with others who share it, and with nobody else.

    Yields
    ------
    callable
        To be called before what the block has made is vouched for: raises `OutputError` where the directory has vanished meanwhile, or
        is another one. What was written before is gone with it, and what was written since lies in a new directory of that name.

    Raises
    ------
    OutputError
        Another process holds it, or the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "a+", encoding="utf-8")  # noqa: SIM115
    except OSError as error:
        raise OutputError(path, f"cannot be written ({error.strerror})", "check permissions, quota and free space") from error
    with file:
        _lock(file, path, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield lambda: _require_same(file, path)


def _require_same(file: TextIO, path: Path) -> None:
    try:
        same = os.path.samestat(os.fstat(file.fileno()), path.stat())
    except OSError:
        same = False
    if not same:
        problem = "was removed or replaced while this job was writing there"
        raise OutputError(path.parent, problem, "unless another job works there now, remove it and start the same command again")


def _lock(file: TextIO, path: Path, kind: int) -> None:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip() or "unknown"
        raise OutputError(path.parent, f"another job is writing here ({holder})", "wait for its end, or choose another [paths]") from None
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
        print(f"hpc-galaxy: {path.parent}: this file system has no locks; do not start a second job here", file=sys.stderr)
        return
    job = f", Slurm job {os.environ['SLURM_JOB_ID']}" if "SLURM_JOB_ID" in os.environ else ""
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}{job}, since {time.strftime('%Y-%m-%d %H:%M:%S')}\n")
    file.flush()


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` as a whole file."""
    with whole_file(path) as temporary:
        temporary.write_text(text)


def write_json(path: Path, content: Any) -> None:
    """Write `content` to `path` as indented JSON, keys in the order given.

    Piece by piece: the pieces of a ledger of 200,000 bricks, all in memory before they are joined, are 1.5 GB.
    """
    with whole_file(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=2)
        file.write("\n")


def read_json(path: Path, made_by: str) -> Any:
    """Read a JSON file that the command `made_by` writes.

    Raises
    ------
    InputError
        The file is missing, cannot be read, or is not JSON.
    """
    try:
        with uncollected():
            return json.loads(path.read_text())
    except FileNotFoundError:
        raise InputError(path, "no such file", f"run '{made_by}' first") from None
    except OSError as error:
        raise InputError(path, f"cannot be read ({error.strerror})", "check its permissions and the file system") from error
    except (ValueError, RecursionError) as error:
        raise InputError(path, f"not JSON ({error})", f"run '{made_by} --overwrite'") from None


def read_object(path: Path, made_by: str, **fields: type) -> dict[str, Any]:
    """Read a JSON object that the command `made_by` writes.

    Parameters
    ----------
    path, made_by : Path, str
        See `read_json`.
    **fields : type
        What it has to hold, and of which type; more is welcome.

    Raises
    ------
    InputError
        As `read_json`; or it is something else.
    """
    content = read_json(path, made_by)
    remedy = f"run '{made_by} --overwrite'"
    if not isinstance(content, dict):
        raise InputError(path, f"is a JSON {type(content).__name__}, expected an object, as '{made_by}' writes it", remedy)
    for name, kind in fields.items():
        if not isinstance(found := content.get(name), kind):
            raise InputError(path, f"'{name}' is {str(found)[:40]!r}, expected {kind.__name__}, as '{made_by}' writes it", remedy)
    return content


def is_plain_name(name: object) -> bool:
    """Return whether `name` is a file's name and no path: a file that was handed on must not lead out of its directory."""
    return isinstance(name, str) and name not in ("", ".", "..") and not set("/\0") & set(name)


def shown(path: Path) -> str:
    """Return a path as a person wants to read it: relative when it lies below the working directory."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


class PathList(Sequence[Path]):
    """Many paths below one directory, in little memory: those of the 400,000 files of 200,000 bricks take 8 MB, as a list 170 MB.

    Every rank of a job keeps one, and gets it from rank 0: as a list, that takes each of them seconds.

    Parameters
    ----------
    root : Path
        The directory.
    paths : iterable of Path
        Below it.

    Raises
    ------
    ValueError
        One is not.
    """

    def __init__(self, root: Path, paths: Iterable[Path]) -> None:
        self._root = root
        self._names = np.array([os.fsencode(path.relative_to(root)) for path in paths], bytes)

    def __len__(self) -> int:
        return len(self._names)

    @overload
    def __getitem__(self, number: int) -> Path: ...

    @overload
    def __getitem__(self, number: slice) -> PathList: ...

    def __getitem__(self, number: int | slice) -> Path | PathList:
        if isinstance(number, slice):
            return PathList(self._root, map(self.__getitem__, range(*number.indices(len(self)))))
        return self._root / os.fsdecode(bytes(self._names[number]))


def sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
