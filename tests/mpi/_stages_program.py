"""Run the named stages one after another in one job: ``_stages_program.py CONFIG STAGE... [--set key=value]...``."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

from hpc_galaxy.config import load_config
from hpc_galaxy.world import detect, guard

FUNCTIONS = {
    "survey": "bricks.survey:make_survey",
    "inject": "injection.inject:inject",
    "extract": "cutouts.extract:extract",
    "split": "splits.split:split",
}


def main() -> None:
    config = load_config(Path(sys.argv[1]))
    world = detect()
    with guard(world):
        print(f"rank {world.rank} of {world.size}", flush=True)
        for stage in sys.argv[2:]:
            module, function = FUNCTIONS[stage].split(":")
            getattr(import_module(f"hpc_galaxy.{module}"), function)(config, world)


main()
