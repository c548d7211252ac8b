"""The controls of the test: what must not be found, what must be, and what the network needs for it."""

from __future__ import annotations

from hpc_galaxy.shards.schema import PIXEL_SCALE, StampFormat
from hpc_galaxy.studies.arms import CHANCE, FOUND, Arm

# (unit, strengths, what is wrong, how a strength reads) of each deliberate defect of the injection, the weakest first.
DEFECTS: dict[str, tuple[str, tuple[float, ...], str]] = {
    "centroid": ("px", (0.05, 0.1, 0.25, 0.5, 1.0), "fakes are drawn to the right of their listed place"),
    "psf": ("relative", (0.05, 0.1, 0.2, 0.4), "the fakes' PSF is too broad"),
    "noise": ("share", (0.1, 0.25, 0.5, 1.0), "photon noise of the fakes is missing"),
    "flux": ("relative", (0.05, 0.1, 0.2, 0.4), "fakes are brighter than the catalog says"),
    "index": ("relative", (0.25, 0.5, 1.0, 2.0), "the fakes' Sersic index is too large"),
    "smooth": ("share", (0.5, 1.0), "the fakes lack substructure: bulge and knots are smoothed away"),
    "invvar": ("times", (0.02, 0.05, 0.1, 0.25, 1.0), "the fakes' photon noise is counted in the inverse variance once more"),
}


def controls(stamps: StampFormat, injects: bool = True) -> list[Arm]:
    """Return all arms, the cheap and the telling ones first.

    Parameters
    ----------
    stamps : StampFormat
        Of the shards: tells how much of the middle is masked, and which bands there are.
    injects : bool
        Whether fakes can be injected here; otherwise there are no positive controls.
    """
    return [*negative(stamps), *(positive() if injects else []), *bands(stamps), *ladder()]


def negative(stamps: StampFormat) -> list[Arm]:
    """Return the controls in which nothing is to be found."""
    radius = stamps.size * PIXEL_SCALE / 4
    arms = [
        Arm("real-real", "negative", "half of the real galaxies are called fake", "split", ("split.control=real_real",), CHANCE),
        Arm("shuffled", "negative", "the labels are shuffled within each brick", "split", ("split.control=shuffled",), CHANCE),
        Arm(
            "sky",
            "negative",
            "empty places: those of the injection, before it, against places at random",
            "extract",
            ("extract.control=sky", "split.match=none"),
            CHANCE,
        ),
    ]
    if "invvar" in stamps.planes:
        arms.append(
            Arm(
                "only-invvar", "negative", "the network sees the inverse variance alone", "train", ('train.data.inputs=["invvar"]',), CHANCE
            )
        )
    purpose = f"the inner {radius:.1f} arcsec of each stamp are taken away"
    return [*arms, Arm("masked-centre", "negative", purpose, "train", (f"train.data.mask_centre={radius:.4f}",), CHANCE)]


def positive() -> list[Arm]:
    """Return the controls with a defect, each at rising strength."""
    return [
        Arm(
            f"{defect}-{strength:g}",
            "positive",
            f"{purpose}: {strength:g} {unit}",
            "inject",
            (f"injection.defects.{defect}={strength:g}",),
            FOUND,
            defect,
            strength,
            unit,
        )
        for defect, (unit, strengths, purpose) in DEFECTS.items()
        for strength in strengths
    ]


def bands(stamps: StampFormat) -> list[Arm]:
    """Return trainings that see one band each."""
    if len(stamps.bands) < 2:
        return []
    return [
        Arm(f"only-{band}", "bands", f"the network sees {band} alone", "train", (f'train.data.bands=["{band}"]',)) for band in stamps.bands
    ]


def ladder() -> list[Arm]:
    """Return trainings of other networks."""
    return [Arm("resnet", "ladder", "a residual network of 20 layers", "train", ("train.model=resnet",))]
