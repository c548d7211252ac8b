"""``hpc-galaxy plan``: how many galaxies, bricks and node-hours an answer of a wanted sharpness takes, from a report that there is."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from hpc_galaxy.config import Config
from hpc_galaxy.errors import InputError
from hpc_galaxy.files import read_object, shown
from hpc_galaxy.realism.power import POWER, needed_for_margin, needed_to_detect
from hpc_galaxy.shards.manifest import SPLITS, load_manifest


@dataclass(frozen=True)
class Measured:
    """What a small survey has shown.

    Attributes
    ----------
    design_effect : float
        How many times as many galaxies it takes as if those of a brick were independent.
    per_brick : float
        Test galaxies a brick, real and fake.
    shares : dict of str to float
        Of the examples that each split has.
    bytes_each : int
        Of a stamp in the shards.
    images_per_second, epochs : float, int
        Of the training, all ranks together.
    """

    design_effect: float
    per_brick: float
    shares: dict[str, float]
    bytes_each: int
    images_per_second: float
    epochs: int


@dataclass(frozen=True)
class Plan:
    """What it takes; `train_hours` as fast as the small training was."""

    test_a_class: int
    bricks: int
    examples: int
    terabytes: float
    train_hours: float


def plan(config: Config, margin: float, auc: float | None) -> None:
    """Print what it takes to show that fakes are indistinguishable within `margin`, or to tell an AUC of `auc` from 0.5.

    Parameters
    ----------
    config : Config
        Its paths name the report, the run and the shards of a survey that was taken through all stages.
    margin : float
        More than 0, less than 0.5.
    auc : float, optional
        More than 0.5; then the margin does not matter.

    Raises
    ------
    InputError
        There is no report, it has no error, or a value is out of range.
    """
    found = read_measured(config)
    needed = extrapolate(found, _needed(found.design_effect, margin, auc))
    goal = f"an AUC of {auc:g} is told from 0.5" if auc is not None else f"fakes that are alike are shown to be so within +/- {margin:g}"
    print(f"so that {goal} with a chance of {100 * POWER:.0f} %, with galaxies as in {shown(config.paths.report)}:")
    for line in table(found, needed):
        print(f"  {line}")
    print(f"training is as fast as in {shown(config.paths.run)}; on more nodes: hpc-galaxy bench predict")


def table(found: Measured, needed: Plan) -> list[str]:
    """Return the lines of a plan."""
    share = 100 * found.shares["test"]
    return [
        f"test galaxies  {2 * needed.test_a_class:,}, half of them fake (design effect {found.design_effect:.2f})",
        f"test bricks    {needed.bricks:,}, with {found.per_brick:.1f} of them each",
        f"all galaxies   {needed.examples:,}, of which {share:.0f} % are the test split; {needed.terabytes:.3g} TB of shards",
        f"training       {needed.train_hours:.2f} h of {found.epochs} epochs at {found.images_per_second:,.0f} images/s",
    ]


def read_measured(config: Config) -> Measured:
    """Return what a report, its shards and its training say of a survey.

    Raises
    ------
    InputError
        One of them is missing or damaged, or the report has no error of the AUC.
    """
    path = config.paths.report / "report.json"
    report = read_object(path, "hpc-galaxy realism", examples=int, bricks=int)
    effect = report.get("design_effect")
    if not isinstance(effect, float):
        raise InputError(path, "has no design effect: the test split has fewer than two bricks, or one class", "take a larger survey")
    manifest = load_manifest(config.paths.shards)
    counts = {split: manifest.examples(split) for split in SPLITS}
    done = read_object(config.paths.run / "DONE", "hpc-galaxy train", epochs=int, last=dict)
    return Measured(
        # That galaxies of a brick are less alike than any others is chance.
        design_effect=max(1.0, effect),
        per_brick=report["examples"] / report["bricks"],
        shares={split: count / sum(counts.values()) for split, count in counts.items()},
        bytes_each=np.dtype(manifest.storage.dtype).itemsize * math.prod(manifest.stamps.shape),
        images_per_second=float(done["last"]["images_per_second"]),
        epochs=int(done["epochs"]),
    )


def _needed(design_effect: float, margin: float, auc: float | None) -> int:
    try:
        return needed_for_margin(margin, design_effect) if auc is None else needed_to_detect(auc, design_effect)
    except ValueError as error:
        raise InputError("plan", str(error), "give another --margin or --auc") from None


def extrapolate(found: Measured, test_a_class: int) -> Plan:
    """Return what so many test galaxies a class take in all."""
    examples = math.ceil(2 * test_a_class / found.shares["test"])
    return Plan(
        test_a_class=test_a_class,
        bricks=math.ceil(2 * test_a_class / found.per_brick),
        examples=examples,
        terabytes=examples * found.bytes_each / 1e12,
        train_hours=found.epochs * examples * found.shares["train"] / found.images_per_second / 3600,
    )
