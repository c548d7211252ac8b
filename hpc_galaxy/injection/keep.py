"""What is kept of each fake, to look at: its light alone, and the coadds without and with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from hpc_galaxy.bricks.galaxies import Stamp
from hpc_galaxy.bricks.geometry import PIXEL_SCALE
from hpc_galaxy.bricks.images import BANDS
from hpc_galaxy.files import whole_file
from hpc_galaxy.shards.hdf5 import new_hdf5, write_attributes

FORMAT, VERSION = "hpc_galaxy injected", 1
SIZE = 64


class Keeper:
    """Collects stamps of a realisation's fakes.

    Parameters
    ----------
    names : tuple of str
        Which of ``noiseless``, ``before`` and ``after``.
    fakes, kept : ndarray
        Galaxies (`hpc_galaxy.bricks.galaxies.GALAXY_DTYPE`) and the rows that are injected.
    planes : dict of ndarray
        ``image_<band>``, each of shape (ny, nx): before anything is injected.
    """

    def __init__(self, names: tuple[str, ...], fakes: np.ndarray, kept: np.ndarray, planes: dict[str, np.ndarray]) -> None:
        self.names, self.kept = names, kept
        self.x, self.y = fakes["x"][kept], fakes["y"][kept]
        # The first pixel of a stamp, as the extraction has it.
        self.left, self.bottom = (np.ceil(values - SIZE / 2).astype(int) for values in (self.x, self.y))
        self._place = {int(row): number for number, row in enumerate(kept)}
        self.stamps: dict[str, np.ndarray] = {}
        if "noiseless" in names:
            self.stamps["noiseless"] = self._empty()
        if "before" in names:
            self.stamps["before"] = self._cut(planes)

    def seen(self, row: int, band: str, stamp: Stamp) -> None:
        """Keep the noiseless light of one fake in one band."""
        number = self._place[row]
        if "noiseless" in self.stamps and stamp.pixels.size:
            target = self.stamps["noiseless"][number, :, :, BANDS.index(band)]
            to_y, from_y = _overlap(self.bottom[number], stamp.rows)
            to_x, from_x = _overlap(self.left[number], stamp.columns)
            target[to_y, to_x] = stamp.pixels[from_y, from_x]

    def write(self, path: Path, planes: dict[str, np.ndarray], about: dict[str, Any]) -> None:
        """Write the file; `planes` are the coadds with all fakes in them, `about` goes into its attributes."""
        if "after" in self.names:
            self.stamps["after"] = self._cut(planes)
        with whole_file(path) as temporary, new_hdf5(temporary) as (file, _):
            write_attributes(file.attrs, {"format": FORMAT, "version": VERSION, "bands": list(BANDS), "pixscale": PIXEL_SCALE, **about})
            for name, values in (("id", self.kept.astype("<i8")), ("x", self.x), ("y", self.y)):
                file.create_dataset(name, data=values)
            for name in ("noiseless", "before", "after"):
                if name in self.stamps:
                    chunks = (1, *self.stamps[name].shape[1:]) if len(self.kept) else None
                    file.create_dataset(name, data=self.stamps[name], chunks=chunks, fletcher32=chunks is not None)

    def _empty(self) -> np.ndarray:
        return np.zeros((len(self.kept), SIZE, SIZE, len(BANDS)), np.float32)

    def _cut(self, planes: dict[str, np.ndarray]) -> np.ndarray:
        """Return stamps, shape (N, `SIZE`, `SIZE`, bands), of the images; 0 beyond the coadd."""
        stamps = self._empty()
        for band in BANDS:
            image = planes[f"image_{band}"]
            rows, columns = slice(0, image.shape[0]), slice(0, image.shape[1])
            for number, stamp in enumerate(stamps):
                to_y, from_y = _overlap(self.bottom[number], rows)
                to_x, from_x = _overlap(self.left[number], columns)
                stamp[to_y, to_x, BANDS.index(band)] = image[from_y, from_x]
        return stamps


def _overlap(first: int, other: slice) -> tuple[slice, slice]:
    """Return the part of a stamp that begins at `first` and the part of `other` that are the same pixels."""
    begin = max(first, other.start)
    end = max(begin, min(first + SIZE, other.stop))
    return slice(begin - first, end - first), slice(begin - other.start, end - other.start)
