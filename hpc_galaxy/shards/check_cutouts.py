"""What can be wrong with one file of stamps, in either layout."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from hpc_galaxy.errors import FormatError
from hpc_galaxy.shards.cutout_file import CutoutFile
from hpc_galaxy.shards.layout_2018 import File2018
from hpc_galaxy.shards.layouts import open_stamps
from hpc_galaxy.shards.rounding import MANTISSA_BITS, rounding_keys
from hpc_galaxy.shards.schema import CLASSES, StampFormat

BLOCK_BYTES = 32 << 20  # stamps read at a time
EXPECTED = {"count": "cutouts as its directory's ledger says", "fingerprint": "the fingerprint of its directory's stage"}

Stamps = CutoutFile | File2018


def check_stamps(path: Path, expected: dict[str, Any]) -> tuple[str, list[str]]:
    """Read every byte of a file of stamps.

    Parameters
    ----------
    path : Path
        The file.
    expected : dict
        What its directory says of it: ``count`` of stamps, ``fingerprint``.

    Returns
    -------
    description : str
        What it holds.
    problems : list of str
        All that is wrong.

    Raises
    ------
    FormatError, InputError
        Not even its structure is as specified.
    """
    with open_stamps(path) as file:
        problems = [*_compare(file, expected), *_check_attributes(file), *_check_pixels(file)]
        try:
            sources = file.sources()
        except FormatError as error:
            return f"{len(file)} cutouts", [*problems, error.problem]
        return f"{len(file)} cutouts", [*problems, *_check_sources(file, sources)]


def _compare(file: Stamps, expected: dict[str, Any]) -> Iterator[str]:
    found = {"count": len(file), "fingerprint": file.attributes.get("fingerprint")}
    for name, value in expected.items():
        if found[name] != value:
            yield f"has {name} {found[name]!r}, expected {value!r}, {EXPECTED[name]}"


def _check_attributes(file: Stamps) -> Iterator[str]:
    attributes = file.attributes
    if isinstance(file, File2018) and not attributes:
        return  # one of 2018's own
    for name, kind in (("brick", str), ("label", str)):
        if not isinstance(attributes.get(name), kind):
            yield f"attribute '{name}' is {attributes.get(name)!r}, expected text"
    if "label" in attributes and attributes["label"] not in CLASSES:
        yield f"attribute 'label' is {attributes['label']!r}, expected one of {', '.join(CLASSES)}"
    folders = _named_by_path(file)
    for name, value in folders.items():
        if attributes.get(name) != value:
            yield f"attribute '{name}' is {attributes.get(name)!r}, expected {value!r} as in its path"
    yield from _check_cut_flow(file)
    if isinstance(file, CutoutFile):
        yield from _check_rounding_attributes(attributes, file.stamps)


def _named_by_path(file: Stamps) -> dict[str, str]:
    """Return the class and brick that a file's place tells; nothing where it lies in no tree of cutouts."""
    path = file.path
    if isinstance(file, File2018):
        return {"brick": path.parent.name, "label": path.parents[3].name}
    label, folder, brick = path.parent.parent.name, path.parent.name, path.stem
    return {"brick": brick, "label": label} if folder == brick[:3] and label in CLASSES else {}


def _check_cut_flow(file: Stamps) -> Iterator[str]:
    if "cut_flow" not in file.attributes:
        return
    try:
        flow = {str(name): int(count) for name, count in json.loads(file.attributes["cut_flow"]).items()}
    except (TypeError, ValueError, AttributeError, RecursionError):
        yield "attribute 'cut_flow' is no JSON object of numbers"
        return
    if "catalog" in flow and 2 * flow["catalog"] - sum(flow.values()) != len(file):
        left = 2 * flow["catalog"] - sum(flow.values())
        yield f"has {len(file)} cutouts, expected {left}, which is what its cut flow leaves of {flow['catalog']}"


def _check_rounding_attributes(attributes: dict[str, Any], stamps: StampFormat) -> Iterator[str]:
    bits = attributes.get("mantissa_bits")
    if not isinstance(bits, int) or not 1 <= bits <= MANTISSA_BITS:
        yield f"attribute 'mantissa_bits' is {bits!r}, expected 1 to {MANTISSA_BITS}"
    elif bits < MANTISSA_BITS:
        for name in rounding_keys(stamps):
            value = attributes.get(name)
            if not isinstance(value, float) or not math.isfinite(value) or value < 0:
                yield f"attribute '{name}' is {value!r}, expected a number from 0, the error of rounding to {bits} bits"


def _check_pixels(file: Stamps) -> Iterator[str]:
    rows = max(1, BLOCK_BYTES // (4 * math.prod(file.stamps.shape)))
    counts = {"that are no numbers": 0, "of inverse variance below 0": 0, "with more bits than 'mantissa_bits'": 0}
    for start in range(0, len(file), rows):
        for images in _readable(file, start, min(start + rows, len(file))):
            if isinstance(images, str):
                yield images
            else:
                counts = {name: count + more for (name, count), more in zip(counts.items(), _bad_pixels(file, images), strict=True)}
    yield from (f"'images' has {count} pixels {name}, expected 0" for name, count in counts.items() if count)


def _readable(file: Stamps, start: int, stop: int) -> Iterator[np.ndarray | str]:
    """Yield the stamps of a block; where it cannot be read, stamp by stamp, those that cannot as what is wrong with them."""
    try:
        yield file.images(slice(start, stop))
    except FormatError as error:
        if stop - start == 1:
            yield f"stamp {start}: {error.problem}"
            return
        for row in range(start, stop):
            yield from _readable(file, row, row + 1)


def _bad_pixels(file: Stamps, images: np.ndarray) -> tuple[int, int, int]:
    bands, bits = len(file.stamps.bands), file.attributes.get("mantissa_bits", MANTISSA_BITS)
    negative = 0
    if "invvar" in file.stamps.planes:
        first = file.stamps.planes.index("invvar") * bands
        negative = int(np.count_nonzero(images[..., first : first + bands] < 0))
    unrounded = 0
    if isinstance(bits, int) and 1 <= bits < MANTISSA_BITS:
        unrounded = int(np.count_nonzero(images.view(np.uint32) & np.uint32((1 << (MANTISSA_BITS - bits)) - 1)))
    return images.size - int(np.count_nonzero(np.isfinite(images))), negative, unrounded


def _check_sources(file: Stamps, sources: np.ndarray) -> Iterator[str]:
    ids, counts = np.unique(sources["id"], return_counts=True)
    if len(ids) < len(sources):
        first, times, such = ids[counts > 1][0].decode(errors="replace"), counts[counts > 1][0], np.count_nonzero(counts > 1)
        yield f"id {first} occurs {times} times ({such} such), expected each once"
    if (ids == b"").any():
        yield "a source has no id"
    brick, label = file.attributes.get("brick"), file.attributes.get("label")
    for name, value in (("brick", str(brick).encode() if brick else None), ("label", CLASSES.get(str(label)))):
        wrong = 0 if value is None else int(np.count_nonzero(sources[name] != value))
        if wrong:
            yield f"{wrong} sources have another {name} than the file's attribute, {value!r}"
    yield from _check_edges(file, sources)


def _check_edges(file: Stamps, sources: np.ndarray) -> Iterator[str]:
    """Look for stamps that hang over a coadd's edge and are not flagged, and the other way round.

    A stamp that hangs over the edge has a border line without any data. How far a coadd reaches is not known here, but it begins
    at pixel 0.
    """
    half = file.stamps.size / 2
    with np.errstate(invalid="ignore"):
        over = (np.ceil(sources["bx"].astype(float) - half) < 0) | (np.ceil(sources["by"].astype(float) - half) < 0)
    missing = int(np.count_nonzero(over & ~sources["edge"]))
    if missing:
        yield f"{missing} stamps begin below pixel 0 and are not flagged 'edge'"
    full = [row for row in np.flatnonzero(sources["edge"]) if not _has_empty_border(file, int(row))]
    if full:
        yield f"{len(full)} stamps are flagged 'edge' and have data on all four borders, first: stamp {full[0]}"


def _has_empty_border(file: Stamps, row: int) -> bool:
    try:
        stamp = file.images(slice(row, row + 1))[0]
    except FormatError:
        return True  # that it cannot be read has been said
    return any(not border.any() for border in (stamp[0], stamp[-1], stamp[:, 0], stamp[:, -1]))
