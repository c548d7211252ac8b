"""What the fakes are like, where it follows the real galaxies of the same brick: smoothed, fitted, or one to one."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np

from hpc_galaxy.bricks.catalog import magnitudes
from hpc_galaxy.bricks.galaxies import GALAXY_DTYPE, SERSIC_RANGE, sersic_index
from hpc_galaxy.bricks.images import BANDS
from hpc_galaxy.errors import InputError
from hpc_galaxy.injection.places import draw_places

NOT_GALAXIES, STARS = (b"PSF", b"DUP"), (b"PSF",)
ELLIPTICITY_SCATTER, MAX_ELLIPTICITY = 0.2, 0.7  # of one component; round fits (REX) do not tell theirs
MIN_TEMPLATES = 5
PER_COMPONENT = 2  # galaxies that a Gaussian mixture has for each of its components, at least
RIDGE = 1e-4  # added to each variance of what is fitted, in units of the scatter: catalogs have the index 1 for most galaxies


def templates(catalog: np.ndarray, where: str, stars: bool = False) -> np.ndarray:
    """Return the catalog's galaxies that have a size and a positive flux in every band; or, with `stars`, its point sources.

    Raises
    ------
    InputError
        There are fewer than five to draw from.
    """
    point = np.isin(catalog["type"], STARS)
    good = point if stars else ~np.isin(catalog["type"], NOT_GALAXIES) & (catalog["shape_r"] > 0)
    for band in BANDS:
        good &= catalog[f"flux_{band}"] > 0
    if good.sum() < MIN_TEMPLATES:
        kind = "stars" if stars else "galaxies"
        raise InputError(where, f"has {good.sum()} {kind} with positive fluxes, expected at least {MIN_TEMPLATES}", "leave this brick out")
    return catalog[good]


def draw_galaxies(rng: np.random.Generator, real: np.ndarray, count: int, jitter: float, shape: tuple[int, ...]) -> np.ndarray:
    """Draw `count` Sersic galaxies with the magnitudes, colours, sizes and indices of real ones, at uniform places.

    Parameters
    ----------
    rng : Generator
        This brick's and realisation's own.
    real : ndarray, `hpc_galaxy.bricks.catalog.CATALOG_DTYPE`
        From `templates`.
    count : int
        How many.
    jitter : float
        Kernel width, in units of each property's scatter, applied to r, g-r, r-z and log radius.
    shape : tuple of int
        Rows and columns of the coadd.

    Returns
    -------
    ndarray, shape (count,), `hpc_galaxy.bricks.galaxies.GALAXY_DTYPE`
    """
    chosen = rng.integers(0, len(real), count)
    fakes = _from_features(_smoothed(rng, _features(real), chosen, jitter), real)
    fakes["sersic"] = [sersic_index(index) for index in real["sersic"][chosen]]
    fakes["g1"], fakes["g2"] = _shear(rng, real[chosen])
    fakes["x"], fakes["y"] = draw_places(rng, count, shape)
    return fakes


def draw_fitted(
    rng: np.random.Generator, real: np.ndarray, count: int, kind: str, components: int, shape: tuple[int, ...], where: str
) -> np.ndarray:
    """Draw galaxies from a density that is fitted to r, g-r, r-z, log radius, ellipticity and log index of real ones.

    Parameters
    ----------
    rng, real, count, shape : Generator, ndarray, int, tuple of int
        See `draw_galaxies`.
    kind : str
        ``kde``: Gaussian kernels as wide as Scott's rule says (Scott 1992, Multivariate Density Estimation, p. 152), shrunk so that
        covariances stay what they are (Silverman & Young 1987, Biometrika 74, 469); ``gmm``: a Gaussian mixture with full covariances.
    components : int
        Of the mixture.
    where : str
        The catalog, for errors.

    Returns
    -------
    ndarray, shape (count,), `hpc_galaxy.bricks.galaxies.GALAXY_DTYPE`
        Ellipticities and indices are kept within what can be drawn.

    Raises
    ------
    InputError
        There are too few galaxies for so many components.
    """
    values = np.concatenate([_features(real), _shapes(rng, real)])
    mean, scatter = values.mean(axis=1), values.std(axis=1)
    varied = scatter > 1e-9 * (1 + np.abs(mean))  # what is the same for all stays so
    standard = ((values[varied].T - mean[varied]) / scatter[varied]).astype(np.float64)
    drawn = np.repeat(mean[:, None], count, axis=1)
    seeds = (int(seed) for seed in rng.integers(0, 2**31 - 1, 2))
    sampled = _sample_kde(standard, count, next(seeds)) if kind == "kde" else _sample_mixture(standard, count, components, seeds, where)
    drawn[varied] = mean[varied, None] + scatter[varied, None] * sampled.T
    fakes = _from_features(drawn[:4], real)
    fakes["sersic"] = [sersic_index(index) for index in np.exp(np.clip(drawn[5], *np.log(SERSIC_RANGE)))]
    fakes["g1"], fakes["g2"] = turned(rng, np.abs(drawn[4]).clip(0, MAX_ELLIPTICITY))
    fakes["x"], fakes["y"] = draw_places(rng, count, shape)
    return fakes


def draw_twins(rng: np.random.Generator, real: np.ndarray, count: int, shape: tuple[int, ...]) -> np.ndarray:
    """Draw a twin of each of at most `count` real galaxies: same fluxes, size, index and ellipticity, turned and elsewhere.

    A round fit (REX) does not tell the ellipticity, so it is drawn, as in `draw_galaxies`.

    Parameters
    ----------
    rng, real, count, shape : Generator, ndarray, int, tuple of int
        See `draw_galaxies`; of more real galaxies a part is chosen at random.
    """
    chosen = real[rng.permutation(len(real))[:count]]
    fakes = np.zeros(len(chosen), GALAXY_DTYPE)
    for band in BANDS:
        fakes[f"flux_{band}"] = chosen[f"flux_{band}"]
    fakes["rhalf"] = np.exp(_features(chosen)[3])
    fakes["sersic"] = [sersic_index(index) for index in chosen["sersic"]]
    fakes["g1"], fakes["g2"] = _shear(rng, chosen)
    fakes["x"], fakes["y"] = draw_places(rng, len(chosen), shape)
    return fakes


def turned(rng: np.random.Generator, ellipticity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return both components of ellipticities, shape (N,), at random angles."""
    angle = rng.uniform(0, 2 * np.pi, len(ellipticity))
    return ellipticity * np.cos(angle), ellipticity * np.sin(angle)


def random_ellipticities(rng: np.random.Generator, count: int) -> np.ndarray:
    """Return ellipticities (a - b) / (a + b), shape (count,), as the synthetic survey's galaxies have them."""
    return np.asarray(np.hypot(*rng.normal(0, ELLIPTICITY_SCATTER, (2, count))).clip(0, MAX_ELLIPTICITY))


def _features(real: np.ndarray) -> np.ndarray:
    """Return r, g-r, r-z without dust, and log of the circularised radius, shape (4, N); the radius of a star counts as 1."""
    mag = {band: magnitudes(real, band) for band in BANDS}
    ellipticity = np.hypot(real["shape_e1"], real["shape_e2"]).clip(0, MAX_ELLIPTICITY)
    circularised = np.where(real["shape_r"] > 0, real["shape_r"], 1) * np.sqrt((1 - ellipticity) / (1 + ellipticity))
    return np.stack([mag["r"], mag["g"] - mag["r"], mag["r"] - mag["z"], np.log(circularised)])


def _shapes(rng: np.random.Generator, real: np.ndarray) -> np.ndarray:
    """Return ellipticity and log index, shape (2, N); the ellipticities of round fits are drawn, the index of a star counts as 1."""
    measured = np.hypot(real["shape_e1"], real["shape_e2"]).clip(0, MAX_ELLIPTICITY)
    ellipticity = np.where(real["type"] == b"REX", random_ellipticities(rng, len(real)), measured)
    return np.stack([ellipticity, np.log(np.where(real["sersic"] > 0, real["sersic"], 1))])


def _from_features(values: np.ndarray, real: np.ndarray) -> np.ndarray:
    """Return galaxies with the fluxes and radii of `values` (see `_features`), dimmed by the dust of the brick."""
    fakes = np.zeros(values.shape[1], GALAXY_DTYPE)
    for band, drawn in (("r", values[0]), ("g", values[0] + values[1]), ("z", values[0] - values[2])):
        dust = np.median(real[f"mw_transmission_{band}"])
        fakes[f"flux_{band}"] = 10 ** ((22.5 - drawn) / 2.5) * dust
    fakes["rhalf"] = np.exp(values[3])
    return fakes


def _smoothed(rng: np.random.Generator, values: np.ndarray, chosen: np.ndarray, jitter: float) -> np.ndarray:
    """Return the chosen columns of `values`, shape (properties, N), each moved by a Gaussian kernel."""
    width = jitter * values.std(axis=1, keepdims=True)
    return values[:, chosen] + rng.standard_normal((len(values), len(chosen))) * width


def _sample_kde(standard: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Draw from kernels of the shape of the whole cloud, and shrink: kernels in six dimensions are wide, and would widen every spread."""
    from sklearn.neighbors import KernelDensity

    root = np.linalg.cholesky(np.atleast_2d(np.cov(standard.T)) + RIDGE * np.eye(standard.shape[1]))
    density = KernelDensity(bandwidth="scott").fit(np.linalg.solve(root, standard.T).T)
    return np.asarray(density.sample(count, random_state=seed) @ root.T / np.sqrt(1 + density.bandwidth_**2))


def _sample_mixture(standard: np.ndarray, count: int, components: int, seeds: Iterator[int], where: str) -> np.ndarray:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    if len(standard) < PER_COMPONENT * components:
        problem = f"has {len(standard)} sources to fit {components} Gaussians to, expected at least {PER_COMPONENT * components}"
        raise InputError(where, problem, "lower injection.components, or leave this brick out")
    # k-means itself would sum in an order that depends on the number of threads.
    mixture = GaussianMixture(components, reg_covar=RIDGE, init_params="k-means++", max_iter=200, random_state=next(seeds))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a fit that could still improve is a fit
        mixture.fit(standard)
    mixture.set_params(random_state=next(seeds))
    return np.asarray(mixture.sample(count)[0])


def _shear(rng: np.random.Generator, real: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return reduced shears on the pixel axes: the real galaxies' ellipticities, turned at random."""
    g1, g2 = rng.normal(0, ELLIPTICITY_SCATTER, (2, len(real)))
    size = np.where(real["type"] == b"REX", np.hypot(g1, g2), np.hypot(real["shape_e1"], real["shape_e2"])).clip(0, MAX_ELLIPTICITY)
    angle = np.arctan2(g2, g1)
    return size * np.cos(angle), size * np.sin(angle)
