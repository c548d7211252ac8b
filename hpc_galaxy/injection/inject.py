"""``hpc-galaxy inject``: fake galaxies drawn into copies of the coadds, in obiwan's layout, MPI over bricks.

Limits of injection into coadds, to be said wherever its results are shown: the photon noise of a fake is not correlated
between pixels as resampled noise is, its PSF is one profile or picture instead of a mix of exposures, and its catalog row
comes from a noise model (`hpc_galaxy.bricks.conditions.measure`), not from a new run of Tractor.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from hpc_galaxy.bricks.catalog import read_catalog, tractor_columns
from hpc_galaxy.bricks.conditions import Conditions, measure
from hpc_galaxy.bricks.geometry import Brick
from hpc_galaxy.bricks.images import BANDS, PLANES, header_wcs, read_header, read_planes, write_plane
from hpc_galaxy.bricks.layout import bricks_path, obiwan_path, read_bricks, read_table, tractor_path, write_table
from hpc_galaxy.bricks.maskbits import bit_mask, maskbits_path, read_maskbits
from hpc_galaxy.bricks.simcat import simcat_table
from hpc_galaxy.bricks.views import list_bricks
from hpc_galaxy.config import Config
from hpc_galaxy.errors import InputError
from hpc_galaxy.files import shown, whole_file
from hpc_galaxy.injection.add import Drawing, add_galaxies
from hpc_galaxy.injection.pictures import Pictures, read_pictures
from hpc_galaxy.injection.places import collisions, draw_again, forbidden
from hpc_galaxy.injection.profiles import give_profiles
from hpc_galaxy.injection.properties import draw_fitted, draw_galaxies, draw_twins, templates
from hpc_galaxy.injection.psf import brick_psfs
from hpc_galaxy.injection.sample import deal_rows, draw_from_sample, read_sample
from hpc_galaxy.ledger import Ledger, fingerprint, require_complete
from hpc_galaxy.schedule import deal
from hpc_galaxy.tracing.attempt import recording
from hpc_galaxy.tracing.spans import Stopwatch
from hpc_galaxy.world import World

ALLMASK_BIT = {"g": 5, "r": 6, "z": 7}  # of maskbits, DR8 to DR10
STREAM = 2  # see hpc_galaxy.bricks.survey.STREAM
PROFILES, PLACES = 1, 2  # random numbers of their own, so that these switches change nothing else
BITS_KEY = "injection.reject_bits"


def inject(config: Config, world: World, overwrite: bool = False) -> None:
    """Inject ``[injection]`` galaxies into every brick of ``paths.survey``, into ``paths.obiwan``; continues where it stopped."""
    survey, root = config.paths.survey, config.paths.obiwan
    require_complete(survey, "survey")
    bit_mask(config.injection.reject_bits, BITS_KEY)
    cells = read_bricks(survey)
    ledger = Ledger(root, "inject", fingerprint(config, "injection", survey, *_inputs(config)))
    outputs = ("coadd", "tractor", "obiwan")
    with ledger.claim(config, world, overwrite, outputs), recording(config.trace, root, "inject", world) as recorder:
        watch = Stopwatch(recorder)
        items = _items(config, world)
        pictures = _pictures(config)
        dealt = deal(world, "inject", "realisations", items, watch)
        entries = [Realisation(config, _cell(cells, survey, brick), number, rows, pictures).make(watch) for brick, number, rows in dealt]
        ledger.close(world, entries)
    world.say(watch.summary(world, "inject", "fakes"))
    world.say(f"inject: {shown(root)} (seed {config.seed})")


def _inputs(config: Config) -> list[Path]:
    """Return what the fakes depend on beside the survey."""
    settings, paths = config.injection, config.paths
    used = {paths.sample: settings.properties == "table", paths.stamps: settings.profile == "stamp", paths.psf: settings.psf == "image"}
    return [path for path, needed in used.items() if needed]


def _pictures(config: Config) -> Pictures | None:
    settings = config.injection
    return read_pictures(config.paths.stamps, broader=settings.defects.psf != 0) if settings.profile == "stamp" else None


def _items(config: Config, world: World) -> list[tuple[str, int, np.ndarray | None]]:
    """Return all bricks and numbers of realisations; on rank 0, which deals them out, with the rows of the sample that each gets."""
    settings = config.injection
    copies = [(brick, number) for brick in list_bricks(config.paths.survey) for number in range(settings.realisations)]
    if settings.properties != "table" or not world.is_root:
        return [(brick, number, None) for brick, number in copies]
    sample = read_sample(config.paths.sample, settings.profile == "star")
    needed = len(copies) * settings.per_brick
    again = f"; they are taken up to {-(-needed // len(sample))} times" if needed > len(sample) else ""
    world.say(f"inject: {shown(config.paths.sample)} has {len(sample):,} rows for {needed:,} fakes{again}")
    dealt = deal_rows(sample, config.seed, len(copies), settings.per_brick)
    return [(brick, number, rows) for (brick, number), rows in zip(copies, dealt, strict=True)]


def _cell(cells: dict[str, Brick], survey: Path, brick: str) -> Brick:
    if brick not in cells:
        raise InputError(bricks_path(survey), f"has no brick {brick}, which has a catalog", "add it to the table or remove the catalog")
    return cells[brick]


@dataclass(frozen=True)
class Realisation:
    """One copy of a brick with its own fakes.

    Attributes
    ----------
    config : Config
        What to inject, and the directories.
    brick : Brick
        Where.
    number : int
        Which copy: ``rs<number>``.
    rows : ndarray or None
        Rows of the sample, with ``properties = "table"``.
    pictures : Pictures or None
        With ``profile = "stamp"``.
    """

    config: Config
    brick: Brick
    number: int
    rows: np.ndarray | None = None
    pictures: Pictures | None = None

    @property
    def rs(self) -> str:
        """The name of the copy in obiwan's layout."""
        return f"rs{self.number}"

    @property
    def keys(self) -> list[int]:
        """What seeds everything random in it."""
        return [self.config.seed, STREAM, self.brick.brickid, self.number]

    def make(self, watch: Stopwatch) -> dict[str, Any]:
        """Inject, unless that was done before; return the entry of the ledger."""
        done = self._table("sim_ids_added")
        if not done.exists():  # written last: where it is, the realisation is whole
            self._inject(watch)
        injected = len(read_table(done))
        watch.count("fakes", injected)
        return {"brick": self.brick.name, "rs": self.rs, "injected": injected}

    def _inject(self, watch: Stopwatch) -> None:
        survey, name = self.config.paths.survey, self.brick.name
        with watch.span("read", detail=name):
            catalog = read_catalog(tractor_path(survey, name))
            planes = read_planes(survey, name)
            bits = read_maskbits(maskbits_path(survey, name))
        conditions = typical_conditions(catalog, planes)
        rng = np.random.default_rng(self.keys)
        fakes = self._draw(rng, catalog, conditions, planes["image_r"].shape)
        give_profiles(np.random.default_rng([*self.keys, PROFILES]), fakes, self.config.injection, conditions.transmission, self.pictures)
        skipped = self._place(fakes, planes, bits, watch)
        with watch.span("draw", detail=name):
            self._add(planes, fakes, np.flatnonzero(~skipped), conditions)
        wcs = header_wcs(read_header(survey, name, "image", "r"))
        measured, _ = measure(rng, fakes[~skipped], conditions, wcs, self.brick)
        measured["objid"] += catalog["objid"].max() + 1
        observe_alike(measured, catalog)
        mark_masked(measured, bits)
        with watch.span("write", detail=name):
            self._write_planes(planes)
            self._write_tables(np.concatenate([catalog, measured]), simcat_table(fakes, wcs, conditions.transmission), skipped)

    def _draw(self, rng: np.random.Generator, catalog: np.ndarray, conditions: Conditions, shape: tuple[int, ...]) -> np.ndarray:
        """Return fakes with the properties, and at the places, that ``injection.properties`` asks for."""
        settings = self.config.injection
        if self.rows is not None:
            return draw_from_sample(rng, self.rows, conditions.transmission, shape)
        where = str(tractor_path(self.config.paths.survey, self.brick.name))
        real = templates(catalog, where, settings.profile == "star")
        if settings.properties == "matched":
            return draw_twins(rng, real, settings.per_brick, shape)
        if settings.properties == "bootstrap":
            return draw_galaxies(rng, real, settings.per_brick, settings.jitter, shape)
        return draw_fitted(rng, real, settings.per_brick, settings.properties, settings.components, shape, where)

    def _place(self, fakes: np.ndarray, planes: dict[str, np.ndarray], bits: np.ndarray | None, watch: Stopwatch) -> np.ndarray:
        """Move fakes away from forbidden pixels, in place; return which are not injected, shape (N,), bool."""
        settings, lost = self.config.injection, np.zeros(len(fakes), bool)
        if settings.reject_masked:
            mask = bit_mask(settings.reject_bits, BITS_KEY)
            if mask and bits is None:
                path = maskbits_path(self.config.paths.survey, self.brick.name)
                raise InputError(path, f"no such file, expected it: {BITS_KEY} names bits of it", "copy it, or take the bits out")
            lost = draw_again(np.random.default_rng([*self.keys, PLACES]), fakes, forbidden(planes, bits, mask))
        skipped = lost.copy()
        skipped[~lost] = collisions(fakes["x"][~lost], fakes["y"][~lost], settings.collision_arcsec)
        watch.count("collided", int((skipped & ~lost).sum()))
        if lost.any():
            watch.count("masked", int(lost.sum()))
        return skipped

    def _add(self, planes: dict[str, np.ndarray], fakes: np.ndarray, kept: np.ndarray, conditions: Conditions) -> None:
        settings = self.config.injection
        shape = planes["image_r"].shape
        drawing = Drawing(settings, brick_psfs(self.config, self.brick.name, conditions, shape), self.pictures)
        if not settings.keep:
            add_galaxies(planes, fakes, kept, drawing, self.keys)
            return
        from hpc_galaxy.injection.keep import Keeper

        keeper = Keeper(settings.keep, fakes, kept, planes)
        add_galaxies(planes, fakes, kept, drawing, self.keys, keeper.seen)
        path = self._table("injected").with_suffix(".h5")
        keeper.write(path, planes, {"brick": self.brick.name, "rs": self.rs, "seed": self.config.seed})

    def _write_planes(self, planes: dict[str, np.ndarray]) -> None:
        for band in BANDS:
            for plane in PLANES:
                header = read_header(self.config.paths.survey, self.brick.name, plane, band)
                write_plane(self.config.paths.obiwan, self.brick.name, plane, band, planes[f"{plane}_{band}"], header, self.rs)

    def _write_tables(self, catalog: np.ndarray, simcat: np.ndarray, skipped: np.ndarray) -> None:
        tables = {
            tractor_path(self.config.paths.obiwan, self.brick.name, self.rs): tractor_columns(catalog, self.brick.name),
            self._table("simcat-elg"): simcat,
            self._table("skippedids-elg"): simcat[["id"]][skipped],
            self._table("sim_ids_added"): simcat[["id"]][~skipped],
        }
        for path, table in tables.items():
            with whole_file(path) as temporary:
                write_table(temporary, np.ascontiguousarray(table), path.name.split("-")[0].removesuffix(".fits").upper())

    def _table(self, name: str) -> Path:
        return obiwan_path(self.config.paths.obiwan, self.brick.name, self.rs, name)


def observe_alike(measured: np.ndarray, catalog: np.ndarray) -> None:
    """Give fakes, in place, the seeing, depth and exposures that the catalog says of the source nearest to them.

    An estimate of our own, however good, would tell them from real galaxies in a table.
    """
    tree = cKDTree(np.stack([catalog["bx"], catalog["by"]], axis=1))
    _, nearest = tree.query(np.stack([measured["bx"], measured["by"]], axis=1))
    for name in (f"{name}_{band}" for name in ("psfsize", "psfdepth", "nobs") for band in BANDS):
        measured[name] = catalog[name][nearest]


def mark_masked(measured: np.ndarray, bits: np.ndarray | None) -> None:
    """Give fakes, in place, the mask bits of the pixel that they lie on, as real sources have; a survey may have no masks.

    Otherwise a cut on masks would remove real galaxies alone.
    """
    if bits is None:
        return
    y, x = (np.clip(np.rint(measured[name]).astype(int), 0, size - 1) for name, size in zip(("by", "bx"), bits.shape, strict=True))
    measured["maskbits"] = bits[y, x]
    for band in BANDS:
        measured[f"allmask_{band}"] = (bits[y, x] >> ALLMASK_BIT[band]) & 1


def typical_conditions(catalog: np.ndarray, planes: dict[str, np.ndarray]) -> Conditions:
    """Return a brick's typical seeing and dust from its catalog, and its sky noise from its inverse variance."""
    fwhm = {band: float(np.median(catalog[f"psfsize_{band}"])) for band in BANDS}
    transmission = {band: float(np.median(catalog[f"mw_transmission_{band}"])) for band in BANDS}
    data = {band: planes[f"invvar_{band}"][planes[f"invvar_{band}"] > 0] for band in BANDS}
    sigma = {band: float(1 / np.sqrt(np.median(invvar))) if len(invvar) else np.inf for band, invvar in data.items()}
    return Conditions(fwhm, sigma, transmission)
