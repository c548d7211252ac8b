"""``hpc-galaxy survey``: a synthetic survey in the Legacy Surveys layout, rendered by GalSim, MPI over bricks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from hpc_galaxy.bricks.catalog import tractor_columns
from hpc_galaxy.bricks.conditions import EFFECTIVE_GAIN, EXTINCTION, Conditions, measure
from hpc_galaxy.bricks.galaxies import draw, effective_area, moffat
from hpc_galaxy.bricks.geometry import Brick, brick_wcs, survey_bricks
from hpc_galaxy.bricks.images import BANDS, wcs_header, write_plane
from hpc_galaxy.bricks.layout import bricks_path, tractor_path, truth_path, write_table
from hpc_galaxy.bricks.population import draw_population
from hpc_galaxy.config import Config, Survey
from hpc_galaxy.files import shown, whole_file
from hpc_galaxy.ledger import Ledger, fingerprint
from hpc_galaxy.schedule import deal
from hpc_galaxy.tracing.attempt import recording
from hpc_galaxy.tracing.spans import Stopwatch
from hpc_galaxy.world import World

EBV_RANGE = (0.01, 0.08)
BAD_COLUMNS = 2  # mean number of dead columns a band: invvar 0, image 0
STREAM = 1  # keeps this stage's random numbers apart from those of others with the same seed


def make_survey(config: Config, world: World, overwrite: bool = False) -> None:
    """Render the survey of ``[survey]`` into ``paths.survey``; continues where it stopped.

    Every brick has random numbers of its own, from the seed and the brick's id: neither the number of ranks nor the number
    of bricks changes what is in it.
    """
    root = config.paths.survey
    ledger = Ledger(root, "survey", fingerprint(config, "survey"))
    bricks = survey_bricks(config.survey.bricks, config.survey.ra, config.survey.dec)
    outputs = ("coadd", "tractor", "truth", bricks_path(root).name)
    with ledger.claim(config, world, overwrite, outputs), recording(config.trace, root, "survey", world) as recorder:
        watch = Stopwatch(recorder)
        entries = [_make_brick(config, brick, watch) for brick in deal(world, "survey", "bricks", bricks, watch)]
        if world.is_root:
            _write_bricks(root, bricks)
        ledger.close(world, entries)
    world.say(watch.summary(world, "survey", "bricks"))
    world.say(f"survey: {shown(root)} (seed {config.seed}, {config.survey.npix} x {config.survey.npix} pixels a brick)")


def _make_brick(config: Config, brick: Brick, watch: Stopwatch) -> dict[str, Any]:
    root, survey = config.paths.survey, config.survey
    catalog_path = tractor_path(root, brick.name)
    rng = np.random.default_rng([config.seed, STREAM, brick.brickid])
    conditions = draw_conditions(rng, survey)
    sources = draw_population(rng, survey, conditions.transmission)
    wcs = brick_wcs(brick.ra, brick.dec, survey.npix)
    catalog, index = measure(rng, sources, conditions, wcs, brick)
    watch.count("bricks")
    watch.count("sources", len(sources))
    entry = {"brick": brick.name, "sources": len(sources), "detected": len(catalog)}
    if catalog_path.exists():  # written last, so the brick is whole
        return entry
    for band in BANDS:
        with watch.span("render", detail=brick.name):
            image, invvar = render(rng, sources, conditions, band, survey.npix)
        with watch.span("write", detail=brick.name):
            for plane, data in (("image", image), ("invvar", invvar)):
                write_plane(root, brick.name, plane, band, data, wcs_header(wcs, brick.name, plane, band))
    _write_truth(root, brick.name, sources, index, conditions)
    with whole_file(catalog_path) as temporary:
        write_table(temporary, tractor_columns(catalog, brick.name), "CATALOG")
    return entry


def draw_conditions(rng: np.random.Generator, survey: Survey) -> Conditions:
    """Draw a brick's seeing, depth and dust around the survey's means."""
    ebv = rng.uniform(*EBV_RANGE)
    fwhm, sigma, transmission = {}, {}, {}
    for band in BANDS:
        fwhm[band] = survey.seeing[band] * float(np.exp(rng.normal(0, survey.seeing_scatter)))
        depth = survey.depth[band] + rng.normal(0, survey.depth_scatter)
        sigma[band] = 10 ** ((22.5 - depth) / 2.5) / 5 / float(np.sqrt(effective_area(fwhm[band])))
        transmission[band] = 10 ** (-0.4 * EXTINCTION[band] * ebv)
    return Conditions(fwhm, sigma, transmission)


def render(rng: np.random.Generator, sources: np.ndarray, conditions: Conditions, band: str, npix: int) -> tuple[np.ndarray, np.ndarray]:
    """Render one band of a brick: photon noise, sky noise, and the inverse variance that agrees with both.

    Returns
    -------
    image, invvar : ndarray, shape (npix, npix), float32
        Nanomaggies and 1/nanomaggies^2; both 0 in dead columns.
    """
    light = np.zeros((npix, npix), np.float32)
    psf = moffat(conditions.fwhm[band])
    for source in sources:
        stamp = draw(source, band, psf, light.shape)
        light[stamp.rows, stamp.columns] += stamp.pixels
    gain, sigma = EFFECTIVE_GAIN[band], conditions.sigma[band]
    image = (rng.poisson(light * gain) / gain).astype(np.float32)
    image += rng.standard_normal(light.shape, dtype=np.float32) * np.float32(sigma)
    invvar = (1 / (sigma**2 + light / gain)).astype(np.float32)
    for column in rng.integers(0, npix, rng.poisson(BAD_COLUMNS)):
        first = rng.integers(0, npix)
        image[first:, column] = invvar[first:, column] = 0
    return image, invvar


def _write_truth(root: Path, brick: str, sources: np.ndarray, index: np.ndarray, conditions: Conditions) -> None:
    """Write what is in the sky: the detected sources, row by row as in the catalog, and beside them those that nobody has detected.

    Together they are a sample of what the survey was made of; the detected ones alone would be brighter.
    """
    columns: list[Any] = [*sources.dtype.descr, *[(f"mw_transmission_{band}", "<f8") for band in BANDS]]
    truth = np.zeros(len(sources), columns)
    for name in sources.dtype.names or ():
        truth[name] = sources[name]
    for band in BANDS:
        truth[f"mw_transmission_{band}"] = conditions.transmission[band]
    path = truth_path(root, brick)
    for name, rows in ((path.name.replace("truth", "undetected", 1), np.delete(truth, index)), (path.name, truth[index])):
        with whole_file(path.with_name(name)) as temporary:
            write_table(temporary, rows, "TRUTH")


def _write_bricks(root: Path, bricks: list[Brick]) -> None:
    columns = [("brickname", "S8"), ("brickid", "<i4"), ("brickq", "<i2"), ("brickrow", "<i4"), ("brickcol", "<i4")]
    table = np.zeros(len(bricks), columns + [(name, "<f8") for name in ("ra", "dec", "ra1", "ra2", "dec1", "dec2")])
    for line, brick in zip(table, bricks, strict=True):
        line["brickname"], line["brickid"] = brick.name.encode(), brick.brickid
        line["brickrow"], line["brickcol"] = brick.row, brick.column
        # Bricks of one quadrant number (0 to 3) never touch.
        line["brickq"] = 2 * (brick.row % 2) + brick.column % 2
        for name in ("ra", "dec", "ra1", "ra2", "dec1", "dec2"):
            line[name] = getattr(brick, name)
    with whole_file(bricks_path(root)) as temporary:
        write_table(temporary, table, "BRICKS")
