"""The two layouts in which stamps lie on disk, behind one door: a file a brick and class, or 2018's groups."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from hpc_galaxy.errors import InputError
from hpc_galaxy.files import is_plain_name
from hpc_galaxy.shards.cutout_file import CutoutFile, CutoutWriter, create_cutouts, cutout_path, open_cutouts
from hpc_galaxy.shards.layout_2018 import FILE, ON_EDGE, File2018, Writer2018, create_2018, list_2018, open_2018, path_2018
from hpc_galaxy.shards.schema import LABELS, StampFormat


def stamps_path(layout: str, root: Path, label: str, brick: str) -> Path:
    """Return where the stamps of a class in a brick lie; `layout` is ``brick`` or ``2018``."""
    return (path_2018 if layout == "2018" else cutout_path)(root, label, brick)


def create_stamps(
    layout: str, path: Path, stamps: StampFormat, compression: str = "none", mantissa_bits: int = 23
) -> AbstractContextManager[CutoutWriter | Writer2018]:
    """Write one file of a layout, whole or not at all; see `create_cutouts` and `create_2018`."""
    return (create_2018 if layout == "2018" else create_cutouts)(path, stamps, compression, mantissa_bits)


def open_stamps(path: Path) -> AbstractContextManager[CutoutFile | File2018]:
    """Open a file of either layout, known by its name."""
    return open_2018(path) if is_2018(path) else open_cutouts(path)


def existing_path(root: Path, label: str, brick: str) -> Path:
    """Return the file of a class in a brick, in whichever layout it is.

    Raises
    ------
    InputError
        There is none, or the name is that of no brick: a ledger that was handed on must not lead out of its directory.
    """
    if not is_plain_name(brick):
        raise InputError(root, f"its ledger lists {str(brick)[:60]!r}, expected a brick's name", "run 'hpc-galaxy extract --overwrite'")
    for layout in ("brick", "2018"):
        path = stamps_path(layout, root, label, brick)
        if path.exists():
            return path
    raise InputError(cutout_path(root, label, brick), "no such file, though the ledger lists it", "run 'hpc-galaxy extract' again")


def is_from_2018(root: Path) -> bool:
    """Return whether a directory is one of 2018's: both classes, and no stage of this package's."""
    return not (root / "stage.json").exists() and all((root / label / "hdf5").is_dir() for label in LABELS)


def files_from_2018(root: Path) -> tuple[list[Path], int]:
    """Return the files of a directory of 2018's, and how many more with stamps at an edge there are, which are not read.

    Raises
    ------
    InputError
        A class has none.
    """
    files: list[Path] = []
    for label in sorted(LABELS):
        found = list_2018(root, label)
        if not found:
            raise InputError(root / label, f"has no hdf5/*/*/{FILE}, expected some", "check paths.cutouts")
        files += found
    return files, sum(len(list_2018(root, label, ON_EDGE)) for label in LABELS)


def is_2018(path: Path) -> bool:
    """Return whether a file of stamps has the layout of 2018, known by its name."""
    return path.name == FILE


def brick_of(path: Path) -> str:
    """Return the brick that a file of stamps is of, as its path says."""
    return path.parent.name if is_2018(path) else path.stem
