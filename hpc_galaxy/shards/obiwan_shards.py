"""The shards of 2018 (obiwan): a folder a brick, channels interleaved. For the network of 2018; this package does not read them.

Its reader (``dplearn/cnn.py``) takes brick after brick from a list, loads ``xtrain_*.npy`` and the ``ytrain_*.npy`` beside it from
``testtrain/<AAA>/<brick>``, and cuts each file into ``N // batch + 1`` batches. There are no tables, no checksums and no manifest.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from hpc_galaxy.errors import ConfigError
from hpc_galaxy.files import write_text
from hpc_galaxy.shards.manifest import SHARD_SIZE
from hpc_galaxy.shards.numpy_shards import write_array
from hpc_galaxy.shards.schema import DEFAULT, STAMP_DTYPE, StampFormat


def obiwan_folder(root: Path, brick: str) -> Path:
    """Return ``root/testtrain/AAA/brick``, where AAA is the first three characters of the brick's name."""
    return root / "testtrain" / brick[:3] / brick


def require_obiwan(stamps: StampFormat, storage: str = "float32") -> None:
    """Refuse what the shards of 2018 have no place for.

    Parameters
    ----------
    stamps : StampFormat
        What the stamps of the cutout files are made of.
    storage : str
        The configured `Split.storage`.

    Raises
    ------
    ConfigError
        Anything but 64 x 64 float32 stamps of image and inverse variance in g, r, z.
    """
    for key, got, expected in (
        ("extract.bands", list(stamps.bands), list(DEFAULT.bands)),
        ("extract.planes", list(stamps.planes), list(DEFAULT.planes)),
        ("extract.size", stamps.size, DEFAULT.size),
        ("split.storage", storage, "float32"),
    ):
        if got != expected:
            raise ConfigError(key, f"is {got}, expected {expected} in the layout 'obiwan'", "or set split.layout = 'shards'")


def write_obiwan(root: Path, split: str, brick: str, number: int, x: np.ndarray, y: np.ndarray) -> None:
    """Write ``x<split>_<number>.npy`` and ``y<split>_<number>.npy`` of one brick, each of them whole or not at all.

    Parameters
    ----------
    root : Path
        What 2018's reader calls ``dr5_testtrain``.
    split, brick : str
        ``train``, ``valid`` or ``test``; the brick's name.
    number : int
        Of the file within the brick and split, from 1 on.
    x : ndarray, shape (n, 64, 64, 6), float32
        Stamps, axes (stamp, y, x, channel), channels as in `DEFAULT`; at most 512. Stored with axes (stamp, x, y, channel), channels
        g, ivar_g, r, ivar_r, z, ivar_z: what ``np.stack([img, ivar], axis=-1).reshape(64, 64, 6)`` makes of 2018's cutouts.
    y : ndarray, shape (n,)
        Labels, 0 real, 1 fake. Stored as float64, as 2018 did.

    Raises
    ------
    ValueError
        The arrays are not of this kind: a mistake of the caller's.
    OutputError
        A file cannot be written.
    """
    if x.dtype != STAMP_DTYPE or x.shape[1:] != DEFAULT.shape or not 0 < len(x) <= SHARD_SIZE:
        raise ValueError(f"x is {x.dtype.str} {x.shape}, expected 1 to {SHARD_SIZE} stamps {DEFAULT.shape} of {STAMP_DTYPE.str}")
    if y.shape != (len(x),) or number < 1:
        raise ValueError(f"y has shape {y.shape}, and number is {number}; expected {(len(x),)}, and a number from 1")
    folder = obiwan_folder(root, brick)
    # x is the last to be written: the reader looks for it, and opens y then.
    write_array(folder / f"y{split}_{number}.npy", np.ascontiguousarray(y, np.float64))
    write_array(folder / f"x{split}_{number}.npy", _interleaved(x))


def _interleaved(x: np.ndarray) -> np.ndarray:
    """Return the stamps transposed, and of each band the image and its inverse variance side by side."""
    bands = len(DEFAULT.bands)
    out = np.empty((*x.shape[:3], bands, len(DEFAULT.planes)), STAMP_DTYPE)
    for plane in range(len(DEFAULT.planes)):
        out[..., plane] = x[..., plane * bands : (plane + 1) * bands].transpose(0, 2, 1, 3)
    return out.reshape(x.shape)


def write_brick_list(root: Path, split: str, bricks: Iterable[str]) -> Path:
    """Write ``root/bricks_<split>.txt``, a brick's name a line: 2018's reader fails at a brick that has no file. Return its path."""
    path = root / f"bricks_{split}.txt"
    write_text(path, "".join(f"{brick}\n" for brick in bricks))
    return path
