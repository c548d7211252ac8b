"""Write the golden files: one of each format, of the present version. Run it only when a version is added."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hpc_galaxy.shards.cutout_file import write_cutouts
from hpc_galaxy.shards.manifest import Manifest, Statistics
from hpc_galaxy.shards.numpy_shards import write_shard
from hpc_galaxy.shards.schema import CHANNELS, LABELS, SOURCE_DTYPE, STAMP_SHAPE

HERE = Path(__file__).parent


def main() -> None:
    y, x, channel = np.mgrid[:64, :64, :6]
    images = np.stack([x + 100 * y + 10000 * channel] * 2).astype(np.float32)
    table = np.zeros(2, SOURCE_DTYPE)
    table["id"], table["label"], table["brick"] = [b"9010-329231-7", b"rs0-1211p060-3"], [0, 1], b"1211p060"
    table["mag_r"] = 22.25
    write_cutouts(HERE / "cutouts_v1.h5", images[:1], table[:1], {"brick": "1211p060", "label": "real"})
    Manifest(
        code_version="0.1.0",
        fingerprint="golden",
        seed=1,
        channels=list(CHANNELS),
        stamp_shape=list(STAMP_SHAPE),
        labels=LABELS,
        statistics=Statistics(scale=[1.0] * 6, mean=[0.0] * 6, std=[1.0] * 6),
        splits={"train": [write_shard(HERE / "shards_v1", "train", 0, images, table)], "valid": [], "test": []},
        report={},
    ).save(HERE / "shards_v1")


if __name__ == "__main__":
    main()
