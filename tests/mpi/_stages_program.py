"""Run the named stages one after another in one job: ``_stages_program.py CONFIG STAGE...``.

The stage ``shuffled`` is a split with shuffled labels and without matching, into ``shuffled`` beside the shards.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

from hpc_galaxy.config import Config, load_config
from hpc_galaxy.world import detect, guard

FUNCTIONS = {
    "survey": "bricks.survey:make_survey",
    "inject": "injection.inject:inject",
    "extract": "cutouts.extract:extract",
    "split": "splits.split:split",
    "shuffled": "splits.split:split",
}


def shuffled(config: Config) -> Config:
    paths = config.paths.model_copy(update={"shards": config.paths.shards.with_name("shuffled")})
    return config.model_copy(update={"paths": paths, "split": config.split.model_copy(update={"control": "shuffled", "match": "none"})})


def main() -> None:
    config = load_config(Path(sys.argv[1]))
    world = detect()
    with guard(world):
        print(f"rank {world.rank} of {world.size}", flush=True)
        for stage in sys.argv[2:]:
            module, function = FUNCTIONS[stage].split(":")
            asked = shuffled(config) if stage == "shuffled" else config
            getattr(import_module(f"hpc_galaxy.{module}"), function)(asked, world)


main()
