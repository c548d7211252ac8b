"""The observing conditions of a brick, and what a catalog would measure under them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hpc_galaxy.bricks.catalog import CATALOG_DTYPE
from hpc_galaxy.bricks.galaxies import effective_area, sky_ellipticity
from hpc_galaxy.bricks.geometry import PIXEL_SCALE, Brick
from hpc_galaxy.bricks.images import BANDS

if TYPE_CHECKING:
    from astropy.wcs import WCS

# Electrons a nanomaggy: DECam's throughput times the 2-3 minutes that the Legacy Surveys expose in a band.
EFFECTIVE_GAIN = {"g": 6000.0, "r": 5900.0, "z": 6600.0}
# Extinction coefficients of DECam's bands, A / E(B-V) (Schlafly & Finkbeiner 2011, as used by the Legacy Surveys).
EXTINCTION = {"g": 3.214, "r": 2.165, "z": 1.211}
DETECTION_SNR = 6.0
ROUND_BELOW_SNR = 30.0  # fainter galaxies are modelled as round exponentials (REX)
FREE_INDEX_SNR = 80.0  # brighter ones get a Sersic index of their own (SER)
RELEASE = 9999


@dataclass(frozen=True)
class Conditions:
    """Seeing, depth and dust of one brick, by band.

    Attributes
    ----------
    fwhm : dict
        Delivered PSF, arcsec.
    sigma : dict
        Sky noise a pixel, nanomaggies.
    transmission : dict
        Galactic transmission, 0 to 1.
    """

    fwhm: dict[str, float]
    sigma: dict[str, float]
    transmission: dict[str, float]


def measure(rng: np.random.Generator, sources: np.ndarray, conditions: Conditions, wcs: WCS, brick: Brick) -> tuple[np.ndarray, np.ndarray]:
    """Return catalog rows as a model fit would measure them: noisy positions, fluxes and shapes of what is detected.

    This is a noise model, not a run of Tractor: errors are those of a fit to an isolated source, and blends are not merged.

    Parameters
    ----------
    rng : Generator
        Behind the noise.
    sources : ndarray, shape (N,), `hpc_galaxy.bricks.galaxies.GALAXY_DTYPE`
        The truth.
    conditions, wcs, brick : Conditions, WCS, Brick
        Where and how it is observed.

    Returns
    -------
    catalog : ndarray, shape (M,), `CATALOG_DTYPE`
        Detected sources; ``objid`` counts from 0.
    index : ndarray, shape (M,)
        Row of `sources` behind each.
    """
    catalog = np.zeros(len(sources), CATALOG_DTYPE)
    snr2 = np.zeros(len(sources))
    for band in BANDS:
        snr2 += np.maximum(_measure_flux(rng, catalog, sources, conditions, band), 0) ** 2
    snr = np.sqrt(snr2)
    _measure_position(rng, catalog, sources, conditions, wcs, snr)
    _measure_shape(rng, catalog, sources, snr)
    catalog["release"], catalog["brickid"] = RELEASE, brick.brickid
    inside_ra = (catalog["ra"] >= brick.ra1) & (catalog["ra"] < brick.ra2)
    catalog["brick_primary"] = inside_ra & (catalog["dec"] >= brick.dec1) & (catalog["dec"] < brick.dec2)
    index = np.flatnonzero(snr > DETECTION_SNR)
    detected = catalog[index]
    detected["objid"] = np.arange(len(detected))
    return detected, index


def _measure_flux(rng: np.random.Generator, catalog: np.ndarray, sources: np.ndarray, conditions: Conditions, band: str) -> np.ndarray:
    """Fill one band's columns; return the signal to noise ratio of the truth."""
    flux = sources[f"flux_{band}"]
    # A galaxy is spread over more pixels of sky noise than a star.
    spread = 1 + (2 * sources["rhalf"] / conditions.fwhm[band]) ** 2
    sky = conditions.sigma[band] ** 2 * effective_area(conditions.fwhm[band])
    variance = sky * spread + flux / EFFECTIVE_GAIN[band]
    catalog[f"flux_{band}"] = rng.normal(flux, np.sqrt(variance))
    catalog[f"flux_ivar_{band}"] = 1 / variance
    catalog[f"mw_transmission_{band}"] = conditions.transmission[band]
    catalog[f"psfsize_{band}"] = conditions.fwhm[band]
    catalog[f"psfdepth_{band}"] = 1 / sky
    catalog[f"nobs_{band}"] = 1
    return flux / np.sqrt(variance)


def _measure_position(
    rng: np.random.Generator, catalog: np.ndarray, sources: np.ndarray, conditions: Conditions, wcs: WCS, snr: np.ndarray
) -> None:
    width = np.hypot(np.mean(list(conditions.fwhm.values())), 2 * sources["rhalf"]) / PIXEL_SCALE
    scatter = 0.6 * width / np.maximum(snr, 1)  # e.g. Condon 1997, PASP 109, 166
    catalog["bx"] = sources["x"] + rng.normal(0, 1, len(sources)) * scatter
    catalog["by"] = sources["y"] + rng.normal(0, 1, len(sources)) * scatter
    if len(sources):
        catalog["ra"], catalog["dec"] = wcs.all_pix2world(catalog["bx"].astype(float), catalog["by"].astype(float), 0)


def _measure_shape(rng: np.random.Generator, catalog: np.ndarray, sources: np.ndarray, snr: np.ndarray) -> None:
    star = sources["rhalf"] == 0
    relative = 1.5 / np.maximum(snr, 1)
    ellipticity = np.hypot(sources["g1"], sources["g2"])
    # A shear keeps the area: the circularised radius is sqrt(ab), Tractor's is the semi-major axis a.
    major = sources["rhalf"] * np.sqrt((1 + ellipticity) / (1 - ellipticity))
    catalog["shape_r"] = major * np.exp(rng.normal(0, 1, len(sources)) * np.minimum(relative, 0.5))
    for column, value in zip(("shape_e1", "shape_e2"), sky_ellipticity(sources), strict=True):
        catalog[column] = np.clip(value + rng.normal(0, 1, len(sources)) * relative, -0.7, 0.7)
    index = np.clip(sources["sersic"] * np.exp(rng.normal(0, 1, len(sources)) * 3 * relative), 0.5, 6)
    kind = np.where(sources["sersic"] > 2.2, b"DEV", b"EXP")
    kind = np.where(snr > FREE_INDEX_SNR, b"SER", kind)
    kind = np.where(snr < ROUND_BELOW_SNR, b"REX", kind)
    kind = np.where(star, b"PSF", kind)
    catalog["type"] = kind
    catalog["sersic"] = np.select([kind == b"SER", kind == b"DEV", kind == b"PSF"], [index, 4.0, 0.0], 1.0)
    round_ = (kind == b"REX") | star
    for column in ("shape_e1", "shape_e2"):
        catalog[column][round_] = 0
    catalog["shape_r"][star] = 0
