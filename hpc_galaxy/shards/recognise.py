"""Which format stamps are of, from what a file says about its channels and their shape."""

from __future__ import annotations

from collections.abc import Sequence

from hpc_galaxy.shards.schema import StampFormat

PLANES = ("image", "invvar")
BANDS = ("g", "r", "i", "z")
SIZES = range(8, 513, 2)


def recognise(channels: Sequence[object], shape: Sequence[object]) -> StampFormat | None:
    """Return the format whose channels and stamp shape these are, or None where there is no such format.

    Parameters
    ----------
    channels : sequence of str
        Such as ``image_g``; all bands of the first plane, then all of the second.
    shape : sequence of int
        Axes (y, x, channel).
    """
    pairs = [str(channel).split("_") for channel in channels]
    if not pairs or not shape or any(len(pair) != 2 for pair in pairs):
        return None
    planes, bands = (tuple(dict.fromkeys(names)) for names in zip(*pairs, strict=True))
    if not set(planes) <= set(PLANES) or not set(bands) <= set(BANDS) or shape[0] not in SIZES:
        return None
    stamps = StampFormat(bands, planes, int(str(shape[0])))
    return stamps if stamps.channels == tuple(channels) and stamps.shape == tuple(shape) else None
