"""The test as it was done in 2018, defect by defect: how much of its accuracy was leak."""

from __future__ import annotations

from hpc_galaxy.studies.arms import Arm

OFF_CENTRE = -1.5  # pixels in x and in y
# name: (first stage, settings, what was done). Defects of training (one batch's accuracy, one file read again and again) are not among
# them: they made the result unrepeatable, not higher.
DEFECTS: dict[str, tuple[str, tuple[str, ...], str]] = {
    "one-pixel": (
        "extract",
        ('extract.defects=["one_pixel"]',),
        "fakes were cut out by positions that count from 1, reals from 0, and both truncated",
    ),
    "off-centre": (
        "inject",
        (f"injection.defects.centroid={OFF_CENTRE}", f"injection.defects.centroid_y={OFF_CENTRE}"),
        "galaxies were drawn 1.5 pixels off in x and y",
    ),
    "pixel-twice": ("inject", ("injection.defects.pixel_twice=true",), "the pixel was convolved twice"),
    "invvar-imprint": ("inject", ("injection.defects.invvar=1.0",), "the fakes' photon noise was added to the inverse variance"),
    "no-cuts-on-fakes": (
        "extract",
        ('extract.defects=["truth_positions"]', "split.match=none"),
        "fakes were cut out at true positions, detected or not and without cuts; reals where they were measured, after all cuts",
    ),
    "stars": ("extract", ('extract.defects=["stars"]',), "stars stayed among the real galaxies"),
    "other-coadds": ("extract", ("extract.real_from=survey",), "reals came from the survey's own coadds, fakes from others"),
    "no-matching": ("split", ("split.match=none",), "real and fake were not matched"),
    "random-split": ("split", ("split.groups=galaxy",), "galaxies of a brick were dealt to training and test at random"),
}
LISTS = ("extract.defects",)


def replicate() -> list[Arm]:
    """Return an arm for each defect of 2018, and one with all of them."""
    single = [Arm(name, "2018", purpose, begins, settings) for name, (begins, settings, purpose) in DEFECTS.items()]
    return [*single, Arm("all-together", "2018", "all of these at once", "inject", _together())]


def _together() -> tuple[str, ...]:
    """Return the settings of all defects; those of one list are put together."""
    pairs = [setting.split("=", 1) for _, settings, _ in DEFECTS.values() for setting in settings]
    lists = {key: "[" + ", ".join(value.strip("[]") for name, value in pairs if name == key) + "]" for key in LISTS}
    return tuple(f"{key}={value}" for key, value in {**dict(pairs), **lists}.items())
