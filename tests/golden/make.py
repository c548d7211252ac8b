"""Write the golden files, one of each format, of the present version: ``PYTHONPATH=tests python tests/golden/make.py``.

To be run only when a version is added.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from sample_shards import save_manifest

from hpc_galaxy.shards.cutout_file import write_cutouts
from hpc_galaxy.shards.numpy_shards import write_shard
from hpc_galaxy.shards.schema import SOURCE_DTYPE

HERE = Path(__file__).parent


def main() -> None:
    y, x, channel = np.mgrid[:64, :64, :6]
    images = np.stack([x + 100 * y + 10000 * channel] * 2).astype(np.float32)
    table = np.zeros(2, SOURCE_DTYPE)
    table["id"], table["label"], table["brick"] = [b"9010-329231-7", b"rs0-1211p060-3"], [0, 1], b"1211p060"
    table["mag_r"] = 22.25
    write_cutouts(HERE / "cutouts_v1.h5", images[:1], table[:1], {"brick": "1211p060", "label": "real"})
    save_manifest(HERE / "shards_v1", {"train": [write_shard(HERE / "shards_v1", "train", 0, images, table)]})


if __name__ == "__main__":
    main()
