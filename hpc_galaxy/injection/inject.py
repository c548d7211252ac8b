"""``hpc-galaxy inject``: fake galaxies drawn into copies of the coadds, in obiwan's layout, MPI over bricks.

Limits of injection into coadds, to be said wherever its results are shown: the photon noise of a fake is not correlated
between pixels as resampled noise is, its PSF is the brick's typical one instead of a mix of exposures, and its catalog row
comes from a noise model (`hpc_galaxy.bricks.conditions.measure`), not from a new run of Tractor.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from hpc_galaxy.bricks.catalog import read_catalog, tractor_columns
from hpc_galaxy.bricks.conditions import EFFECTIVE_GAIN, Conditions, measure
from hpc_galaxy.bricks.galaxies import draw, moffat
from hpc_galaxy.bricks.geometry import Brick
from hpc_galaxy.bricks.images import BANDS, header_wcs, read_header, read_plane, write_plane
from hpc_galaxy.bricks.layout import bricks_path, list_bricks, obiwan_path, read_bricks, read_table, tractor_path, write_table
from hpc_galaxy.bricks.simcat import simcat_table
from hpc_galaxy.config import Config, Injection
from hpc_galaxy.errors import InputError
from hpc_galaxy.files import shown, whole_file
from hpc_galaxy.injection.properties import collisions, draw_galaxies, templates
from hpc_galaxy.ledger import Ledger, require_complete
from hpc_galaxy.tracing.progress import track
from hpc_galaxy.tracing.spans import Stopwatch
from hpc_galaxy.world import World

STREAM = 2  # see hpc_galaxy.bricks.survey.STREAM


def inject(config: Config, world: World, overwrite: bool = False) -> None:
    """Inject ``[injection]`` galaxies into every brick of ``paths.survey``, into ``paths.obiwan``; continues where it stopped."""
    survey, root = config.paths.survey, config.paths.obiwan
    require_complete(survey, "survey")
    ledger = Ledger(root, "inject", config.fingerprint("survey", "injection"))
    ledger.open(config, world, overwrite, ("coadd", "tractor", "obiwan"))
    cells = read_bricks(survey)
    bricks = list_bricks(survey)
    items = [(brick, f"rs{number}") for brick in bricks for number in range(config.injection.realisations)]
    watch = Stopwatch()
    entries = [_inject_brick(config, _cell(cells, survey, brick), rs, watch) for brick, rs in track(world, "inject", items)]
    ledger.close(world, entries)
    world.say(watch.summary(world, "inject", "fakes"))
    world.say(f"inject: {shown(root)} (seed {config.seed})")


def _cell(cells: dict[str, Brick], survey: Path, brick: str) -> Brick:
    if brick not in cells:
        raise InputError(bricks_path(survey), f"has no brick {brick}, which has a catalog", "add it to the table or remove the catalog")
    return cells[brick]


def _inject_brick(config: Config, brick: Brick, rs: str, watch: Stopwatch) -> dict[str, Any]:
    survey, root = config.paths.survey, config.paths.obiwan
    done = obiwan_path(root, brick.name, rs, "sim_ids_added")
    if done.exists():  # written last, so the realisation is whole
        injected = len(read_table(done))
        watch.count("fakes", injected)
        return {"brick": brick.name, "rs": rs, "injected": injected}
    catalog_path = tractor_path(survey, brick.name)
    catalog = read_catalog(catalog_path)
    planes = _read_planes(survey, brick.name, watch)
    header = read_header(survey, brick.name, "r")
    wcs = header_wcs(header)
    conditions = _conditions(catalog, planes)
    keys = [config.seed, STREAM, brick.brickid, int(rs.removeprefix("rs"))]
    rng = np.random.default_rng(keys)
    settings, shape = config.injection, planes["image_r"].shape
    fakes = draw_galaxies(rng, templates(catalog, str(catalog_path)), settings.per_brick, settings.jitter, (shape[0], shape[1]))
    skipped = collisions(fakes["x"], fakes["y"], settings.collision_arcsec)
    kept = np.flatnonzero(~skipped)
    with watch.span("draw"):
        for band in BANDS:
            add_galaxies(planes, fakes, kept, band, conditions, settings, keys)
    with watch.span("write"):
        for band in BANDS:
            for plane in ("image", "invvar"):
                write_plane(root, brick.name, plane, band, planes[f"{plane}_{band}"], read_header(survey, brick.name, band), rs)
    measured, _ = measure(rng, fakes[kept], conditions, wcs, brick)
    _write_tables(root, brick.name, rs, catalog, measured, simcat_table(fakes, wcs, conditions.transmission), kept, skipped)
    watch.count("fakes", len(kept))
    watch.count("collided", int(skipped.sum()))
    return {"brick": brick.name, "rs": rs, "injected": len(kept)}


def _read_planes(survey: Path, brick: str, watch: Stopwatch) -> dict[str, np.ndarray]:
    with watch.span("read"):
        return {f"{plane}_{band}": read_plane(survey, brick, plane, band) for plane in ("image", "invvar") for band in BANDS}


def _conditions(catalog: np.ndarray, planes: dict[str, np.ndarray]) -> Conditions:
    """Return the brick's typical seeing and dust from its catalog, and its sky noise from its inverse variance."""
    fwhm = {band: float(np.median(catalog[f"psfsize_{band}"])) for band in BANDS}
    transmission = {band: float(np.median(catalog[f"mw_transmission_{band}"])) for band in BANDS}
    sigma = {}
    for band in BANDS:
        invvar = planes[f"invvar_{band}"]
        sigma[band] = float(1 / np.sqrt(np.median(invvar[invvar > 0]))) if np.any(invvar > 0) else np.inf
    return Conditions(fwhm, sigma, transmission)


def add_galaxies(
    planes: dict[str, np.ndarray],
    fakes: np.ndarray,
    kept: np.ndarray,
    band: str,
    conditions: Conditions,
    settings: Injection,
    keys: list[int],
) -> None:
    """Add galaxies to one band of a brick, in place.

    Parameters
    ----------
    planes : dict of ndarray, each of shape (ny, nx), float32
        ``image_<band>`` and ``invvar_<band>``. Where the inverse variance is 0 there are no data, and none are made up.
    fakes, kept : ndarray
        Galaxies (`hpc_galaxy.bricks.galaxies.GALAXY_DTYPE`) and the rows to draw.
    conditions, settings : Conditions, Injection
        The PSF; photon noise and update of the inverse variance on or off, deliberate offset.
    keys : list of int
        With the galaxy's row and the band they seed its photon noise.
    """
    image, invvar = planes[f"image_{band}"], planes[f"invvar_{band}"]
    psf, gain = moffat(conditions.fwhm[band]), EFFECTIVE_GAIN[band]
    drawn = fakes.copy()
    drawn["x"] += settings.offset_pixels
    for row in kept:
        stamp = draw(drawn[row], band, psf, (image.shape[0], image.shape[1]))
        here = (stamp.rows, stamp.columns)
        light = np.where(invvar[here] > 0, stamp.pixels, 0)
        if settings.poisson:
            noise = np.random.default_rng([*keys, int(row), BANDS.index(band)])
            image[here] += noise.poisson(light * gain) / gain
        else:
            image[here] += light
        if settings.update_invvar:
            # 1 / (1/iv + light/gain), written so that 0 stays 0.
            invvar[here] /= 1 + invvar[here] * light / gain


def _write_tables(
    root: Path, brick: str, rs: str, catalog: np.ndarray, measured: np.ndarray, simcat: np.ndarray, kept: np.ndarray, skipped: np.ndarray
) -> None:
    measured["objid"] += catalog["objid"].max() + 1
    tables = {
        tractor_path(root, brick, rs): tractor_columns(np.concatenate([catalog, measured]), brick),
        obiwan_path(root, brick, rs, "simcat-elg"): simcat,
        obiwan_path(root, brick, rs, "skippedids-elg"): simcat[["id"]][skipped],
        obiwan_path(root, brick, rs, "sim_ids_added"): simcat[["id"]][kept],
    }
    for path, table in tables.items():
        with whole_file(path) as temporary:
            write_table(temporary, np.ascontiguousarray(table), path.name.split("-")[0].removesuffix(".fits").upper())
