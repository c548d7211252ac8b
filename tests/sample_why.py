"""Test splits of small stamps whose fakes differ in a known way, with the tables of what was injected."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import sample_shards
from releases import write_table

from hpc_galaxy.bricks.layout import obiwan_path
from hpc_galaxy.bricks.simcat import parameter_keys
from hpc_galaxy.shards.numpy_shards import SplitReader, write_shard
from hpc_galaxy.shards.schema import StampFormat

SMALL = StampFormat(("g", "r", "z"), ("image", "invvar"), 16)
NOISE = 0.1


def make_reader(
    root: Path, bricks: int = 12, each: int = 40, *, fainter: float = 0.0, stamps: StampFormat = SMALL, seed: int = 1
) -> SplitReader:
    """Write a test split: round galaxies, half of them fake; in g the middle of the fakes is `fainter` nanomaggies a pixel fainter."""
    rng, count = np.random.default_rng(seed), bricks * each
    labels, brick = rng.permutation(np.arange(count) % 2).astype(np.uint8), np.arange(count) % bricks
    table = np.zeros(count, stamps.example_dtype)
    names = [f"{number:04d}p050" for number in range(bricks)]
    table["label"], table["brick"] = labels, np.array(names)[brick]
    table["group"], table["mag_g"] = table["brick"], rng.uniform(20, 24, count)
    table["id"] = [f"rs0-{names[b]}-{n}" if label else f"9010-{b}-{n}" for n, (b, label) in enumerate(zip(brick, labels, strict=True))]
    table["rs"] = b"rs0"
    table["psfsize_r"], table["psfdepth_r"] = (rng.uniform(low, high, bricks)[brick] for low, high in ((1.1, 1.5), (900, 1100)))
    offset = np.arange(stamps.size) - (stamps.size - 1) / 2
    galaxy = np.exp(-(offset**2 + offset[:, None] ** 2) / 8)
    x = np.full((count, *stamps.shape), 1 / NOISE**2, np.float32)
    x[..., : len(stamps.bands)] = galaxy[..., None] + rng.normal(0, NOISE, (count, stamps.size, stamps.size, len(stamps.bands)))
    x[..., 0] -= fainter * labels[:, None, None] * galaxy
    starts = range(0, count, 512)
    shards = [write_shard(root, "test", number, x[s : s + 512], table[s : s + 512]) for number, s in enumerate(starts)]
    return SplitReader(root, sample_shards.save_manifest(root, {"test": shards}, stamps), "test")


def write_truth(root: Path, reader: SplitReader, radius: np.ndarray | None = None) -> np.ndarray:
    """Write the tables of what was injected: `radius` in arcsec for each fake, the rest drawn; return the fakes' parameter keys."""
    rng, fakes = np.random.default_rng(2), reader.table[reader.labels == 1]
    names = [
        *[f"{band}flux" for band in "grz"],
        *[f"mw_transmission_{band}" for band in "grz"],
        "ra",
        "dec",
        "x",
        "y",
        "n",
        "rhalf",
        "e1",
        "e2",
    ]
    simcat = np.zeros(len(fakes), [("id", "i8"), *[(name, "f8") for name in names]])
    simcat["id"] = [int(identifier.split(b"-")[-1]) for identifier in fakes["id"]]
    for band in "grz":
        simcat[f"{band}flux"], simcat[f"mw_transmission_{band}"] = rng.lognormal(1, 0.5, len(fakes)), 0.9
    simcat["n"], simcat["e1"], simcat["e2"] = rng.uniform(0.5, 6, len(fakes)), *rng.normal(0, 0.2, (2, len(fakes)))
    simcat["rhalf"] = rng.lognormal(-0.7, 0.4, len(fakes)) if radius is None else radius
    for brick in np.unique(fakes["brick"]):
        mine, name = simcat[fakes["brick"] == brick], brick.decode()
        write_table(obiwan_path(root, name, "rs0", "simcat-elg"), mine)
        write_table(obiwan_path(root, name, "rs0", "sim_ids_added"), mine[["id"]])
    return parameter_keys(simcat)
