"""Cutout files of noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hpc_galaxy.shards.cutout_file import cutout_path, write_cutouts
from hpc_galaxy.shards.schema import StampFormat


def sample(count: int = 3, stamps: StampFormat | None = None) -> tuple[np.ndarray, np.ndarray]:
    stamps = stamps or StampFormat()
    images = np.random.default_rng(1).normal(size=(count, *stamps.shape)).astype(np.float32)
    sources = np.zeros(count, stamps.source_dtype)
    sources["id"] = [f"9999-1-{number}".encode() for number in range(count)]
    return images, sources


def write_sample(root: Path) -> Path:
    """Write the file of three real galaxies."""
    path = cutout_path(root, "real", "1211p060")
    write_cutouts(path, *sample(), {"brick": "1211p060", "cut_flow": {"primary": 2}})
    return path
