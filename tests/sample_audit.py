"""Shards for the leak audit: real and fake galaxies alike in everything, with places to plant a leak."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hpc_galaxy.shards.manifest import SHARD_SIZE, SPLITS, Manifest, Statistics
from hpc_galaxy.shards.numpy_shards import write_shard
from hpc_galaxy.shards.schema import LABELS, StampFormat

STAMPS = StampFormat(size=32)
GROUPS, EACH = 30, 24  # sky groups, and galaxies in each: as many real as fake
NOISE = np.array([0.01, 0.015, 0.03])  # nanomaggies a pixel
GAIN = 6000.0
LIKE = {
    "code_version": ["1"],
    "compression": ["none"],
    "mantissa_bits": [23],
    "selection": ["elg"],
    "release": ["[9010]"],
    "fingerprint": ["f"],
}
MATCHED = {"columns": {"mag_r": {"smd_before": 0.3, "smd_after": 0.01}}, "tabular_auc_after": {"auc": 0.5, "interval": [0.47, 0.52]}}


@dataclass
class Toy:
    """What a test may spoil before it is written: stamps, table, the place of each in `SPLITS`, provenance, report."""

    x: np.ndarray
    table: np.ndarray
    side: np.ndarray
    provenance: dict[str, dict[str, list[Any]]]
    report: dict[str, Any]

    @property
    def fake(self) -> np.ndarray:
        return np.flatnonzero(self.table["label"] == LABELS["fake"])


def make_toy(seed: int, offset: float = 0.0, groups: int = GROUPS, each: int = EACH, wider: float = 1.0, brighter: float = 1.0) -> Toy:
    """Galaxies on sky noise, the brightness and seeing of a group their own; fakes are drawn `offset` pixels to the right, `wider` times
    as broad, and all galaxies are `brighter` times as bright.
    """
    rng = np.random.default_rng([seed, 77])
    member = np.repeat(np.arange(groups), each)
    table = make_table(rng, member)
    level = rng.uniform(0.7, 1.4, (groups, 1, 3))[member]
    width = rng.uniform(1.8, 2.4, groups)[member] * rng.uniform(0.9, 1.3, len(member)) * np.where(table["label"], wider, 1)
    flux = brighter * 10 ** ((22.5 - rng.uniform(20.5, 23.5, len(member))) / 2.5)
    at = [table[name] - np.ceil(table[name] - STAMPS.size / 2) for name in ("bx", "by")]
    profile = [
        np.exp(-((np.arange(STAMPS.size) - place[:, None]) ** 2) / (2 * width[:, None] ** 2))
        for place in (at[0] + offset * table["label"], at[1])
    ]
    light = (flux / (2 * np.pi * width**2))[:, None, None] * profile[1][:, :, None] * profile[0][:, None, :]
    variance = (NOISE * level[:, :, None, :]) ** 2 + light[..., None] / GAIN
    x = np.empty((len(member), *STAMPS.shape), np.float32)
    x[..., :3] = light[..., None] + rng.standard_normal(variance.shape) * np.sqrt(variance)
    x[..., 3:] = 1 / variance
    dead = np.flatnonzero(rng.random(len(member)) < 0.05)  # a column without data
    x[dead, :, rng.integers(0, STAMPS.size, len(dead))] = 0
    side = np.digitize(np.arange(groups), [0.5 * groups, 0.75 * groups])[member]
    return Toy(
        x, table, side, {label: dict(LIKE) for label in LABELS}, {"groups": {"kind": "brick", "guard_arcsec": 0.0}, "matching": MATCHED}
    )


def make_table(rng: np.random.Generator, member: np.ndarray) -> np.ndarray:
    """The groups are bricks half a degree apart."""
    table = np.zeros(len(member), STAMPS.example_dtype)
    names = np.array([f"{10 * number:04d}p000" for number in range(member.max() + 1)], "S8")
    table["label"] = np.arange(len(member)) % 2
    table["id"] = [f"id-{number}" for number in range(len(member))]
    table["brick"] = table["group"] = names[member]
    table["rs"] = b"rs0"
    table["bx"], table["by"] = rng.uniform(50, 900, (2, len(member)))
    table["ra"], table["dec"] = 10 + 0.5 * member + table["bx"] * 0.262 / 3600, table["by"] * 0.262 / 3600
    fake = table["label"] == 1
    table["injected"][fake] = 1 + np.arange(fake.sum())
    table["edge"] = rng.random(len(member)) < 0.1
    return table


def write_toy(directory: Path, toy: Toy) -> Manifest:
    """Write the shards and the manifest."""
    splits = {}
    for number, split in enumerate(SPLITS):
        rows = np.flatnonzero(toy.side == number)
        parts = [rows[start : start + SHARD_SIZE] for start in range(0, len(rows), SHARD_SIZE)]
        splits[split] = [write_shard(directory, split, place, toy.x[part], toy.table[part]) for place, part in enumerate(parts)]
    manifest = Manifest(
        code_version="0.1.0",
        fingerprint="made-by-a-test",
        seed=1,
        channels=list(STAMPS.channels),
        stamp_shape=list(STAMPS.shape),
        labels=LABELS,
        statistics=Statistics(scale=[*NOISE, *NOISE**-2], mean=[0.0] * 6, std=[1.0] * 6),
        splits=splits,
        provenance=toy.provenance,
        report=toy.report,
    )
    manifest.save(directory)
    return manifest


def write_spoilt(directory: Path, spoil: Callable[[Toy], object] = lambda toy: None, seed: int = 1, **how: Any) -> Manifest:
    """Write a toy after `spoil` has been at it."""
    toy = make_toy(seed, **how)
    spoil(toy)
    return write_toy(directory, toy)
