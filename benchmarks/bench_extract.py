"""Cutouts a second of one brick of 3600 x 3600 pixels: ours, other ways to do it, and the limit that decompression sets.

All sides read the same six Rice-compressed coadds and cut the same 64 x 64 stamps. ``pip install -r benchmarks/requirements.txt``
brings Cutana and astrocut; a side that is not installed is left out and named.
"""

from __future__ import annotations

import importlib.util
import os
import re
import runpy
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fitsio
import galsim
import h5py
import numpy as np
from astropy import units
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.nddata import Cutout2D
from common import begin

from hpc_galaxy.bench.measuring import Log, interleaved
from hpc_galaxy.bench.suite.bricks import NPIX, SETTINGS, Brick, aliases, brick_name
from hpc_galaxy.bench.suite.extract import LIST, Sides, config
from hpc_galaxy.bricks.layout import tractor_path
from hpc_galaxy.cutouts.brick import Extractor, Work
from hpc_galaxy.cutouts.extract import cut_bricks
from hpc_galaxy.cutouts.stamps import boxes, cut_stamps
from hpc_galaxy.launch import said_by_ranks
from hpc_galaxy.shards.schema import STAMP_SIZE
from hpc_galaxy.tracing.spans import Stopwatch

SIZE = STAMP_SIZE
TARGETS_2018 = {300: "10", 1000: "7", 5000: "5"}
NOT_FLUSHED = "not-flushed"


def read_catalog(brick: Brick) -> np.ndarray:
    """Read the catalog as scripts do."""
    return fitsio.read(str(tractor_path(brick.root, brick.name)), columns=["objid", "ra", "dec", "bx", "by"])


def read_planes(brick: Brick) -> list[np.ndarray]:
    """Read the six planes whole with astropy."""
    return [np.asarray(fits.getdata(path, 1)) for path in brick.coadds]


def as_in_2018(brick: Brick) -> None:
    """Replay 2018's algorithm: whole planes, an overlap check of galsim images, a group and two datasets a galaxy."""
    planes = [galsim.Image(np.array(pixels, np.float32)) for pixels in read_planes(brick)]
    images, invvars = planes[:3], planes[3:]
    half = SIZE // 2
    with h5py.File(brick.out / "img_ivar_grz.hdf5", "w") as file:
        for row in read_catalog(brick):
            x, y = int(row["bx"]), int(row["by"])
            probe = galsim.Image(np.zeros((SIZE + 1, SIZE + 1)))
            probe.setCenter(x, y)
            if (probe.bounds & images[0].bounds).numpyShape() == probe.array.shape:
                for kind, found in (("img", images), ("ivar", invvars)):
                    stamp = np.array([plane.array[y - half : y + half, x - half : x + half] for plane in found]).T
                    file.create_dataset(f"{row['objid']}/{kind}", data=stamp, chunks=True)


def with_cutout2d(brick: Brick) -> None:
    """Read whole planes with astropy, cut each stamp of each plane with Cutout2D, write one dataset."""
    planes, catalog = read_planes(brick), read_catalog(brick)
    stamps = np.zeros((len(catalog), SIZE, SIZE, len(planes)), np.float32)
    for stamp, row in zip(stamps, catalog, strict=True):
        for channel, plane in enumerate(planes):
            stamp[..., channel] = Cutout2D(plane, (float(row["bx"]), float(row["by"])), SIZE, mode="partial", fill_value=0).data
    write_dataset(brick, stamps)


def with_one_dataset(brick: Brick) -> None:
    """Read whole planes with astropy, slice them, write one dataset: what a careful script does."""
    planes, catalog = read_planes(brick), read_catalog(brick)
    write_dataset(brick, cut_stamps(planes, boxes(catalog["bx"], catalog["by"], SIZE)))


def write_dataset(brick: Brick, stamps: np.ndarray) -> None:
    """Write stamps as one contiguous dataset."""
    with h5py.File(brick.out / "stamps.h5", "w") as file:
        file["stamps"] = stamps


def with_cutana(brick: Brick) -> None:
    """Cut with Cutana's in-process path, in memory; nothing is written."""
    import pandas
    from cutana import get_default_config
    from cutana.direct_cutout import create_cutouts_direct
    from loguru import logger

    logger.remove()
    catalog = read_catalog(brick)
    config = get_default_config()
    config.target_resolution = SIZE
    config.normalisation_method, config.apply_flux_conversion, config.data_type = "none", False, "float32"
    config.fits_extensions = ["COMPRESSED_IMAGE"]
    names = [path.name.removesuffix(".fits.fz") for path in brick.coadds]
    config.selected_extensions = [{"name": name, "ext": "COMPRESSED_IMAGE"} for name in names]
    config.channel_weights = {name: [float(other == name) for other in names] for name in names}
    table = pandas.DataFrame({"SourceID": catalog["objid"].astype(str), "RA": catalog["ra"], "Dec": catalog["dec"]})
    table["diameter_pixel"], table["fits_file_paths"] = SIZE, str([str(path) for path in brick.coadds])
    results = create_cutouts_direct(table, config, max_workers=1)
    found = sum(len(result["metadata"]) for result in results)
    assert found == len(catalog), f"Cutana cut {found} of {len(catalog)}"


def with_astrocut(brick: Brick, count: int = 10) -> float:
    """Return the seconds that astrocut takes for each of the first `count` sources."""
    import time

    from astrocut import FITSCutout

    catalog = read_catalog(brick)[:count]
    start = time.perf_counter()
    for row in catalog:
        place = SkyCoord(row["ra"], row["dec"], unit=units.deg)
        cut = FITSCutout([str(path) for path in brick.coadds], place, SIZE, single_outfile=True)
        assert cut.fits_cutouts
    return (time.perf_counter() - start) / len(catalog)


def sides(brick: Brick, count: int) -> dict[str, Callable[[], object]]:
    """Return what is compared."""
    both = Sides(brick, count)
    found: dict[str, Callable[[], object]] = {
        "limit": both.limit,
        "limit, flushed to disk": lambda: both.limit(durable=True),
        "ours": both.ours,
        "ours, needed tiles read": lambda: both.ours(checksums="false"),
        "ours, 9 bits, bitshuffle": lambda: both.ours(mantissa_bits="9", compression="'bitshuffle'"),
        "2018's way": lambda: as_in_2018(brick),
        "astropy, one dataset": lambda: with_one_dataset(brick),
        "Cutout2D in a loop": lambda: with_cutout2d(brick),
    }
    if importlib.util.find_spec("cutana"):
        found["Cutana, in memory"] = lambda: with_cutana(brick)
    return found


def compare(log: Log, brick: Brick, count: int, repeats: int) -> None:
    """Time all sides with `count` sources and print the ratios."""
    brick.write_catalog(count)
    compared = sides(brick, count)
    brick.clear()
    brick.link(brick.root, aliases(LIST))
    compared["ours"]()  # imports and the first touch of memory are paid once a job
    print(f"\nN = {count}: seconds, of {LIST} bricks for ours and of one for the others, median [least, most] of {repeats}")
    amounts = {name: count * (LIST if name.startswith("ours") else 1) for name in compared}
    seconds = interleaved(compared, repeats, brick.clear)
    rate = {name: one.rate for name, one in log.table(f"extract, N = {count}", "cutouts", seconds, amounts).items()}
    log.ratio(f"extract_vs_2018_n{count}", rate["ours"] / rate["2018's way"], TARGETS_2018[count])
    where_time_goes(brick, repeats)
    if count == 300:
        log.ratio("extract_over_limit_n300", rate["limit"] / rate["ours"], "<= 1.5")
        if "Cutana, in memory" in rate:
            log.ratio("extract_vs_cutana_n300", rate["ours"] / rate["Cutana, in memory"], "4")


def where_time_goes(brick: Brick, repeats: int) -> None:
    """Print what our side spends its time on in a brick, by the stage's own stopwatch."""
    watch, memory = Stopwatch(), dict[str, np.ndarray]()
    for number in range(1 + repeats):
        brick.clear()
        if number == 1:
            watch.restart()  # without the first touch of memory
        cut_bricks(Extractor(config(brick), "benchmark", watch, memory), [Work(name) for name in aliases(LIST)])
    parts = [f"{name} {1e3 * seconds / repeats / LIST:.1f}" for name, seconds in watch.seconds.items()]
    print(f"  ours, milliseconds a brick: {', '.join(parts)} (flush: in a thread)")


def memory(brick: Brick, count: int) -> None:
    """Print what the stage says a rank needs in memory with `count` sources a brick."""
    brick.write_catalog(count)
    brick.clear()
    brick.link(brick.root / "all", aliases(2))
    said = run_stage(brick, 1, brick.root / "all")
    print(f"  {count:6,} sources a brick: {found(r'each of at most ([0-9,]+) MB', said)} MB", flush=True)
    brick.clear()


def scaling(log: Log, brick: Brick, count: int, repeats: int) -> None:
    """Compare one rank with two, and two ranks with two processes that know nothing of each other; with flushes to disk, and without."""
    brick.write_catalog(300)
    names = aliases(count)
    trees = {brick.root / "all": names, brick.root / "one": names[::2], brick.root / "other": names[1::2]}
    for root, part in trees.items():
        brick.link(root, part)
    whole, *halves = trees
    runs: dict[str, Callable[[], float]] = {
        "1 rank": lambda: slowest(brick, 1, [whole]),
        "2 ranks": lambda: slowest(brick, 2, [whole]),
        "2 separate processes": lambda: slowest(brick, 1, halves),
        "1 rank, not flushed": lambda: slowest(brick, 1, [whole], flushed=False),
        "2 separate processes, not flushed": lambda: slowest(brick, 1, halves, flushed=False),
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            brick.clear()
            seconds[name].append(run())
    median = {name: one.median for name, one in log.table("extract, ranks", "bricks", seconds, dict.fromkeys(runs, count)).items()}
    log.ratio("extract_two_process_scaling", median["1 rank"] / median["2 ranks"] / 2, "0.95")
    log.ratio("extract_two_ranks_vs_two_processes", median["2 separate processes"] / median["2 ranks"], "1")
    log.ratio("extract_two_processes_not_flushed", median["1 rank, not flushed"] / median["2 separate processes, not flushed"] / 2)


def slowest(brick: Brick, ranks: int, trees: Sequence[Path], flushed: bool = True) -> float:
    """Run the stage on all trees at the same time; return the seconds that the slowest says it took."""
    with ThreadPoolExecutor(len(trees)) as pool:
        said = pool.map(lambda root: run_stage(brick, ranks, root, flushed), trees)
        return max(float(found(r" cutouts in ([0-9.]+) s on ", one)) for one in said)


def run_stage(brick: Brick, ranks: int, root: Path, flushed: bool = True) -> str:
    """Run ``hpc-galaxy extract`` on a tree of bricks, with its flushes to disk or without; return what it says."""
    settings = [f"paths.survey='{root}'", f"paths.cutouts='{brick.out / root.name}'"]
    settings += [f"extract.{key}={value}" for key, value in SETTINGS.items()]
    program = ["-m", "hpc_galaxy"] if flushed else [__file__, NOT_FLUSHED]
    return said_by_ranks(ranks, [*program, "extract", *(f"--set={setting}" for setting in settings)])


def run_not_flushed(arguments: Sequence[str]) -> None:
    """Be ``hpc-galaxy`` without waiting for the disk."""
    os.fsync = lambda _: None
    sys.argv = ["hpc-galaxy", *arguments]
    runpy.run_module("hpc_galaxy", run_name="__main__")


def found(pattern: str, said: str) -> str:
    """Return what a pattern's group matches in what a stage says."""
    match = re.search(pattern, said)
    assert match, said
    return match[1]


def main() -> None:
    """Make the brick, compare the sides."""
    quick, log = begin(__doc__)
    with tempfile.TemporaryDirectory() as folder:
        brick = Brick(Path(folder), brick_name())
        brick.make_pixels()
        size = sum(path.stat().st_size for path in brick.coadds)
        print(f"six coadds of {NPIX} x {NPIX}: {size / 1e6:.0f} MB compressed, 100 x 100 Rice tiles")
        for count in (300,) if quick else TARGETS_2018:
            compare(log, brick, count, 3 if quick else 5)
        if importlib.util.find_spec("astrocut"):
            print(f"\nastrocut: {1 / with_astrocut(brick):.1f} cutouts/s of six planes, in memory")
        for name in ("cutana", "astrocut"):
            if not importlib.util.find_spec(name):
                print(f"{name} is not installed and was left out: pip install -r benchmarks/requirements.txt")
        print("\nmemory of a rank, as the stage says it")
        for count in (300,) if quick else (30, 300, 20_000):
            memory(brick, count)
        print("\ntwo ranks against one, bricks of 300: seconds that the stage says it took")
        scaling(log, brick, 12 if quick else 48, 1 if quick else 5)


if __name__ == "__main__":
    if sys.argv[1:2] == [NOT_FLUSHED]:
        run_not_flushed(sys.argv[2:])
    else:
        main()
