"""``hpc-galaxy plan``: how many galaxies, bricks and node-hours an answer of a wanted sharpness takes, from a report that there is."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from hpc_galaxy.bench.model.predict import load_machine, measure
from hpc_galaxy.bench.model.prediction import Row, make_row
from hpc_galaxy.config import Config
from hpc_galaxy.errors import ConfigError, InputError
from hpc_galaxy.files import read_object, shown
from hpc_galaxy.realism.power import POWER, needed_for_margin, needed_to_detect
from hpc_galaxy.shards.manifest import SPLITS, load_manifest
from hpc_galaxy.tracing.attempt import attempts
from hpc_galaxy.tracing.reading import RankFile, Span, find_rank_files

HOUR = 3600
BRICK = "select"  # the span of an extraction that each of its bricks has, under the brick's name


@dataclass(frozen=True)
class Cutting:
    """How fast bricks were cut in a traced extraction: seconds of a rank for each, and ranks on a node."""

    seconds: float
    ranks_per_node: float


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
    networks : int
        That were trained, one after another, and scored.
    ranks, nodes : int or None
        On which each was; None where the training has not written it down.
    cutting : Cutting or None
        None where the extraction was not traced.
    """

    design_effect: float
    per_brick: float
    shares: dict[str, float]
    bytes_each: int
    images_per_second: float
    epochs: int
    networks: int = 1
    ranks: int | None = None
    nodes: int | None = None
    cutting: Cutting | None = None


@dataclass(frozen=True)
class Plan:
    """What it takes.

    Attributes
    ----------
    test_a_class, test_bricks : int
        Galaxies of each class in the test split, and its bricks.
    bricks, examples : int
        Of all splits.
    terabytes : float
        Of shards.
    passes : float
        Images that go through a network in training: of all epochs and all networks.
    """

    test_a_class: int
    test_bricks: int
    bricks: int
    examples: int
    terabytes: float
    passes: float


def plan(config: Config, margin: float, auc: float | None, site: str | None = None, nodes: int | None = None) -> None:
    """Print what it takes to show that fakes are indistinguishable within `margin`, or to tell an AUC of `auc` from 0.5.

    Parameters
    ----------
    config : Config
        Its paths name the report, the run and the shards of a survey that was taken through all stages.
    margin : float
        More than 0, less than 0.5.
    auc : float, optional
        More than 0.5; then the margin does not matter.
    site : str, optional
        Where it would be trained, see `hpc_galaxy.bench.model.predict.load_machine`; the training in ``paths.run`` has to have been traced.
    nodes : int, optional
        Of the site; without it one.

    Raises
    ------
    InputError
        There is no report, it has no error, or a value is out of range; or `site` is given and there is no trace of the training.
    ConfigError
        The site is unknown, or there are `nodes` and no site.
    """
    if nodes is not None and site is None:
        raise ConfigError("--nodes", "got without --site", "say with --site what nodes they are, see 'hpc-galaxy bench predict --help'")
    found = read_measured(config)
    needed = extrapolate(found, _needed(found.design_effect, margin, auc))
    there = make_row(measure(config.paths.run), load_machine(site), nodes or 1) if site is not None else None
    goal = f"an AUC of {auc:g} is told from 0.5" if auc is not None else f"fakes that are alike are shown to be so within +/- {margin:g}"
    print(f"so that {goal} with a chance of {100 * POWER:.0f} %, with galaxies as in {shown(config.paths.report)}:")
    for line in table(found, needed):
        print(f"  {line}")
    if site is not None and there is not None:
        print(f"  {_elsewhere(found, needed, there, site)}")
        print(f"the last line is predicted from the trace in {shown(config.paths.run)}, if the site's ranks compute as fast as those did")
    else:
        print("on other nodes: train with --trace, and give --site and --nodes")


def table(found: Measured, needed: Plan) -> list[str]:
    """Return the lines of a plan, on nodes like those on which the small survey was taken through the stages."""
    share = 100 * found.shares["test"]
    return [
        f"test galaxies  {2 * needed.test_a_class:,}, half of them fake (design effect {found.design_effect:.2f})",
        f"test bricks    {needed.test_bricks:,}, with {found.per_brick:.1f} of them each",
        f"all galaxies   {needed.examples:,}, of which {share:.0f} % are the test split; {needed.terabytes:.3g} TB of shards",
        f"extraction     {_extraction(found, needed)}",
        f"training       {_training(found, needed)}",
    ]


def _extraction(found: Measured, needed: Plan) -> str:
    of = f"of {needed.bricks:,} bricks"
    if found.cutting is None:
        return f"{of}; how long was not recorded: run 'hpc-galaxy extract --overwrite --trace'"
    seconds, ranks = found.cutting.seconds, found.cutting.ranks_per_node
    hours = needed.bricks * seconds / ranks / HOUR
    return f"{hours:,.2f} node-hours {of}, at {seconds:.2f} s of a rank a brick with {ranks:g} rank{'s' * (ranks != 1)} a node"


def _training(found: Measured, needed: Plan) -> str:
    hours = needed.passes / found.images_per_second / HOUR
    speed = f"{hours:,.2f} h of {_rounds(found)} at {found.images_per_second:,.0f} images/s"
    if found.nodes is None:
        return f"{speed}; the training did not write down on how many nodes"
    ranks, nodes = f"{found.ranks} rank{'s' * (found.ranks != 1)}", f"{found.nodes} node{'s' * (found.nodes != 1)}"
    return f"{speed} with {ranks} on {nodes}: {hours * found.nodes:,.2f} node-hours"


def _elsewhere(found: Measured, needed: Plan, row: Row, site: str) -> str:
    hours = needed.passes / row.images_per_second / HOUR
    where = f"{row.nodes} node{'s' * (row.nodes != 1)} of {site.rpartition(':')[2]}"
    speed = f"{hours:,.2f} h of {_rounds(found)} at {row.images_per_second:,.0f} images/s, global batch {row.batch:,}"
    return f"on {where}: {speed}: {hours * row.nodes:,.2f} node-hours"


def _rounds(found: Measured) -> str:
    return f"{found.epochs} epochs{f' of each of {found.networks} networks' if found.networks > 1 else ''}"


def read_measured(config: Config) -> Measured:
    """Return what a report, its shards, its training and a traced extraction say of a survey.

    Raises
    ------
    InputError
        One of the first three is missing or damaged, or the report has no error of the AUC.
    """
    path = config.paths.report / "report.json"
    report = read_object(path, "hpc-galaxy realism", examples=int, bricks=int)
    effect, networks = report.get("design_effect"), report.get("networks")
    if not isinstance(effect, float):
        raise InputError(path, "has no design effect: the test split has fewer than two bricks, or one class", "take a larger survey")
    manifest = load_manifest(config.paths.shards)
    counts = {split: manifest.examples(split) for split in SPLITS}
    done = read_object(config.paths.run / "DONE", "hpc-galaxy train", epochs=int, last=dict)
    ranks, nodes = (number if isinstance(number := done.get(name), int) else None for name in ("ranks", "nodes"))
    return Measured(
        # That galaxies of a brick are less alike than any others is chance.
        design_effect=max(1.0, effect),
        per_brick=report["examples"] / report["bricks"],
        shares={split: count / sum(counts.values()) for split, count in counts.items()},
        bytes_each=np.dtype(manifest.storage.dtype).itemsize * math.prod(manifest.stamps.shape),
        images_per_second=float(done["last"]["images_per_second"]),
        epochs=int(done["epochs"]),
        networks=len(networks) if isinstance(networks, list) and networks else 1,
        ranks=ranks,
        nodes=nodes,
        cutting=read_cutting(config),
    )


def read_cutting(config: Config) -> Cutting | None:
    """Return how fast the newest traced extraction in ``paths.cutouts`` was; None where none was traced, or has cut no brick.

    A rank's time is that from its first span to the end of its last: what it waits for others at the end is not in it.
    """
    if not attempts(config.paths.cutouts):
        return None
    files = find_rank_files(config.paths.cutouts)[1]
    bricks: set[str | int | None] = set()
    busy = 0
    for file in files:
        spans = [item for item in file.items() if isinstance(item, Span)]
        bricks |= {span.detail for span in spans if span.name == BRICK}
        busy += max((span.end for span in spans), default=0) - min((span.start for span in spans), default=0)
    if not bricks or not _ended_well(files):
        return None
    return Cutting(busy * 1e-9 / len(bricks), len(files) / len({file.header["host"] for file in files}))


def _ended_well(files: list[RankFile]) -> bool:
    return len(files) == files[0].header["ranks"] and all(file.footer.get("ended") == "well" for file in files)


def _needed(design_effect: float, margin: float, auc: float | None) -> int:
    try:
        return needed_for_margin(margin, design_effect) if auc is None else needed_to_detect(auc, design_effect)
    except ValueError as error:
        raise InputError("plan", str(error), "give another --margin or --auc") from None


def extrapolate(found: Measured, test_a_class: int) -> Plan:
    """Return what so many test galaxies a class take in all."""
    examples = math.ceil(2 * test_a_class / found.shares["test"])
    test_bricks = 2 * test_a_class / found.per_brick
    return Plan(
        test_a_class=test_a_class,
        test_bricks=math.ceil(test_bricks),
        # Bricks are dealt to the splits as galaxies are.
        bricks=math.ceil(test_bricks / found.shares["test"]),
        examples=examples,
        terabytes=examples * found.bytes_each / 1e12,
        passes=found.networks * found.epochs * examples * found.shares["train"],
    )
