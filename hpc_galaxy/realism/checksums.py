"""Checksums of what a report stands on, so that anybody can tell whether theirs are the same files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from hpc_galaxy.config import Paths
from hpc_galaxy.errors import InputError
from hpc_galaxy.files import sha256
from hpc_galaxy.shards.manifest import NAME as MANIFEST
from hpc_galaxy.training.weights import NAME as WEIGHTS

SCORES = "scores.csv"


def compute_checksums(paths: Paths, pictures: Iterable[str] = ()) -> dict[str, str]:
    """Return the SHA-256 of the networks' weights, the shards' manifest, the scores and the pictures.

    The manifest holds a checksum of each file of the shards, so its own stands for all of them.

    Parameters
    ----------
    paths : Paths
        Where shards, run and report are.
    pictures : iterable of str
        Names of files in the report's folder.

    Returns
    -------
    dict of str to str
        64 hexadecimal digits, by ``run/weights.safetensors``, ``run/network_2/weights.safetensors`` and so on, ``shards/manifest.json``,
        ``report/scores.csv``, ``report/<picture>``: whatever the directories are called, so that equal runs have equal tables.

    Raises
    ------
    InputError
        A file is missing or cannot be read.
    """
    networks = sorted(paths.run.glob(f"network_*/{WEIGHTS}"), key=lambda path: (len(path.parent.name), path.parent.name))
    files = {f"run/{WEIGHTS}": paths.run / WEIGHTS}
    files |= {f"run/{path.parent.name}/{WEIGHTS}": path for path in networks}
    files |= {f"shards/{MANIFEST}": paths.shards / MANIFEST}
    files |= {f"report/{name}": paths.report / name for name in (SCORES, *pictures)}
    return {name: _checksum(path) for name, path in files.items()}


def _checksum(path: Path) -> str:
    try:
        return sha256(path)
    except FileNotFoundError:
        raise InputError(path, "no such file, but the report stands on it", "run 'hpc-galaxy realism' again") from None
    except OSError as error:
        raise InputError(path, f"cannot be read ({error.strerror})", "check its permissions and the file system") from error
