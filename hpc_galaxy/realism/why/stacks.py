"""Mean real, mean fake, and their difference over its error, pixel by pixel."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from hpc_galaxy.bricks.geometry import PIXEL_SCALE
from hpc_galaxy.chance import normal_from_tail, student_tail
from hpc_galaxy.realism.mosaic import brightness_band
from hpc_galaxy.shards.numpy_shards import SplitReader
from hpc_galaxy.shards.schema import StampFormat
from hpc_galaxy.training.data.order import rank_part
from hpc_galaxy.world import World

PARTS = {"all": (0, 1, 2), "bright half": (0,), "faint half": (1,)}  # of the halves: bright, faint, and those without a magnitude
HALVES = 3
GROUPS = 100  # sums that are kept: 60 MB of stamps of 64 x 64 x 3
CHUNK = 64  # stamps in memory at a time, 6 MB
CENTRE = 1.0  # arcsec from the middle
SMALLEST = 1e-300  # p-value; it is 37 sigma


@dataclass(frozen=True)
class Membership:
    """Which sum each example of a split is added to.

    Attributes
    ----------
    group : ndarray, shape (N,), int16
        A brick's, or that of several bricks where there are more than `GROUPS`; from 0.
    label, half : ndarray, shape (N,), uint8
        0 real or 1 fake; 0 bright, 1 faint, 2 where the magnitude is not known.
    """

    group: np.ndarray
    label: np.ndarray
    half: np.ndarray

    @property
    def groups(self) -> int:
        """How many groups there are."""
        return int(self.group.max()) + 1

    @cached_property
    def counts(self) -> np.ndarray:
        """Examples by group, class and half, shape (groups, 2, 3)."""
        place = (self.group.astype(np.int64) * 2 + self.label) * HALVES + self.half
        return np.bincount(place, minlength=self.groups * 2 * HALVES).reshape(self.groups, 2, HALVES)


def membership(table: np.ndarray, labels: np.ndarray, stamps: StampFormat) -> Membership | str:
    """Return what each example is added to, or why there can be no stacks.

    Bright and faint are divided by the median magnitude of both classes together, in `hpc_galaxy.realism.mosaic.brightness_band`.

    Parameters
    ----------
    table, labels : ndarray, shape (N,)
        The split's table, and 0 real or 1 fake.
    stamps : StampFormat
        What the stamps are made of.
    """
    names, member = np.unique(table["brick"], return_inverse=True)
    if "image" not in stamps.planes:
        return "the shards hold no images"
    if len(np.unique(labels)) < 2:
        return "one class is missing"
    if len(names) < 2:
        return "there is one brick, and an error needs two"
    magnitudes = table[f"mag_{brightness_band(stamps)}"].astype(float)
    half, known = np.full(len(table), 2, np.uint8), np.isfinite(magnitudes)
    if known.any():
        half[known] = magnitudes[known] > np.median(magnitudes[known])
    return Membership((member % GROUPS).astype(np.int16), np.asarray(labels, np.uint8), half)


def add_up(reader: SplitReader, members: Membership, world: World) -> np.ndarray | None:
    """Return the sums of the images on rank 0, None elsewhere. Collective.

    Each rank adds up groups of its own, in the order of the split, so that the sums have the same bits at any number of ranks. Every
    stamp is read once, `CHUNK` at a time.

    Parameters
    ----------
    reader : SplitReader
        The split.
    members : Membership
        The same on every rank.
    world : World
        Every rank must call this.

    Returns
    -------
    ndarray, shape (groups, 2, 3, size, size, bands), float64
        By group, class and half, nanomaggies. Pixels without data count as 0, which is what the network sees.
    """
    stamps, mine = reader.stamp_format, rank_part(members.groups, world)
    bands = len(stamps.bands)
    first = stamps.planes.index("image") * bands
    sums = np.zeros((mine.stop - mine.start, 2, HALVES, stamps.size, stamps.size, bands))
    for rows, images in _chunks(reader, np.flatnonzero((members.group >= mine.start) & (members.group < mine.stop))):
        places = zip(members.group[rows] - mine.start, members.label[rows], members.half[rows], images, strict=True)
        for group, label, half, image in places:
            sums[group, label, half] += image[..., first : first + bands]
    parts = world.gather(sums)
    return np.concatenate(parts) if world.is_root else None


def _chunks(reader: SplitReader, rows: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    buffer = np.empty((min(CHUNK, len(rows)), *reader.stamp_format.shape), np.float32)
    for start in range(0, len(rows), CHUNK):
        chunk = rows[start : start + CHUNK]
        yield chunk, reader.stamps(chunk, out=buffer[: len(chunk)])


@dataclass(frozen=True)
class Stack:
    """Mean real and fake galaxies, and how they differ.

    Attributes
    ----------
    part : str
        A key of `PARTS`.
    counts : (int, int)
        Real and fake galaxies.
    groups : int
        So many groups of bricks have any of them.
    means : ndarray, shape (2, size, size, bands)
        Of real, and of fake; nanomaggies.
    influence : ndarray, shape (groups, size, size, bands)
        What each group adds to the difference beyond the mean: their squares make its error.
    """

    part: str
    counts: tuple[int, int]
    groups: int
    means: np.ndarray
    influence: np.ndarray

    @property
    def difference(self) -> np.ndarray:
        """Real minus fake, shape (size, size, bands), nanomaggies."""
        return np.asarray(self.means[0] - self.means[1])

    @cached_property
    def significance(self) -> np.ndarray:
        """The difference over its error, shape (size, size, bands), as sigma of a normal distribution."""
        return self.sigma(self.difference, self.error(self.influence))

    def error(self, influence: np.ndarray) -> np.ndarray:
        """Return the standard error that goes with influences by group; galaxies of a group may depend on each other in any way."""
        return np.sqrt(self.groups / (self.groups - 1) * np.sum(influence**2, axis=0))

    def sigma(self, difference: np.ndarray, error: np.ndarray) -> np.ndarray:
        """Return sigma of a normal distribution: few groups estimate an error badly, which Student's t allows for."""
        ratio = np.divide(np.abs(difference), error, out=np.where(difference == 0, 0.0, np.inf), where=error > 0)
        tail = np.maximum(student_tail(ratio, self.groups - 1), SMALLEST)
        return np.asarray(np.sign(difference) * normal_from_tail(tail))

    def rows(self, bands: tuple[str, ...]) -> list[dict[str, Any]]:
        """Return the numbers of each band, ready for JSON."""
        middle = _middle(self.means.shape[1])
        flux, error = self.difference[middle].sum(axis=0), self.error(self.influence[:, middle].sum(axis=1))
        return [
            {
                "part": self.part,
                "band": band,
                "reals": self.counts[0],
                "fakes": self.counts[1],
                "groups": self.groups,
                "largest_sigma": _largest(self.significance[..., number]),
                "central_difference": float(flux[number]),
                "central_error": float(error[number]),
                "chi2_per_pixel": float(np.mean(self.significance[..., number] ** 2)),
            }
            for number, band in enumerate(bands)
        ]


def _middle(size: int) -> np.ndarray:
    """Return which pixels have their centres within `CENTRE` of the middle of a stamp, shape (size, size), bool."""
    offset = (np.arange(size) - (size - 1) / 2) * PIXEL_SCALE
    return np.asarray(np.hypot(offset, offset[:, None]) <= CENTRE)


def _largest(sigma: np.ndarray) -> float:
    return float(sigma.flat[np.argmax(np.abs(sigma))])


def largest_by_chance(pixels: int) -> float:
    """Return what the largest of so many independent sigma exceeds in one case of two where nothing differs."""
    return float(normal_from_tail(-np.expm1(np.log(0.5) / pixels) / 2))


def make_stacks(sums: np.ndarray, members: Membership) -> list[Stack]:
    """Return the stacks of `PARTS`; without those that lack a class or a second group.

    A group's influence on the difference is what its sums add to it beyond the means, as `hpc_galaxy.realism.clustered.clustered_auc`
    does for the AUC.
    """
    stacks = []
    for part, halves in PARTS.items():
        counts, images = members.counts[:, :, halves].sum(axis=2), sums[:, :, halves].sum(axis=2)
        used = counts.any(axis=1)
        total = counts.sum(axis=0)
        if used.sum() < 2 or not total.all():
            continue
        means = images.sum(axis=0) / total[:, None, None, None]
        beyond = (images[used] - counts[used][..., None, None, None] * means) / total[:, None, None, None]
        reals, fakes = total.tolist()
        stacks.append(Stack(part, (reals, fakes), int(used.sum()), means, beyond[:, 0] - beyond[:, 1]))
    return stacks
