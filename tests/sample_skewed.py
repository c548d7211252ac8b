"""Made-up source tables in which fake galaxies are fainter than real ones."""

from __future__ import annotations

import numpy as np

COLUMNS = ["mag_g", "mag_r", "mag_z", "shape_r", "ellipticity", "psfsize_r", "depth_r"]


def skewed(size: int, groups: int, shift: float, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return columns, labels and groups of `size` sources a class, detected in r < 24; fakes are `shift` magnitudes fainter.

    Counts rise towards the limit, sizes shrink with magnitude, colours scatter, and seeing and depth belong to the group.
    """
    rng = np.random.default_rng(seed)
    names = rng.integers(0, 2**63, groups, dtype=np.uint64) * np.uint64(2) + rng.integers(0, 2, groups, dtype=np.uint64)
    seeing, depth = rng.normal(1.3, 0.1, groups), rng.normal(24.3, 0.1, groups)
    parts, members = [], []
    for label in (0, 1):
        count = 4 * size
        r = np.log10(rng.uniform(10 ** (0.33 * 19.5), 10 ** (0.33 * 24.2), count)) / 0.33
        radius = 0.55 * 10 ** (-0.09 * (r - 22) + rng.normal(0, 0.18, count))
        group = rng.integers(0, groups, count)
        r = r + label * shift
        r = r + rng.normal(0, 0.2, count) * 10 ** (0.4 * (r - depth[group]))
        ellipticity = np.where(r < 22.5, np.abs(rng.normal(0, 0.25, count)), 0)
        columns = [r + rng.normal(0.6, 0.3, count), r, r - rng.normal(0.75, 0.25, count), radius, ellipticity, seeing[group], depth[group]]
        kept = np.flatnonzero(r < 24)[:size]
        parts.append(np.stack(columns, axis=1)[kept])
        members.append(group[kept])
    labels = np.repeat(np.array([0, 1], np.uint8), [len(part) for part in parts])
    order = rng.permutation(len(labels))
    return np.concatenate(parts).astype(np.float32)[order], labels[order], names[np.concatenate(members)][order]
