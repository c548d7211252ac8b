"""Cutouts a second of one brick of 3600 x 3600 pixels: ours, other ways to do it, and the limit that decompression sets.

All sides read the same six Rice-compressed coadds and cut the same 64 x 64 stamps. ``pip install -r benchmarks/requirements.txt``
brings Cutana and astrocut; a side that is not installed is left out and named.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import statistics
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import fitsio
import galsim
import h5py
import numpy as np
from astropy import units
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.nddata import Cutout2D
from common import arguments, interleaved, ratio, run_ranks, say_machine, spread

from hpc_galaxy.bricks.catalog import CATALOG_DTYPE, tractor_columns
from hpc_galaxy.bricks.geometry import brick_wcs, survey_bricks
from hpc_galaxy.bricks.images import BANDS, PLANES, read_plane, wcs_header, write_plane
from hpc_galaxy.bricks.layout import coadd_path, tractor_path, write_table
from hpc_galaxy.config import Config, load_config
from hpc_galaxy.cutouts.brick import Extractor, Work
from hpc_galaxy.cutouts.extract import cut_bricks
from hpc_galaxy.cutouts.stamps import boxes, cut_stamps
from hpc_galaxy.shards.schema import CHANNELS
from hpc_galaxy.tracing.spans import Stopwatch

NPIX, SIZE = 3600, 64
# Nanomaggies and 1/nanomaggies^2, about 25 steps of quantisation: the files are as large as those of the Legacy Surveys.
IMAGE_NOISE, INVVAR_NOISE = 0.0025, 0.25
LIST = 4  # bricks that our side cuts in a row
TARGETS_2018 = {300: "10", 1000: "7", 5000: "5"}


def make_pixels(root: Path, brick: str) -> None:
    """Write the six coadds of a brick: noise, which compresses as real coadds do."""
    rng = np.random.default_rng(1)
    wcs = brick_wcs(120.0, 6.0, NPIX)
    for band in BANDS:
        invvar = rng.normal(1000, INVVAR_NOISE, (NPIX, NPIX)).astype(np.float32)
        image = rng.normal(0, IMAGE_NOISE, (NPIX, NPIX)).astype(np.float32)
        for plane, pixels in zip(PLANES, (image, invvar), strict=True):
            write_plane(root, brick, plane, band, pixels, wcs_header(wcs, brick, plane, band))


def write_catalog(root: Path, brick: str, count: int) -> None:
    """Write a catalog of `count` galaxies anywhere on the brick."""
    rng = np.random.default_rng(count)
    catalog = np.zeros(count, CATALOG_DTYPE)
    catalog["bx"], catalog["by"] = rng.uniform(40, NPIX - 40, (2, count))
    catalog["ra"], catalog["dec"] = brick_wcs(120.0, 6.0, NPIX).all_pix2world(catalog["bx"].astype(float), catalog["by"].astype(float), 0)
    catalog["type"], catalog["objid"], catalog["brick_primary"] = b"EXP", np.arange(count), True
    for band in BANDS:
        catalog[f"flux_{band}"] = catalog[f"mw_transmission_{band}"] = 1
    path = tractor_path(root, brick)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    write_table(path, tractor_columns(catalog, brick), "CATALOG")


def aliases(count: int) -> list[str]:
    """Return names under which `Brick.link` makes the same files known."""
    return [other.name for other in survey_bricks(count, 150.0, 6.0)]


@dataclass
class Brick:
    """The brick that all sides cut, and where they write."""

    root: Path
    name: str

    @property
    def out(self) -> Path:
        """Where a side writes."""
        return self.root / "out"

    def clear(self) -> None:
        """Remove what the side before has left, and let the disk come to rest."""
        shutil.rmtree(self.out, ignore_errors=True)
        self.out.mkdir()
        os.sync()

    def link(self, root: Path, names: Sequence[str]) -> None:
        """Make the brick known under further names in a tree: a list of bricks."""
        for name in names:
            pairs = [(tractor_path(root, name), tractor_path(self.root, self.name))]
            pairs += [(coadd_path(root, name, *channel.split("_")), path) for channel, path in zip(CHANNELS, self.coadds(), strict=True)]
            for alias, path in pairs:
                alias.parent.mkdir(parents=True, exist_ok=True)
                alias.unlink(missing_ok=True)
                alias.symlink_to(path)

    def coadds(self) -> list[Path]:
        """Return the six coadds, in the order of the channels."""
        return [coadd_path(self.root, self.name, *name.split("_")) for name in CHANNELS]

    def catalog(self) -> np.ndarray:
        """Read the catalog."""
        return fitsio.read(str(tractor_path(self.root, self.name)), columns=["objid", "ra", "dec", "bx", "by"])

    def planes(self) -> list[np.ndarray]:
        """Read the six planes whole with astropy."""
        return [np.asarray(fits.getdata(path, 1)) for path in self.coadds()]


def ours(brick: Brick, **settings: str) -> None:
    """Cut `LIST` bricks as the stage does: catalog, cuts, coadds with their checksums, stamps, checksummed files flushed to disk."""
    extractor = Extractor(our_config(brick, **settings), "benchmark", Stopwatch(), OUR_MEMORY)
    entries = cut_bricks(extractor, [Work(name) for name in aliases(LIST)])
    assert all("error" not in entry for entry in entries), entries


def our_config(brick: Brick, **settings: str) -> Config:
    """Return the configuration of the stage: every source of the survey's own catalog."""
    chosen = {"classes": "['real']", "real_from": "'survey'", "selection": "'all'", "match_arcsec": "1e-6", **settings}
    overrides = [f"extract.{name}={value}" for name, value in chosen.items()]
    return load_config(None, [f"paths.survey='{brick.root}'", f"paths.cutouts='{brick.out}/cutouts'", *overrides])


def as_in_2018(brick: Brick) -> None:
    """Replay 2018's algorithm: whole planes, an overlap check of galsim images, a group and two datasets a galaxy."""
    planes = [galsim.Image(np.array(pixels, np.float32)) for pixels in brick.planes()]
    images, invvars = planes[:3], planes[3:]
    half = SIZE // 2
    with h5py.File(brick.out / "img_ivar_grz.hdf5", "w") as file:
        for row in brick.catalog():
            x, y = int(row["bx"]), int(row["by"])
            probe = galsim.Image(np.zeros((SIZE + 1, SIZE + 1)))
            probe.setCenter(x, y)
            if (probe.bounds & images[0].bounds).numpyShape() == probe.array.shape:
                for kind, found in (("img", images), ("ivar", invvars)):
                    stamp = np.array([plane.array[y - half : y + half, x - half : x + half] for plane in found]).T
                    file.create_dataset(f"{row['objid']}/{kind}", data=stamp, chunks=True)


def with_cutout2d(brick: Brick) -> None:
    """Read whole planes with astropy, cut each stamp of each plane with Cutout2D, write one dataset."""
    planes, catalog = brick.planes(), brick.catalog()
    stamps = np.zeros((len(catalog), SIZE, SIZE, len(planes)), np.float32)
    for stamp, row in zip(stamps, catalog, strict=True):
        for channel, plane in enumerate(planes):
            stamp[..., channel] = Cutout2D(plane, (float(row["bx"]), float(row["by"])), SIZE, mode="partial", fill_value=0).data
    write_dataset(brick, stamps)


def with_one_dataset(brick: Brick) -> None:
    """Read whole planes with astropy, slice them, write one dataset: what a careful script does."""
    planes, catalog = brick.planes(), brick.catalog()
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
    catalog = brick.catalog()
    config = get_default_config()
    config.target_resolution = SIZE
    config.normalisation_method, config.apply_flux_conversion, config.data_type = "none", False, "float32"
    config.fits_extensions = ["COMPRESSED_IMAGE"]
    names = [path.name.removesuffix(".fits.fz") for path in brick.coadds()]
    config.selected_extensions = [{"name": name, "ext": "COMPRESSED_IMAGE"} for name in names]
    config.channel_weights = {name: [float(other == name) for other in names] for name in names}
    table = pandas.DataFrame({"SourceID": catalog["objid"].astype(str), "RA": catalog["ra"], "Dec": catalog["dec"]})
    table["diameter_pixel"], table["fits_file_paths"] = SIZE, str([str(path) for path in brick.coadds()])
    results = create_cutouts_direct(table, config, max_workers=1)
    found = sum(len(result["metadata"]) for result in results)
    assert found == len(catalog), f"Cutana cut {found} of {len(catalog)}"


def with_astrocut(brick: Brick, count: int = 10) -> float:
    """Return the seconds that astrocut takes for each of the first `count` sources."""
    import time

    from astrocut import FITSCutout

    catalog = brick.catalog()[:count]
    start = time.perf_counter()
    for row in catalog:
        place = SkyCoord(row["ra"], row["dec"], unit=units.deg)
        cut = FITSCutout([str(path) for path in brick.coadds()], place, SIZE, single_outfile=True)
        assert cut.fits_cutouts
    return (time.perf_counter() - start) / len(catalog)


def limit(brick: Brick, outlines: np.ndarray, stamps: np.ndarray, durable: bool = False) -> None:
    """Do what nobody can avoid: decode the tiles that are needed, copy the stamps' bytes once, write them once."""
    for path in brick.coadds():
        read_plane(path, outlines, buffer=MEMORY.setdefault(path.name, np.empty((NPIX, NPIX), np.float32)), checksum=False)
    copied = stamps.copy()
    with open(brick.out / "stamps.raw", "wb") as file:
        file.write(copied)
        if durable:
            file.flush()
            os.fsync(file.fileno())


# The planes' memory: a job touches it for the first time once in thousands of bricks.
OUR_MEMORY: dict[str, np.ndarray] = {}
MEMORY: dict[str, np.ndarray] = {}


def sides(brick: Brick, count: int) -> dict[str, Callable[[], object]]:
    """Return what is compared."""
    catalog = brick.catalog()
    outlines = boxes(catalog["bx"], catalog["by"], SIZE)
    stamps = np.zeros((count, SIZE, SIZE, len(CHANNELS)), np.float32)
    found: dict[str, Callable[[], object]] = {
        "limit": lambda: limit(brick, outlines, stamps),
        "limit, flushed to disk": lambda: limit(brick, outlines, stamps, durable=True),
        "ours": lambda: ours(brick),
        "ours, needed tiles read": lambda: ours(brick, checksums="false"),
        "ours, 9 bits, bitshuffle": lambda: ours(brick, mantissa_bits="9", compression="'bitshuffle'"),
        "2018's way": lambda: as_in_2018(brick),
        "astropy, one dataset": lambda: with_one_dataset(brick),
        "Cutout2D in a loop": lambda: with_cutout2d(brick),
    }
    if importlib.util.find_spec("cutana"):
        found["Cutana, in memory"] = lambda: with_cutana(brick)
    return found


def compare(brick: Brick, count: int, repeats: int) -> None:
    """Time all sides with `count` sources and print the ratios."""
    write_catalog(brick.root, brick.name, count)
    compared = sides(brick, count)
    brick.clear()
    brick.link(brick.root, aliases(LIST))
    compared["ours"]()  # imports and the first touch of memory are paid once a job
    seconds = interleaved(compared, repeats, brick.clear)
    for name, values in seconds.items():
        if name.startswith("ours"):
            seconds[name] = [value / LIST for value in values]
    print(f"\nN = {count}: seconds a brick, median [least, most] of {repeats}, and cutouts/s")
    median = {name: statistics.median(values) for name, values in seconds.items()}
    for name, values in seconds.items():
        print(f"  {name:26} {spread(values):>24}   {count / median[name]:8,.0f}")
    ratio(f"extract_vs_2018_n{count}", median["2018's way"] / median["ours"], TARGETS_2018[count])
    if count == 300:
        ratio("extract_over_limit_n300", median["ours"] / median["limit"], "<= 1.5")
        if "Cutana, in memory" in median:
            ratio("extract_vs_cutana_n300", median["Cutana, in memory"] / median["ours"], "4")


def scaling(brick: Brick, count: int, repeats: int) -> None:
    """Compare one rank with two, and two ranks with two processes that know nothing of each other."""
    write_catalog(brick.root, brick.name, 300)
    names = aliases(count)
    trees = {brick.root / "all": names, brick.root / "one": names[::2], brick.root / "other": names[1::2]}
    for root, part in trees.items():
        brick.link(root, part)
    whole, *halves = trees
    runs: dict[str, Callable[[], float]] = {
        "1 rank": lambda: run_stage(brick, 1, [whole]),
        "2 ranks": lambda: run_stage(brick, 2, [whole]),
        "2 separate processes": lambda: run_stage(brick, 1, halves),
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            brick.clear()
            seconds[name].append(run())
    for name, values in seconds.items():
        print(f"  {name:20} {count} bricks of 300: {spread(values)} s")
    median = {name: statistics.median(values) for name, values in seconds.items()}
    ratio("extract_two_process_scaling", median["1 rank"] / median["2 ranks"] / 2, "0.95")
    ratio("extract_two_ranks_vs_two_processes", median["2 separate processes"] / median["2 ranks"], "1")


def run_stage(brick: Brick, ranks: int, trees: Sequence[Path]) -> float:
    """Run ``hpc-galaxy extract`` on all trees at the same time; return the seconds that the slowest says it took."""
    config = our_config(brick).model_dump(mode="json")["extract"]
    overrides = [f"--set=extract.{key}={config[key]!r}" for key in ("classes", "real_from", "selection", "match_arcsec")]

    def run(root: Path) -> float:
        paths = [f"--set=paths.survey='{root}'", f"--set=paths.cutouts='{brick.out / root.name}'"]
        said = run_ranks(ranks, ["-m", "hpc_galaxy", "extract", *paths, *overrides])
        return float(said.split(" cutouts in ")[1].split(" s on ")[0])

    with ThreadPoolExecutor(len(trees)) as pool:
        return max(pool.map(run, trees))


def main() -> None:
    """Make the brick, compare the sides."""
    options = arguments(__doc__)
    say_machine()
    with tempfile.TemporaryDirectory() as folder:
        brick = Brick(Path(folder), survey_bricks(1, 120.0, 6.0)[0].name)
        make_pixels(brick.root, brick.name)
        size = sum(path.stat().st_size for path in brick.coadds())
        print(f"six coadds of {NPIX} x {NPIX}: {size / 1e6:.0f} MB compressed, 100 x 100 Rice tiles")
        for count in (300,) if options.quick else TARGETS_2018:
            compare(brick, count, 3 if options.quick else 5)
        if importlib.util.find_spec("astrocut"):
            print(f"\nastrocut: {1 / with_astrocut(brick):.1f} cutouts/s of six planes, in memory")
        for name in ("cutana", "astrocut"):
            if not importlib.util.find_spec(name):
                print(f"{name} is not installed and was left out: pip install -r benchmarks/requirements.txt")
        print("\ntwo ranks against one")
        scaling(brick, 12 if options.quick else 48, 1 if options.quick else 5)


if __name__ == "__main__":
    main()
