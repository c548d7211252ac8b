"""``hpc-galaxy inject``: fake galaxies drawn into copies of the coadds, in obiwan's layout, MPI over bricks.

Limits of injection into coadds, to be said wherever its results are shown: the photon noise of a fake is not correlated
between pixels as resampled noise is, its PSF is the brick's typical one instead of a mix of exposures, and its catalog row
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
from hpc_galaxy.bricks.images import BANDS, PLANES, header_wcs, read_header, read_plane, read_planes, write_plane
from hpc_galaxy.bricks.layout import bricks_path, coadd_path, lookup, obiwan_path, read_bricks, read_table, tractor_path, write_table
from hpc_galaxy.bricks.simcat import simcat_table
from hpc_galaxy.bricks.views import list_bricks
from hpc_galaxy.config import Config
from hpc_galaxy.errors import InputError
from hpc_galaxy.files import shown, whole_file
from hpc_galaxy.injection.add import add_galaxies
from hpc_galaxy.injection.properties import collisions, draw_galaxies, templates
from hpc_galaxy.ledger import Ledger, fingerprint, require_complete
from hpc_galaxy.schedule import deal
from hpc_galaxy.tracing.attempt import recording
from hpc_galaxy.tracing.spans import Stopwatch
from hpc_galaxy.world import World

ALLMASK_BIT = {"g": 5, "r": 6, "z": 7}  # of maskbits, DR8 to DR10
STREAM = 2  # see hpc_galaxy.bricks.survey.STREAM


def inject(config: Config, world: World, overwrite: bool = False) -> None:
    """Inject ``[injection]`` galaxies into every brick of ``paths.survey``, into ``paths.obiwan``; continues where it stopped."""
    survey, root = config.paths.survey, config.paths.obiwan
    require_complete(survey, "survey")
    cells = read_bricks(survey)
    items = [(brick, number) for brick in list_bricks(survey) for number in range(config.injection.realisations)]
    ledger = Ledger(root, "inject", fingerprint(config, "injection", survey))
    outputs = ("coadd", "tractor", "obiwan")
    with ledger.claim(config, world, overwrite, outputs), recording(config.trace, root, "inject", world) as recorder:
        watch = Stopwatch(recorder)
        dealt = deal(world, "inject", "realisations", items, watch)
        entries = [Realisation(config, _cell(cells, survey, brick), number).make(watch) for brick, number in dealt]
        ledger.close(world, entries)
    world.say(watch.summary(world, "inject", "fakes"))
    world.say(f"inject: {shown(root)} (seed {config.seed})")


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
    """

    config: Config
    brick: Brick
    number: int

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
        survey, settings, name = self.config.paths.survey, self.config.injection, self.brick.name
        with watch.span("read", detail=name):
            catalog = read_catalog(tractor_path(survey, name))
            planes = read_planes(survey, name)
        conditions = typical_conditions(catalog, planes)
        rng = np.random.default_rng(self.keys)
        real = templates(catalog, str(tractor_path(survey, name)))
        fakes = draw_galaxies(rng, real, settings.per_brick, settings.jitter, planes["image_r"].shape)
        skipped = collisions(fakes["x"], fakes["y"], settings.collision_arcsec)
        with watch.span("draw", detail=name):
            add_galaxies(planes, fakes, np.flatnonzero(~skipped), conditions, settings, self.keys)
        wcs = header_wcs(read_header(survey, name, "image", "r"))
        measured, _ = measure(rng, fakes[~skipped], conditions, wcs, self.brick)
        measured["objid"] += catalog["objid"].max() + 1
        observe_alike(measured, catalog)
        mark_masked(measured, coadd_path(survey, name, "image", "r").with_name(f"legacysurvey-{name}-maskbits.fits.fz"))
        with watch.span("write", detail=name):
            self._write_planes(planes)
            self._write_tables(np.concatenate([catalog, measured]), simcat_table(fakes, wcs, conditions.transmission), skipped)
        watch.count("collided", int(skipped.sum()))

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


def mark_masked(measured: np.ndarray, path: Path) -> None:
    """Give fakes, in place, the mask bits of the pixel that they lie on, as real sources have; a survey may have no masks.

    Otherwise a cut on masks would remove real galaxies alone.
    """
    found = lookup(path)
    if found is None:
        return
    bits = read_plane(found).pixels.astype(np.int32)  # fewer than 24 bits: exact in float32
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
