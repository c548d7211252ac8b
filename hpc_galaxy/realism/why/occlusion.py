"""What the network looks at: how its answer changes where a patch of a stamp is hidden."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from hpc_galaxy.bricks.geometry import PIXEL_SCALE
from hpc_galaxy.shards.numpy_shards import SplitReader
from hpc_galaxy.training.data.batches import read_ahead
from hpc_galaxy.training.data.inputs import Inputs
from hpc_galaxy.training.data.order import rank_part
from hpc_galaxy.world import World

PATCHES = 8  # in a row of a stamp
NEAR = 2.0  # arcsec from the middle
ALL = "all"  # channels at once


@dataclass(frozen=True)
class Patches:
    """Where patches lie that are hidden.

    Every pixel is hidden at least once: patches lie beside each other over the whole stamp, one of them in its middle. In the middle
    of the stamp, where the galaxy is, they overlap by half.

    Attributes
    ----------
    size : int
        Of the stamp, pixels.
    """

    size: int

    @property
    def side(self) -> int:
        """Of a patch, pixels."""
        return max(self.size // PATCHES, 1)

    def corners(self) -> np.ndarray:
        """Return the first row and column of each patch, shape (n, 2), int; at the edges patches reach out of the stamp."""
        middle, half = (self.size - self.side) // 2, max(self.side // 2, 1)
        every = -(-max(middle, self.size - middle - self.side) // self.side)
        coarse = [middle + step * self.side for step in range(-every, every + 1)]
        fine = [middle + step * half for step in range(-3, 4)]
        corners = {(y, x) for starts in (coarse, fine) for y in starts for x in starts}
        inside = range(1 - self.side, self.size)
        return np.array(sorted((y, x) for y, x in corners if y in inside and x in inside))

    def slices(self) -> Iterator[tuple[slice, slice]]:
        """Yield the rows and columns of each patch that lie within the stamp."""
        for corner in self.corners().tolist():
            rows, columns = (slice(max(start, 0), min(start + self.side, self.size)) for start in corner)
            yield rows, columns

    def spread(self, changes: np.ndarray) -> np.ndarray:
        """Return maps, shape (..., size, size), of numbers for each patch, shape (..., n): at each pixel the mean of its patches'."""
        total, count = np.zeros((*changes.shape[:-1], self.size, self.size)), np.zeros((self.size, self.size))
        for number, (rows, columns) in enumerate(self.slices()):
            total[..., rows, columns] += changes[..., number, None, None]
            count[rows, columns] += 1
        return np.asarray(total / count)


@dataclass(frozen=True)
class Occlusion:
    """How the network's answer changes where a part of its input is hidden.

    Attributes
    ----------
    channels : tuple of str
        What is hidden, the first being all at once.
    patch : int
        Side of the patches, pixels.
    maps : ndarray, shape (galaxies, channels, size, size)
        By how much the logit of a galaxy's own class (minus the other's) falls where the patches over a pixel are hidden.
    """

    channels: tuple[str, ...]
    patch: int
    maps: np.ndarray

    def rows(self) -> list[dict[str, Any]]:
        """Return, for each channel, the mean near the middle and outside, with errors from the scatter between galaxies."""
        offset = (np.arange(self.maps.shape[-1]) - (self.maps.shape[-1] - 1) / 2) * PIXEL_SCALE
        near = np.hypot(offset, offset[:, None]) <= NEAR
        rows = []
        for number, channel in enumerate(self.channels):
            inner, outer = (_mean(self.maps[:, number][:, where]) for where in (near, ~near))
            rows.append(
                {"channel": channel, "within_2_arcsec": inner[0], "within_error": inner[1], "outside": outer[0], "outside_error": outer[1]}
            )
        return rows


def _mean(values: np.ndarray) -> tuple[float | None, float | None]:
    """Return the mean of values, shape (galaxies, pixels), and its error; None where there is nothing to take it of."""
    if not values.shape[1]:
        return None, None
    each = values.mean(axis=1)
    error = float(each.std(ddof=1) / np.sqrt(len(each))) if len(each) > 1 else None
    return float(each.mean()), error


def most_certain(labels: np.ndarray, scores: np.ndarray, count: int) -> np.ndarray:
    """Return the fakes with the highest and the reals with the lowest scores, `count` in all, shape (n,), int, as rows.

    Both classes have half of it (of an odd number the fakes have one more), or as many as there are.
    """
    fakes, reals = (np.flatnonzero(labels == label) for label in (1, 0))
    fakes = fakes[np.argsort(-scores[fakes], kind="stable")][: count - count // 2]
    reals = reals[np.argsort(scores[reals], kind="stable")][: count // 2]
    return np.concatenate([fakes, reals])


def occlude(
    model: nn.Module, device: torch.device, reader: SplitReader, inputs: Inputs, rows: np.ndarray, labels: np.ndarray, world: World
) -> Occlusion | None:
    """Hide patches of galaxies, one after the other, and return what that does to the answer (Zeiler & Fergus 2014, ECCV, 818). Collective.

    A patch is hidden by what the network would see there of sky without noise: flux 0, and the stamp's median inverse variance; in one
    channel of what the network sees at a time, and once in all of them. A galaxy takes one pass of its patches for each.

    Parameters
    ----------
    model, device : Module, device
        A network on its device; it is left in the mode that it was in.
    reader : SplitReader
        The split.
    inputs : Inputs
        What the network sees.
    rows, labels : ndarray, shape (n,), int
        Examples, the same on every rank; and 0 real or 1 fake for each.
    world : World
        Every rank must call this; each does a part.

    Returns
    -------
    Occlusion or None
        On rank 0, in the order of `rows`; None elsewhere.
    """
    patches, mine = Patches(inputs.size), rank_part(len(rows), world)
    sign = np.where(labels[mine] == 1, 1.0, -1.0)
    threads = torch.get_num_threads()
    workers = threads if device.type == "cpu" else 1

    def change(row: int) -> np.ndarray:
        # Threads take whole galaxies: shared among threads, sums would come out differently for another number of them.
        torch.set_num_threads(1)
        return _changes(model, device, patches, *_seen(reader, inputs, row))

    training = model.training
    model.eval()
    found = [np.zeros((0, len(inputs.channels) + 1, len(patches.corners())))]
    found += [each[None] for each in read_ahead(change, rows[mine].tolist(), workers, workers)]
    model.train(training)
    torch.set_num_threads(threads)
    parts = world.gather(np.concatenate(found) * sign[:, None, None])
    if not world.is_root:
        return None
    return Occlusion((ALL, *inputs.channels), patches.side, patches.spread(np.concatenate(parts)))


def _seen(reader: SplitReader, inputs: Inputs, row: int) -> tuple[np.ndarray, np.ndarray]:
    """Return what the network sees of a stamp, and of sky in its place; both of shape (size, size, channels), float32."""
    both = np.repeat(reader.stamps(np.array([row])), 2, axis=0)
    for channel, name in enumerate(inputs.stamps.channels):
        both[1, ..., channel] = np.median(both[0, ..., channel]) if name.startswith("invvar") else 0
    seen = np.empty((*both.shape[:3], len(inputs.channels)), np.float32)
    inputs.apply(both, seen)
    return seen[0], seen[1]


def _changes(model: nn.Module, device: torch.device, patches: Patches, seen: np.ndarray, sky: np.ndarray) -> np.ndarray:
    """Return by how much the logit of fake minus real falls, shape (channels + 1, patches); the first row hides all channels."""
    channels, places = seen.shape[2], list(patches.slices())
    changes = np.empty((channels + 1, len(places)))
    for number in range(channels + 1):
        hidden = slice(None) if number == 0 else slice(number - 1, number)
        batch = np.repeat(seen[None], len(places) + 1, axis=0)
        for image, (rows, columns) in zip(batch, places, strict=False):
            image[rows, columns, hidden] = sky[rows, columns, hidden]
        with torch.inference_mode():
            logits = model(torch.from_numpy(batch).permute(0, 3, 1, 2).to(device)).float().cpu().numpy().astype(np.float64)
        answers = logits[:, 1] - logits[:, 0]
        changes[number] = answers[-1] - answers[:-1]
    return changes
