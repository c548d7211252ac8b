"""Which catalog sources are cut out. Real and fake galaxies go through the same cuts, on the same measured columns.

A cut is a function of the catalog and the settings that returns which rows it keeps. `CUTS` has them by name, `SELECTIONS` lists of
names. ``extract.selection`` chooses either; ``extract.where`` adds conditions of the user's own.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from hpc_galaxy.bricks.catalog import catalog_dtype, magnitudes
from hpc_galaxy.bricks.maskbits import bit_mask, bit_number
from hpc_galaxy.config import Extract
from hpc_galaxy.cutouts.expression import Expression, parse
from hpc_galaxy.errors import ConfigError
from hpc_galaxy.shards.layout_2018 import require_2018
from hpc_galaxy.shards.schema import StampFormat

STARS, DUPLICATES = (b"PSF",), (b"DUP",)
NOT_ELG_TYPES = (b"COMP", b"DEV")
ELG_BANDS = ("g", "r", "z")
MAGNITUDE = re.compile(r"mag_(\w+)")


@dataclass(frozen=True)
class Sample:
    """What a cut looks at.

    Attributes
    ----------
    catalog : ndarray, shape (N,)
        `hpc_galaxy.bricks.catalog.catalog_dtype` of the stamps' bands, and possibly other columns.
    settings : Extract
        The section of the configuration.
    """

    catalog: np.ndarray
    settings: Extract

    @property
    def bands(self) -> tuple[str, ...]:
        """The stamps' bands."""
        return self.settings.bands

    def column(self, name: str) -> np.ndarray:
        """Return a column, or ``mag_<band>``: AB, corrected for extinction, NaN where the flux is not positive; shape (N,).

        Raises
        ------
        ConfigError
            The catalog has no such column.
        """
        names = self.catalog.dtype.names or ()
        if name in names:
            return np.asarray(self.catalog[name])
        magnitude = MAGNITUDE.fullmatch(name)
        if magnitude and {f"flux_{magnitude[1]}", f"mw_transmission_{magnitude[1]}"} <= set(names):
            with np.errstate(all="ignore"):  # no transmission, no magnitude
                return magnitudes(self.catalog, magnitude[1])
        near = _nearest(name, [*names, *(f"mag_{band}" for band in self.bands)])
        problem = f"the catalog has no column '{name}', the nearest is '{near}'"
        raise ConfigError("extract", problem, "check extract.bands and extract.where")

    def all_bands(self, cut: Callable[[str], np.ndarray], bands: Sequence[str]) -> np.ndarray:
        """Return where `cut` of a band holds in all of `bands`, shape (N,), bool."""
        return np.all([cut(band) for band in bands], axis=0)


Cut = Callable[[Sample], np.ndarray]
"""Returns which rows are kept, shape (N,), bool."""


def primary(sample: Sample) -> np.ndarray:
    """Keep the brick's own sources, not those that a neighbouring brick has too."""
    return sample.column("brick_primary").astype(bool)


def not_star(sample: Sample) -> np.ndarray:
    """Drop what is best described by a point (PSF)."""
    return ~np.isin(sample.column("type"), STARS)


def not_duplicate(sample: Sample) -> np.ndarray:
    """Drop Gaia sources inside a large galaxy that were not fitted (DUP, from DR8 on)."""
    return ~np.isin(sample.column("type"), DUPLICATES)


def observed(sample: Sample) -> np.ndarray:
    """Keep what has ``extract.nobs`` exposures or more in each band of the stamps."""
    return sample.all_bands(lambda band: sample.column(f"nobs_{band}") >= sample.settings.nobs, sample.bands)


def fluxes_measured(sample: Sample) -> np.ndarray:
    """Keep what has a positive flux, and an error of it, in each band of the stamps."""
    return sample.all_bands(lambda band: (sample.column(f"flux_{band}") > 0) & (sample.column(f"flux_ivar_{band}") > 0), sample.bands)


def not_comp_or_dev(sample: Sample) -> np.ndarray:
    """Drop the types COMP and DEV, which emission-line galaxies hardly ever are."""
    return ~np.isin(sample.column("type"), NOT_ELG_TYPES)


def elg_colors(sample: Sample) -> np.ndarray:
    """Keep the g-r, r-z box of DESI's emission-line galaxies, widened by ``elg.margin``.

    g-r <= 1.15 (r-z) - 0.15 and g-r <= -1.2 (r-z) + 1.6 are moved by the margin perpendicular to themselves, 0.3 <= r-z <= 1.6 along
    r-z.
    """
    mag = {band: sample.column(f"mag_{band}") for band in ELG_BANDS}
    gr, rz = mag["g"] - mag["r"], mag["r"] - mag["z"]
    margin = sample.settings.elg.margin
    keep = (gr <= 1.15 * rz - 0.15 + margin * np.hypot(1, 1.15)) & (gr <= -1.2 * rz + 1.6 + margin * np.hypot(1, 1.2))
    return np.asarray(keep & (rz >= 0.3 - margin) & (rz <= 1.6 + margin))


def faint_limit(sample: Sample) -> np.ndarray:
    """Keep what is brighter than ``elg.faint`` in g, r and z."""
    return sample.all_bands(lambda band: sample.column(f"mag_{band}") < sample.settings.elg.faint[band], ELG_BANDS)


def bright_limit(sample: Sample) -> np.ndarray:
    """Keep what is no brighter than ``elg.bright`` in g, r and z."""
    return sample.all_bands(lambda band: sample.column(f"mag_{band}") >= sample.settings.elg.bright[band], ELG_BANDS)


def half_light_radius(sample: Sample) -> np.ndarray:
    """Keep what has a half-light radius within ``elg.radius``; that of a PSF is half the mean FWHM over the stamps' bands."""
    psf = np.mean([sample.column(f"psfsize_{band}") for band in sample.bands], axis=0) / 2
    radius = np.where(np.isin(sample.column("type"), STARS), psf, sample.column("shape_r"))
    smallest, largest = sample.settings.elg.radius
    return np.asarray((radius >= smallest) & (radius <= largest))


def maskbits(sample: Sample) -> np.ndarray:
    """Drop sources with any of the bits ``extract.maskbits``; releases before DR8 have none set."""
    mask = bit_mask(sample.settings.maskbits, "extract.maskbits")
    return np.asarray((sample.column("maskbits").astype(np.int64) & mask) == 0)


def allmask(sample: Sample) -> np.ndarray:
    """Drop sources that touch a bad pixel in all exposures of any of the bands ``extract.allmask``."""
    return sample.all_bands(lambda band: sample.column(f"allmask_{band}") == 0, sample.settings.allmask)


CUTS: dict[str, Cut] = {
    cut.__name__: cut
    for cut in (
        *(primary, not_star, not_duplicate, observed, fluxes_measured, not_comp_or_dev),
        *(elg_colors, faint_limit, bright_limit, half_light_radius, maskbits, allmask),
    )
}
GALAXIES = ("primary", "not_star", "not_duplicate", "observed")
SELECTIONS: dict[str, tuple[str, ...]] = {
    "all": (),
    "galaxies": GALAXIES,
    "elg": (*GALAXIES, "fluxes_measured", "not_comp_or_dev", "elg_colors", "faint_limit", "bright_limit", "half_light_radius"),
}
"""``all``: every row; ``galaxies``: the brick's own galaxies; ``elg``: those in the parameter space of the 2018 test."""


def cuts(catalog: np.ndarray, settings: Extract) -> dict[str, np.ndarray]:
    """Return what each cut of the configuration keeps.

    Parameters
    ----------
    catalog : ndarray, shape (N,)
        `hpc_galaxy.bricks.catalog.catalog_dtype` of ``settings.bands``, with the columns `needs` appended.
    settings : Extract
        The section of the configuration.

    Returns
    -------
    dict of str to ndarray, shape (N,), bool
        True = keep; in the order in which they are applied: the selection, masks, then the user's conditions.

    Raises
    ------
    ConfigError
        A cut, a bit or a column is unknown, or a condition is none.
    """
    sample = Sample(catalog, settings)
    kept = {name: CUTS[name](sample) for name in cut_names(settings)}
    return kept | {name: _apply(condition, sample) for name, condition in conditions(settings).items()}


def cut_names(settings: Extract) -> list[str]:
    """Return the names of the configured cuts, in order, without the user's conditions.

    Raises
    ------
    ConfigError
        There is no such cut; or ``maskbits`` names no bit.
    """
    names = list(SELECTIONS[settings.selection] if isinstance(settings.selection, str) else settings.selection)
    for name in names:
        if name not in CUTS:
            problem = f"unknown cut '{name}', the nearest is '{_nearest(name, [*CUTS])}'"
            raise ConfigError("extract.selection", problem, f"choose of {', '.join(CUTS)}, or one of {', '.join(SELECTIONS)}")
    for bit in settings.maskbits:
        bit_number(bit, "extract.maskbits")
    if "stars" in settings.defects:
        names = [name for name in names if name != not_star.__name__]
    names += ["maskbits"] * bool(settings.maskbits) + ["allmask"] * bool(settings.allmask)
    return list(dict.fromkeys(names))


def conditions(settings: Extract) -> dict[str, Expression]:
    """Return the user's own conditions, parsed, by their names.

    Raises
    ------
    ConfigError
        One is not understood, or has the name of a cut.
    """
    for name in settings.where:
        if name in CUTS:
            raise ConfigError(f"extract.where.{name}", "is the name of a cut of the package's, expected another", "rename it")
    return {name: parse(f"extract.where.{name}", text) for name, text in settings.where.items()}


def needs(settings: Extract) -> tuple[str, ...]:
    """Return the catalog's own columns that the conditions ask for beyond the common table, sorted.

    Raises
    ------
    ConfigError
        A condition is not understood.
    """
    return tuple(sorted({name for condition in conditions(settings).values() for name in _native(condition, settings)}))


def require_valid(settings: Extract) -> None:
    """Find whatever is wrong with the bands and cuts of a configuration, before the first brick is read.

    Raises
    ------
    ConfigError
        A cut, a bit, a column or a condition is wrong, a band or plane is there twice or not at all, or the layout
        has no place for the stamps.
    """
    for key, names in (("bands", settings.bands), ("planes", settings.planes)):
        if not names or len(set(names)) < len(names):
            raise ConfigError(f"extract.{key}", f"is {list(names)}, expected one or more, each once", "mend it")
    if settings.layout == "2018":
        stamps = StampFormat(settings.bands, settings.planes, settings.size)
        require_2018(stamps, settings.compression, settings.mantissa_bits)
    nothing = Sample(np.zeros(0, catalog_dtype(settings.bands)), settings)
    for name in cut_names(settings):
        CUTS[name](nothing)
    for condition in conditions(settings).values():
        if not _native(condition, settings):  # of the others the types are not known
            _apply(condition, nothing)


def _native(condition: Expression, settings: Extract) -> set[str]:
    """Return the columns that a condition needs and that the common table lacks."""
    wanted: set[str] = set()
    for name in condition.names:
        magnitude = MAGNITUDE.fullmatch(name)
        wanted |= {f"flux_{magnitude[1]}", f"mw_transmission_{magnitude[1]}"} if magnitude else {name}
    return wanted - set(catalog_dtype(settings.bands).names or ())


def _apply(condition: Expression, sample: Sample) -> np.ndarray:
    return condition.evaluate(sample.column, len(sample.catalog))


def _nearest(name: str, known: Sequence[str]) -> str:
    return difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]


def apply_cuts(catalog: np.ndarray, cuts: dict[str, np.ndarray]) -> tuple[np.ndarray, dict[str, int]]:
    """Apply cuts one after another.

    Returns
    -------
    keep : ndarray, shape (N,), bool
        What passes all of them.
    flow : dict of str to int
        How many rows each cut removed that those before it had left.
    """
    keep, flow = np.ones(len(catalog), bool), {}
    for name, cut in cuts.items():
        flow[name] = int((keep & ~cut).sum())
        keep &= cut
    return keep, flow
