"""The section [injection] and what is below it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from hpc_galaxy.config.base import Count, Fraction, NotNegative, Section


class Defects(Section):
    """Deliberate defects, to see which of them a network finds, and from which strength; all 0 for an honest injection.

    Attributes
    ----------
    centroid, centroid_y : float
        Fakes are drawn so many pixels to the right of, and above, where all tables say they are.
    psf : float
        Their PSF is broader by this share.
    noise : float
        This share of their photon noise is missing.
    flux : float
        They are brighter by this share than all tables say.
    index : float
        Their Sersic indices are larger by this share, in steps of 0.1; galaxies of bulge, disk and knots have no index.
    smooth : float
        Galaxies of bulge, disk and knots are replaced to this share by the one Sersic profile that is about as concentrated.
    invvar : float
        So many times their photon noise is counted in the inverse variance once more.
    pixel_twice : bool
        The pixel is convolved once more, though the PSF contains it already.
    """

    centroid: float = 0.0
    centroid_y: float = 0.0
    psf: Annotated[float, Field(gt=-1)] = 0.0
    noise: Fraction = 0.0
    flux: Annotated[float, Field(ge=-1)] = 0.0
    index: Annotated[float, Field(gt=-1)] = 0.0
    smooth: Fraction = 0.0
    invvar: NotNegative = 0.0
    pixel_twice: bool = False


class Injection(Section):
    """Fake galaxies.

    Attributes
    ----------
    per_brick : int
        How many are drawn for each brick and realisation, before collisions are removed. With ``properties = "matched"`` at most one for
        each real galaxy and realisation.
    realisations : int
        How many copies (``rs0``, ``rs1``, ...) of each brick.
    properties : str
        What they are like: ``bootstrap``: real galaxies of the same brick, smoothed by `jitter`; ``kde`` or ``gmm``: a kernel density or a
        Gaussian mixture that is fitted to them; ``matched``: each is a twin of one real galaxy of the brick, elsewhere; ``table``: rows of
        `Paths.sample`.
    jitter : float
        Width of the kernel that smooths the real galaxies' properties before they are drawn, in units of their scatter.
    components : int
        Of the Gaussian mixture.
    profile : str
        How they are drawn: ``auto``: a Sersic profile, with bulge and knots where `Paths.sample` has columns of them; ``sersic``;
        ``bulge_disk``; ``knots``: bulge, disk and knots of star formation; ``star``; ``stamp``: pictures of `Paths.stamps`.
    substructure_rmag : float
        With ``bulge_disk`` and ``knots``: only blue galaxies brighter than this in r have them.
    psf : str
        ``catalog``: a Moffat profile as wide as the brick's typical psfsize; ``map``: as wide as the psfsize map is where the galaxy lies;
        ``image``: the picture ``psf-<band>.fits`` in the directory `Paths.psf`, or ``psf-<brick>-<band>.fits`` of this brick.
    collision_arcsec : float
        Fakes closer than this to an earlier fake are not injected.
    reject_masked : bool
        Whether places are drawn again where a band has no data or a bit of `reject_bits` is set.
    reject_bits : list
        Names of mask bits, such as ``BRIGHT``.
    poisson : bool
        Whether the fakes carry photon noise of their own.
    update_invvar : bool
        Whether the inverse variance is lowered by the fakes' photon noise. It has to be where the survey's own inverse
        variance counts the photons of real galaxies (as the synthetic survey's does), and must not be elsewhere: otherwise
        the inverse variance alone tells fake from real.
    keep : list
        What is kept of each fake, to look at: ``noiseless`` (its light alone), ``before``, ``after`` (the coadds without and with it).
    defects : Defects
        What is wrong with them on purpose.
    """

    per_brick: Count = 500
    realisations: Count = 1
    properties: Literal["bootstrap", "kde", "gmm", "matched", "table"] = "bootstrap"
    jitter: NotNegative = 0.1
    components: Count = 6
    profile: Literal["auto", "sersic", "bulge_disk", "knots", "star", "stamp"] = "auto"
    substructure_rmag: float = 21.5
    psf: Literal["catalog", "map", "image"] = "catalog"
    collision_arcsec: NotNegative = 5.0
    reject_masked: bool = False
    reject_bits: tuple[str, ...] = ()
    poisson: bool = True
    update_invvar: bool = True
    keep: tuple[Literal["noiseless", "before", "after"], ...] = ()
    defects: Defects = Defects()

    @model_validator(mode="after")
    def _bits_need_rejection(self) -> Injection:
        if self.reject_bits and not self.reject_masked:
            raise ValueError("reject_bits are given but reject_masked is false; set it, or leave the bits out")
        return self
