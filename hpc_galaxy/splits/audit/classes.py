"""Checks of what differs between the classes in the pixels, though it should not: centring, missing data, numbers."""

from __future__ import annotations

import numpy as np

from hpc_galaxy.shards.rounding import MANTISSA_BITS
from hpc_galaxy.shards.schema import LABELS
from hpc_galaxy.splits.audit.examples import Examples
from hpc_galaxy.splits.audit.findings import Finding, Result, judge, worst
from hpc_galaxy.splits.audit.grouped import Difference, Limits, difference
from hpc_galaxy.splits.audit.measure import SHARES, count_bits

CENTROID = Limits(warn=(3.0, 0.02), fail=(4.0, 0.05))  # pixels; 2018's defect was 1, injection is tested to 0.02
SHARE = Limits(warn=(3.0, 0.005), fail=(4.0, 0.02))
BRIGHT = 10.0  # signal to noise ratio from which a galaxy has a centroid
INVVAR_BITS = 3  # a few constant noise maps may end on 0 by chance; pixels with noise do not


def check_classes(examples: Examples) -> list[Finding]:
    """Return the findings on centroids, edges, numbers, zeros and bits."""
    return [*centring(examples), edges(examples), unnumbered(examples), *zeros(examples), bits(examples)]


def centring(examples: Examples) -> list[Finding]:
    """Compare where the light is, relative to the catalog's position, along both axes."""
    if "image" not in examples.manifest.stamps.planes:
        return [Finding("centroid", "pass", "no images in these stamps")]
    bright = examples.sample["snr"] > BRIGHT
    return [_centring(examples, axis, bright) for axis in ("x", "y")]


def _centring(examples: Examples, axis: str, bright: np.ndarray) -> Finding:
    offset = difference(examples.sample[axis][bright], examples.labels[bright], examples.groups[bright])
    counts = [int((examples.labels[bright] == label).sum()) for label in LABELS.values()]
    numbers = {**offset.numbers(), "examples": dict(zip(LABELS, counts, strict=True)), "snr": BRIGHT}
    if min(counts) < 2:
        advice = f"too few galaxies of a signal to noise ratio above {BRIGHT:g} to tell; audit a larger set"
        return Finding(f"centroid {axis}", "warn", "not known", advice, numbers)
    found = f"real {offset.real:+.3f}, fake {offset.fake:+.3f}, difference {offset.value:+.3f} +- {offset.error:.3f} px"
    found += f" ({offset.sigma:.1f} sigma)"
    advice = (
        "the light of the classes lies differently around the catalog's position, and a network will find that; count pixels from 0 or "
        "from 1 in all tables alike, and compare with injection.defects.centroid = 0"
    )
    return Finding(f"centroid {axis}", CENTROID.judge(offset), found, advice, numbers)


def edges(examples: Examples) -> Finding:
    """Compare the shares of stamps that reach over their coadd's edge."""
    keys = examples.keys
    share = difference(keys["edge"].astype(np.float64), keys["label"], keys["group"])
    advice = "blank margins tell the classes apart; select real and fake galaxies on the same part of the bricks"
    return Finding("edges", SHARE.judge(share), f"stamps over the edge: {_percent(share)}", advice, share.numbers())


def unnumbered(examples: Examples) -> Finding:
    """Count pixels that are no numbers."""
    keys = examples.keys
    counts = {name: int(keys["unnumbered"][keys["label"] == label].sum(dtype=np.int64)) for name, label in LABELS.items()}
    found = f"pixels that are no numbers: real {counts['real']}, fake {counts['fake']}"
    advice = "one of them makes a network's weights NaN; run 'hpc-galaxy check', and mend the coadds"
    return Finding("no numbers", judge(sum(counts.values()) > 0, False), found, advice, counts)


def zeros(examples: Examples) -> list[Finding]:
    """Compare how often there are no data, pixels of exactly 0, and light where there are no data."""
    return [
        _zeros(examples, "no data", ("no_data", "no_data_centre"), "inverse variance 0"),
        _zeros(examples, "no light", ("no_light", "no_light_centre"), "value exactly 0"),
        _zeros(examples, "light without data", ("light_without_data",), "stamps with any"),
    ]


def _zeros(examples: Examples, name: str, columns: tuple[str, ...], what: str) -> Finding:
    shares = {column: difference(examples.sample[column], examples.labels, examples.groups) for column in columns}
    known = {column: share for column, share in shares.items() if np.isfinite(share.value)}
    if not known:
        return Finding(name, "pass", "not in these stamps")
    results: dict[str, Result] = {column: SHARE.judge(share) for column, share in known.items()}
    parts = [f"{'near the centre: ' if column.endswith('centre') else ''}{_percent(share)}" for column, share in known.items()]
    told = [f"{SHARES[column]}, {_percent(known[column])}" for column, result in results.items() if result != "pass"]
    advice = f"{'; '.join(told)}; treat bad pixels of real and fake alike, in masks, injection and selection"
    numbers = {column: share.numbers() for column, share in known.items()}
    return Finding(name, worst(list(results.values())), f"{what}: {'; '.join(parts)}", advice, numbers)


def _percent(share: Difference) -> str:
    return f"real {100 * share.real:.2f} %, fake {100 * share.fake:.2f} % ({share.sigma:.1f} sigma)"


def bits(examples: Examples) -> Finding:
    """Compare how many bits of the pixels' mantissas are in use: rounding leaves its mark whatever the files say."""
    channels, used, shares = examples.manifest.stamps.channels, {}, {}
    for name, label in LABELS.items():
        here = examples.sample[examples.labels == label]
        if not len(here):
            return Finding("bits in use", "warn", f"no {name} galaxies", "an audit needs both classes")
        used[name] = count_bits(np.bitwise_or.reduce(here["bits"], axis=0))
        shares[name] = here["image_bits"]
    apart = np.abs(used["real"].astype(int) - used["fake"])
    limits = [1 if channel.startswith("image") else INVVAR_BITS for channel in channels]
    differing = [channel for channel, gap, limit in zip(channels, apart, limits, strict=True) if gap >= limit]
    # Where some files of a class were rounded and others not, the bits of the whole class do not show it.
    full = difference(_full(examples), examples.labels, examples.groups)
    failed = bool(differing) or SHARE.judge(full) == "fail"
    numbers = {"channels": list(channels), **{name: values.tolist() for name, values in used.items()}, "full": full.numbers()}
    ranges = {
        name: f"{values.min()}" if values.min() == values.max() else f"{values.min()} to {values.max()}" for name, values in used.items()
    }
    found = f"of {MANTISSA_BITS} bits of mantissa: real {ranges['real']}, fake {ranges['fake']}; all of a stamp's: {_percent(full)}"
    where = f" in {', '.join(differing)}" if differing else ""
    advice = (
        f"the classes' pixels were rounded or compressed differently{where}; extract both with one setting of mantissa_bits and compression"
    )
    return Finding("bits in use", judge(failed, SHARE.judge(full) == "warn"), found, advice, numbers)


def _full(examples: Examples) -> np.ndarray:
    """Return which stamps' images use as many bits as any does, shape (M,), float64; NaN where all is 0."""
    bits = examples.sample["image_bits"].astype(np.float64)
    return np.where(bits < 0, np.nan, bits == bits.max(initial=0))
