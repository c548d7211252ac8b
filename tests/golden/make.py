"""Write the golden files, one of each format, of the present version: ``PYTHONPATH=tests python tests/golden/make.py``.

To be run only when a version is added.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from sample_shards import write_golden

from hpc_galaxy.shards.cutout_file import write_cutouts
from hpc_galaxy.shards.schema import SOURCE_DTYPE, StampFormat

HERE = Path(__file__).parent


def main() -> None:
    y, x, channel = np.mgrid[:64, :64, :6]
    images = np.stack([x + 100 * y + 10000 * channel] * 2).astype(np.float32)
    table = np.zeros(2, SOURCE_DTYPE)
    table["id"], table["label"], table["brick"] = [b"9010-329231-7", b"rs0-1211p060-3"], [0, 1], b"1211p060"
    table["mag_r"], table["bx"], table["by"] = 22.25, 1000, 2000
    table["psfdepth_r"], table["injected"] = 400, [0, 2**64 - 1]
    write_cutouts(HERE / "cutouts_v3.h5", images[1:], table[1:], {"brick": "1211p060", "label": "fake"})
    write_compressed(HERE / "cutouts_v3_bitshuffle.h5")
    write_golden(HERE)


def write_compressed(path: Path) -> None:
    """Write a file of another format: one band, small stamps, rounded and compressed."""
    stamps = StampFormat(("r",), ("image", "invvar"), 16)
    y, x = np.mgrid[:16, :16]
    images = np.stack([x + 16 * y, 0 * x + 1], axis=-1)[None].astype(np.float32)
    table = np.zeros(1, stamps.source_dtype)
    table["id"], table["brick"], table["bx"], table["by"] = b"9010-329231-7", b"1211p060", 1000, 2000
    write_cutouts(path, images, table, {"brick": "1211p060", "label": "real"}, stamps, compression="bitshuffle", mantissa_bits=9)


if __name__ == "__main__":
    main()
