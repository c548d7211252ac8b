"""What the points work on: the user's data, or synthetic ones that are made once and known under as many names as it takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from hpc_galaxy.bench.scaling.plan import Asked, Study
from hpc_galaxy.bench.suite.bricks import SETTINGS, Brick, aliases, brick_name
from hpc_galaxy.bench.suite.clock import LEARNING_RATE
from hpc_galaxy.bench.suite.examples import write_examples
from hpc_galaxy.bench.suite.extract import SOURCES
from hpc_galaxy.config import Config, load_config
from hpc_galaxy.cutouts.brick import input_trees
from hpc_galaxy.cutouts.extract import list_work
from hpc_galaxy.errors import FormatError, InputError
from hpc_galaxy.files import write_json
from hpc_galaxy.shards.manifest import NAME, REMEDY, SHARD_SIZE, Manifest, Shard, load_manifest
from hpc_galaxy.shards.numpy_shards import shard_names, write_shard
from hpc_galaxy.world import World

WARM_UP = 3  # steps that are not timed: memory is touched for the first time, and the reader has its start
HELD_OUT = 64  # examples: the validation is not timed, but takes time
DISTINCT = 4  # synthetic shards
WHOLE = "synthetic.json"  # is written after all of a synthetic survey


def find_synthetic(asked: Asked, config: Config) -> tuple[str, ...]:
    """Return the stages for which there are no data where the configuration says."""
    there = {
        "train": (config.paths.shards / NAME).exists(),
        "extract": any(tree.exists() for tree in input_trees(config).values()),
    }
    return tuple(stage for stage in asked.stages if not there[stage])


def require_bricks(asked: Asked, config: Config) -> None:
    """Refuse a survey with too few bricks for the largest point.

    Raises
    ------
    InputError
        As said.
    """
    found, needed = len(list_work(config, World())), asked.bricks * asked.most_ranks
    if found < needed:
        tree = next(iter(input_trees(config).values()))
        problem = f"has {found:,} bricks, expected {needed:,}: {asked.bricks} for each of {asked.most_ranks:,} ranks"
        raise InputError(tree, problem, "give fewer --bricks or --nodes")


def make_synthetic(study: Study) -> None:
    """Make the synthetic data that a study needs, unless they are there; what is written last says so."""
    shards, survey = study.directory / "shards", study.directory / "survey"
    if "train" in study.synthetic and not (shards / NAME).exists():
        write_examples(shards, DISTINCT * SHARD_SIZE)
    if "extract" in study.synthetic:
        names = aliases(study.asked.bricks * study.asked.most_ranks)
        if not (survey / WHOLE).exists():
            brick = Brick(survey / "own", brick_name(), study.config.survey.npix)
            brick.make_pixels()
            brick.write_catalog(SOURCES)
            brick.link(survey, names)
            write_json(survey / WHOLE, {"npix": brick.npix, "sources": SOURCES, "bricks": len(names)})


def train_config(study: Study, global_batch: int, folder: Path) -> Config:
    """Return the configuration of a training in ``folder/run``, on the view of the shards in ``folder/shards``."""
    changes: dict[str, Any] = {
        "paths": {"shards": folder / "shards", "run": folder / "run"},
        # A rank goes through its share in pieces of train.batch_size, and so accumulates by itself.
        "train": {
            "epochs": 1,
            "global_batch": global_batch,
            "accumulate": 1,
            "saving": {"every_steps": 0, "every_minutes": 0.0, "curve": False},
        },
    }
    if "train" in study.synthetic:
        changes["train"]["optimizer"] = {"learning_rate": LEARNING_RATE, "scaling": "none"}
    return _changed(study.config, changes)


def extract_config(study: Study, bricks: int, folder: Path) -> Config:
    """Return the configuration of an extraction of so many bricks into ``folder/cutouts``."""
    changes: dict[str, Any] = {"paths": {"cutouts": folder / "cutouts"}, "extract": {"bricks": bricks}}
    if "extract" in study.synthetic:
        own = load_config(None, [f"extract.{name}={value}" for name, value in SETTINGS.items()]).extract
        changes["paths"]["survey"] = study.directory / "survey"
        changes["extract"] |= {name: getattr(own, name) for name in SETTINGS}
    return _changed(study.config, changes)


def _changed(config: Config, changes: dict[str, Any]) -> Config:
    """Return a configuration with changes on top, and the trace of spans on."""
    content = config.model_dump()
    _put(content, changes | {"trace": {"spans": True, "horovod_timeline": False, "profiler": {"ranks": ()}}})
    return Config.model_validate(content)


def _put(content: dict[str, Any], changes: dict[str, Any]) -> None:
    for name, value in changes.items():
        if isinstance(value, dict):
            _put(content[name], value)
        else:
            content[name] = value


def shards_of(study: Study) -> Path:
    """Return the directory of shards that trainings read."""
    return study.directory / "shards" if "train" in study.synthetic else study.config.paths.shards


def write_view(source: Path, target: Path, examples: int) -> None:
    """Write a directory of shards with so many training examples, which are those of another: linked, over and over where it has fewer.

    Only the last shard, where it is not a full one, and a few examples to validate on are copied.

    Parameters
    ----------
    source, target : Path
        The shards, and the new directory.
    examples : int
        Of the training split: as many as the steps need, so that the last step is not a smaller one.

    Raises
    ------
    InputError
        The source has no full shard, or nothing to validate on.
    """
    manifest = load_manifest(source)
    full = [shard for shard in manifest.splits["train"] if shard.examples == SHARD_SIZE]
    if not full or not manifest.splits["valid"]:
        problem = f"has {manifest.examples('train')} training and {manifest.examples('valid')} validation examples"
        raise InputError(source, f"{problem}, expected {SHARD_SIZE} and 1 at least", "train on more, or leave them out: synthetic ones do")
    target.mkdir(parents=True, exist_ok=True)
    whole, rest = divmod(examples, SHARD_SIZE)
    train = [_link(source, target, full[number % len(full)], number) for number in range(whole)]
    if rest:
        train.append(_copy(source, target, "train", whole, full[whole % len(full)], rest))
    held_out = manifest.splits["valid"][0]
    valid = [_copy(source, target, "valid", 0, held_out, min(HELD_OUT, held_out.examples))]
    manifest.model_copy(update={"splits": {"train": train, "valid": valid, "test": []}}).save(target)


def _link(source: Path, target: Path, shard: Shard, number: int) -> Shard:
    """Make a shard known under another number."""
    names = shard_names("train", number)
    old = {name: getattr(shard, kind) for kind, name in names.items()}
    for name, before in old.items():
        (target / name).symlink_to((source / before).resolve())
    sizes, sums = ({name: table[before] for name, before in old.items()} for table in (shard.bytes, shard.xxh128))
    return Shard.model_validate({**names, "examples": shard.examples, "bytes": sizes, "xxh128": sums})


def _copy(source: Path, target: Path, split: str, number: int, shard: Shard, examples: int) -> Shard:
    """Write the first examples of a shard as another."""
    x, table = (_first(source / name, examples) for name in (shard.x, shard.table))
    return write_shard(target, split, number, x, table)


def _first(path: Path, examples: int) -> np.ndarray:
    try:
        return np.array(np.load(path, mmap_mode="r", allow_pickle=False)[:examples])
    except (OSError, ValueError) as error:
        raise FormatError(path, f"cannot be read ({error})", REMEDY) from error


def distinct_examples(manifest: Manifest) -> int:
    """Return how many training examples the views of a directory of shards can show."""
    return sum(shard.examples for shard in manifest.splits["train"] if shard.examples == SHARD_SIZE)
