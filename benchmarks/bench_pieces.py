"""What pieces of the package are worth by themselves: the compiled ones and the chosen ways, each against what else would do it.

Their figures stand in docstrings and comments, where a reader asks why it was not done the simple way. One thread.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from unittest.mock import patch

import fitsio
import numpy as np
import torch
from astropy.io import fits
from common import begin

from hpc_galaxy.bench.measuring import Log, interleaved
from hpc_galaxy.bench.suite.bricks import NPIX, Brick, brick_name
from hpc_galaxy.bench.suite.examples import training_config, training_reader, write_examples
from hpc_galaxy.bench.suite.galaxies import EACH, sources, stamps
from hpc_galaxy.bricks.images import read_plane
from hpc_galaxy.cutouts import stamps as cutting
from hpc_galaxy.launch import said_by_ranks
from hpc_galaxy.shards import cutout_file, stamp_files, storage
from hpc_galaxy.shards.cutout_file import write_cutouts
from hpc_galaxy.shards.places import Places
from hpc_galaxy.shards.schema import DEFAULT, STAMP_SHAPE, STAMP_SIZE
from hpc_galaxy.shards.stamp_files import StampFiles
from hpc_galaxy.splits import statistics
from hpc_galaxy.training.data import inputs
from hpc_galaxy.training.data.inputs import make_inputs

OURS = "ours"
Run = Callable[[], object]


def without(module: ModuleType, run: Run) -> Run:
    """Return `run` without the compiled part of a module, as where there is no C compiler."""

    def slower() -> object:
        with patch.object(module, "COMPILED", False):
            return run()

    return slower


def compare(log: Log, what: str, amount: int, unit: str, sides: dict[str, Run], repeats: int) -> None:
    """Time the sides of a question, of which one is `OURS`, and print how many times faster that is than each other one."""
    print(f"\n{what}: median [least, most] of {repeats}")
    seconds = interleaved(sides, repeats, lambda: None, warm_up=1)
    found = log.table(what, unit, seconds, dict.fromkeys(sides, amount))
    times = [f"{found[OURS].rate / one.rate:.1f} times {name}" for name, one in found.items() if name != OURS]
    if times:
        print(f"  ours is {', '.join(times)}")


def planes(log: Log, root: Path, npix: int, repeats: int) -> None:
    """Decode a brick's six coadds whole, and cut stamps out of them."""
    brick = Brick(root, brick_name(), npix)
    brick.make_pixels()
    memory: dict[Path, np.ndarray] = {path: np.zeros((npix, npix), np.float32) for path in brick.coadds}
    ways: dict[str, Callable[[Path], object]] = {
        OURS: lambda path: read_plane(path, buffer=memory[path], checksum=False),
        "astropy": lambda path: np.asarray(fits.getdata(path, 1)),
        "fitsio": lambda path: fitsio.read(str(path), ext=1),
    }
    sides: dict[str, Run] = {name: lambda way=way: [way(path) for path in brick.coadds] for name, way in ways.items()}
    compare(log, f"decoding six planes of {npix} x {npix}", 6, "planes", sides, repeats)
    count = 5000
    places = np.random.default_rng(1).uniform(STAMP_SIZE, npix - STAMP_SIZE, (2, count))
    outlines = cutting.boxes(*places, STAMP_SIZE)
    blocks = [outlines[start : start + 32] for start in range(0, count, 32)]  # as many as the stage cuts at a time

    def cut() -> None:
        for block in blocks:
            cutting.cut_stamps(list(memory.values()), block, [False] * 3 + [True] * 3)

    compare(log, "cutting", count, "stamps", {OURS: cut, "numpy": without(cutting, cut)}, repeats)


def files(log: Log, root: Path, number: int, repeats: int) -> None:
    """Write cutout files, and read them in any order."""
    images, table = stamps(0, 0), sources(0, "0000p060", 0)
    paths = [root / f"{name}.h5" for name in range(number)]

    def write() -> None:
        with patch.object(os, "fsync", lambda _: None):  # what the disk takes is another question
            for path in paths:
                write_cutouts(path, images, table, {"brick": "0000p060", "label": "real"})

    compare(log, "writing cutout files", number * EACH, "stamps", {OURS: write, "HDF5's checksums": without(cutout_file, write)}, repeats)
    write()
    rng, known = np.random.default_rng(1), dict[int, Places]()
    file, row = (part.ravel() for part in np.meshgrid(np.arange(number), np.arange(EACH), indexing="ij"))
    order = rng.permutation(len(file))

    def read(chosen: Sequence[int] | np.ndarray, places: dict[int, Places]) -> None:
        out, found = np.empty((len(chosen), *STAMP_SHAPE), np.float32), np.empty(len(chosen), DEFAULT.source_dtype)
        with StampFiles(paths, DEFAULT, places) as source:
            source.read(file[chosen], row[chosen], out, found)

    everything = {OURS: lambda: read(order, known), "HDF5": without(stamp_files, lambda: read(order, known))}
    compare(log, "reading stamps in any order", len(file), "stamps", everything, repeats)
    first = np.flatnonzero(row == 0)
    opening = {OURS: lambda: read(first, known), "opened by HDF5": lambda: read(first, {})}
    compare(log, "opening a file for one stamp", number, "files", opening, repeats)


def pixels(log: Log, root: Path, repeats: int) -> None:
    """Do what is done to every pixel on its way into shards and into the network."""
    (root / "shards").mkdir()
    manifest = write_examples(root / "shards", 512)
    reader = training_reader(training_config(root, 16), manifest)
    images = reader.stamps(np.arange(len(reader)))
    scale = np.array(manifest.statistics.scale, np.float32)

    def moments() -> object:
        return statistics.moments(images, scale)

    compare(log, "moments of pixels", len(images), "stamps", {OURS: moments, "numpy": without(statistics, moments)}, repeats)
    seen, out = make_inputs(training_config(root, 16).train.data, reader), np.empty_like(images)

    def normalise() -> object:
        return seen.apply(images, out)

    compare(log, "arcsinh and finiteness", len(images), "stamps", {OURS: normalise, "numpy": without(inputs, normalise)}, repeats)
    half = storage.half_scale(manifest.statistics.scale)
    stored, _ = storage.encode(images, half, DEFAULT)
    units = np.tile(np.array(half, np.float32), STAMP_SIZE)

    def convert() -> None:
        out[...] = stored
        lines = out.reshape(-1, len(units))
        lines *= units

    sides: dict[str, Run] = {OURS: lambda: storage.decode(stored, half, out), "numpy's conversion": convert}
    compare(log, "float16 to float32", len(images), "stamps", sides, repeats)
    encoding: dict[str, Run] = {OURS: lambda: storage.encode(images, half, DEFAULT)}
    compare(log, "float32 to float16, with its error", len(images), "stamps", encoding, repeats)
    rows = np.ascontiguousarray(images[..., 3:].transpose(0, 3, 1, 2)).reshape(len(images), 3, -1)
    ranks = [int(share * (rows.shape[-1] - 1)) for share in (0.01, 0.1, 0.5, 0.9, 0.99)]
    quantiles: dict[str, Run] = {OURS: lambda: np.sort(rows, axis=-1), "np.partition": lambda: np.partition(rows, ranks, axis=-1)}
    compare(log, "quantiles of inverse variances, by sorting", len(images), "stamps", quantiles, repeats)


def libraries(log: Log, repeats: int) -> None:
    """Do what other packages take their time for."""
    seeding: dict[str, Run] = {OURS: lambda: torch.default_generator.manual_seed(1), "torch.manual_seed": lambda: torch.manual_seed(1)}
    compare(log, "seeding", 1, "seeds", seeding, 100 * repeats)
    program = "import numpy, time; start = time.perf_counter(); import galsim; print(time.perf_counter() - start)"
    seconds = [float(said_by_ranks(1, ["-c", program])) for _ in range(repeats)]
    print(f"\nimporting GalSim, after numpy: median [least, most] of {repeats}")
    log.table("importing", "times", {"GalSim": seconds}, {"GalSim": 1})


def main() -> None:
    """Go through the pieces."""
    quick, log = begin(__doc__)
    torch.set_num_threads(1)
    repeats = 3 if quick else 7
    with tempfile.TemporaryDirectory() as folder:
        planes(log, Path(folder), NPIX, repeats)
        files(log, Path(folder), 4, repeats)
        pixels(log, Path(folder), repeats)
    libraries(log, repeats)


if __name__ == "__main__":
    main()
