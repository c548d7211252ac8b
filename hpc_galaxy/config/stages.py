"""The sections of the stages that make data, and of the report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from hpc_galaxy.config.base import Count, Fraction, NotNegative, PerBand, Positive, Section


class Paths(Section):
    """Directories, relative to the configuration file's own directory."""

    survey: Path = Path("survey")
    obiwan: Path = Path("obiwan")
    positions: Path = Path("positions.fits")
    sample: Path = Path("sample.fits")
    stamps: Path = Path("stamps.fits")
    psf: Path = Path("psf")
    cutouts: Path = Path("cutouts")
    shards: Path = Path("shards")
    run: Path = Path("run")
    report: Path = Path("report")
    controls: Path = Path("controls")
    replicate: Path = Path("replicate")


Knots = Annotated[float, Field(ge=0, le=0.65)]


class Survey(Section):
    """The synthetic survey.

    Attributes
    ----------
    bricks : int
        How many bricks; they are laid out so that no two share sky.
    npix : int
        Side of a brick's coadds in pixels of 0.262 arcsec; Legacy Surveys have 3600.
    ra, dec : float
        Where the survey begins, degrees.
    galaxies_per_arcmin2, stars_per_arcmin2 : float
        Mean source densities; the counts are Poisson distributed.
    seeing, seeing_scatter : PerBand, float
        Mean full width at half maximum of the delivered PSF, arcsec, and its relative scatter from brick to brick.
    depth : PerBand
        AB magnitude of a point source at 5 sigma.
    depth_scatter : float
        Scatter of the depth from brick to brick, magnitudes.
    rmag : tuple of float
        Magnitudes in r, without dust, between which galaxies are made.
    count_slope : float
        How the number of galaxies grows with magnitude, d log10 N / dm. The sky has 0.33; less makes more of them bright, for studies of
        bright galaxies on little sky.
    substructure_rmag : float
        Blue galaxies brighter than this in r are a bulge, a disk and star-forming knots instead of one Sersic profile.
    knots : tuple of float
        The least and the largest share of such a galaxy's light that is in its knots; beside a bulge of up to 0.35.
    """

    bricks: Count = 4
    npix: Annotated[int, Field(ge=128, le=3600)] = 3600
    ra: Annotated[float, Field(ge=0, lt=360)] = 120.0
    dec: Annotated[float, Field(ge=-60, le=60)] = 6.0
    galaxies_per_arcmin2: NotNegative = 15.0
    stars_per_arcmin2: NotNegative = 2.0
    seeing: PerBand = PerBand(g=1.35, r=1.25, z=1.15)
    seeing_scatter: Fraction = 0.08
    depth: PerBand = PerBand(g=24.6, r=24.0, z=23.0)
    depth_scatter: NotNegative = 0.1
    rmag: tuple[float, float] = (17.0, 24.5)
    count_slope: Annotated[float, Field(ge=-1, le=1)] = 0.33
    substructure_rmag: float = 21.5
    knots: tuple[Knots, Knots] = (0.05, 0.2)

    @model_validator(mode="after")
    def _bright_before_faint(self) -> Survey:
        if not 5 <= self.rmag[0] < self.rmag[1] <= 30:
            raise ValueError(f"rmag is {self.rmag[0]:g} to {self.rmag[1]:g}, expected the brighter limit first, both from 5 to 30")
        return self


class Elg(Section):
    """The parameter space of the 2018 test: emission-line galaxies of DESI's target selection, widened.

    Attributes
    ----------
    margin : float
        How far the colour box is widened, magnitudes; the sloped lines are moved perpendicular to themselves.
    faint, bright : PerBand
        Extinction-corrected AB magnitudes between which galaxies are kept.
    radius : tuple
        Half-light radii between which they are kept, arcsec.
    """

    margin: NotNegative = 0.5
    faint: PerBand = PerBand(g=24.5, r=23.9, z=23.0)
    bright: PerBand = PerBand(g=20.6766, r=20.4659, z=19.4391)
    radius: tuple[NotNegative, NotNegative] = (0.131, 2.0)


class Extract(Section):
    """Cutouts.

    Attributes
    ----------
    classes : list
        Which of ``real``, ``fake`` and ``user`` to cut; ``user`` is the positions of `Paths.positions`.
    real_from : str
        Whether real galaxies are cut from the coadds into which the fakes were injected (``injected``: both classes share
        every pixel's history, so only the galaxies can differ) or from the survey's own (``survey``).
    bands, planes : list
        Which coadds the channels are: all bands of the first plane, then all of the second.
    size : int
        Side of a stamp, pixels; an even number.
    selection : str or list
        ``elg`` (the parameter space of the 2018 test), ``galaxies`` (no stars, no duplicates), ``all``, or the names of
        single cuts (`hpc_galaxy.cutouts.selection`). The same selection is applied to real and to fake.
    where : dict
        Cuts of one's own on top: a name and an expression over catalog columns, such as ``mag_r < 22 and shape_r > 0.3``.
    elg : Elg
        Tunes the cuts of the selection ``elg``.
    nobs : int
        Exposures that every band has to have (cut ``observed``).
    maskbits : list
        Sources on pixels with any of these bits, such as ``BRIGHT``, are removed (cut ``maskbits``).
    allmask : list
        Bands in which sources whose ``allmask`` is set are removed (cut ``allmask``).
    match_arcsec : float
        A catalog source this close to an injected position is that injected galaxy.
    layout : str
        ``brick``: one HDF5 file a brick and class; ``2018``: obiwan's, a group and two datasets a galaxy.
    compression : str
        ``none``, or ``bitshuffle`` (with LZ4): smaller once mantissas are rounded (benchmarks/bench_survey.py).
    mantissa_bits : int
        Bits kept of the 23 of each pixel's mantissa; the files say what the rounding costs in units of the pixel noise.
    checksums : bool
        Whether coadds are read whole, their FITS checksums verified and stored. Without it just the tiles that are needed are
        read.
    bricks : int
        At most so many bricks, the first by name, to try things; 0: all.
    control : str
        ``sky``: a negative control. Cut out of the survey's own coadds, where nothing was injected, are the places of the injected
        galaxies (as ``fake``) and as many places at random (as ``real``). ``none``: the galaxies.
    defects : list
        Defects of the scripts of 2018, on purpose: ``one_pixel`` (fakes are cut where a table that counts pixels from 1 has them, both are
        truncated instead of rounded), ``truth_positions`` (fakes are cut where they were injected, detected or not, without any cut;
        reals where they were measured, after all cuts), ``stars`` (point sources stay among the real galaxies).
    """

    classes: tuple[Literal["real", "fake", "user"], ...] = ("real", "fake")
    real_from: Literal["injected", "survey"] = "injected"
    bands: tuple[Literal["g", "r", "i", "z"], ...] = ("g", "r", "z")
    planes: tuple[Literal["image", "invvar"], ...] = ("image", "invvar")
    size: Annotated[int, Field(ge=8, le=512, multiple_of=2)] = 64
    selection: Literal["elg", "galaxies", "all"] | tuple[str, ...] = "elg"
    where: dict[str, str] = Field(default_factory=dict)
    elg: Elg = Elg()
    nobs: Annotated[int, Field(ge=0)] = 1
    maskbits: tuple[str, ...] = ()
    allmask: tuple[Literal["g", "r", "i", "z"], ...] = ()
    match_arcsec: Positive = 1.0
    layout: Literal["brick", "2018"] = "brick"
    compression: Literal["none", "bitshuffle"] = "none"
    mantissa_bits: Annotated[int, Field(ge=1, le=23)] = 23
    checksums: bool = True
    bricks: Annotated[int, Field(ge=0)] = 0
    control: Literal["none", "sky"] = "none"
    defects: tuple[Literal["one_pixel", "truth_positions", "stars"], ...] = ()


class Split(Section):
    """Train, valid and test by sky group, real matched to fake.

    Attributes
    ----------
    train, valid, test : float
        Fractions of the sky groups; they sum to 1.
    groups, tile_arcmin : str, float
        What is assigned as a whole: ``brick``, or ``tile``: cells of a grid on the sky, for a survey of few bricks. The side of
        a group depends on its name and the seed alone, so bricks that are added later move nobody. ``galaxy``: each by itself, the
        defect of 2018: nothing keeps neighbours that show the same pixels out of the other splits.
    guard_arcsec : float
        Distance that is kept between stamps of different splits, on top of what keeps them from sharing a pixel.
    match : str
        ``nearest``: each fake galaxy is paired with the real one whose propensity score is nearest, and what finds no partner is
        dropped. ``none``: the classes are left as they differ.
    match_columns : list
        What they are matched on: columns of the source table; a name such as ``mag`` stands for all bands. ``ellipticity`` and
        ``depth`` (magnitude of a point source at 5 sigma) are derived.
    caliper : float
        Largest distance within a pair, in standard deviations of the logit of the propensity score.
    balance : bool
        Without matching: whether the larger class of each split is cut down to the size of the smaller.
    control : str
        A negative control: ``real_real``: half of the real galaxies, drawn at random, are called fake, and the fakes are left out;
        ``shuffled``: the labels of each brick's examples are shuffled. ``none``: the labels are what the galaxies are.
    storage, layout : str
        ``float32``, or ``float16`` in units of a scale per channel: half the space, and the manifest says what it costs. ``shards``,
        or ``obiwan``: the files that the network of 2018 reads, a folder a brick, channels interleaved.
    """

    train: Fraction = 0.8
    valid: Fraction = 0.1
    test: Fraction = 0.1
    groups: Literal["brick", "tile", "galaxy"] = "brick"
    tile_arcmin: Annotated[float, Field(ge=1, le=600)] = 15.0
    guard_arcsec: NotNegative = 0.0
    match: Literal["nearest", "none"] = "nearest"
    match_columns: tuple[str, ...] = ("mag", "shape_r", "ellipticity", "psfsize", "depth")
    caliper: Positive = 0.2
    balance: bool = True
    control: Literal["none", "real_real", "shuffled"] = "none"
    storage: Literal["float32", "float16"] = "float32"
    layout: Literal["shards", "obiwan"] = "shards"

    @model_validator(mode="after")
    def _sum_to_one(self) -> Split:
        total = self.train + self.valid + self.test
        if abs(total - 1) > 1e-6:
            raise ValueError(f"train + valid + test is {total:g}, expected 1")
        return self


class Silence(Section):
    """When a stage of several ranks, other than the training (which has its own watchdog), is ended.

    Attributes
    ----------
    silent_seconds : float
        A rank that has given no sign of life for so long (stopped, or its node gone) ends the job; 0: never. Longer than a file
        system may hang: a rank that waits inside a library for a read gives none.
    """

    silent_seconds: NotNegative = 300.0


class Realism(Section):
    """The report on the held-out test split.

    Attributes
    ----------
    percentiles : list
        Percentiles of brightness at which galaxies are shown; 99 is bright.
    pairs : int
        Real and fake pairs a picture.
    bootstrap : int
        Resamplings (of sky groups) behind the bootstrap interval of the AUC.
    permutations : int
        Permutations (of the classes of whole sky groups) behind the p-value.
    margin : float
        How far from 0.5 an AUC may be for fake and real to count as indistinguishable; 0: as near as the test set can show.
    baselines : bool
        Whether simpler classifiers are trained, to see what the network knows beyond them; what one of them tells apart is not called
        indistinguishable.
    occlusion_galaxies : int
        Galaxies of which patches are hidden, to see what the network looks at; 0: none. A stamp of 6 channels goes through the network
        about 850 times.
    explain : bool
        Whether mean stacks, occlusion, galleries and the sensitivity to the truth table are made.
    """

    percentiles: tuple[Annotated[float, Field(ge=0, le=100)], ...] = (99, 75, 50, 25, 1)
    pairs: Count = 4
    bootstrap: Count = 1000
    permutations: Count = 10_000
    margin: Annotated[float, Field(ge=0, lt=0.5)] = 0
    baselines: bool = True
    occlusion_galaxies: Annotated[int, Field(ge=0)] = 6
    explain: bool = True
