"""Fakes that are drawn one pixel off are found out; faithful ones, of the same survey, are not.

The first is the defect that made the answer of 2018 worthless. It is also the proof that the network can learn what it should, so
that an AUC of one half means something.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hpc_galaxy.bricks.survey import make_survey
from hpc_galaxy.config import load_config
from hpc_galaxy.cutouts.extract import extract
from hpc_galaxy.injection.inject import inject
from hpc_galaxy.realism.report import report
from hpc_galaxy.splits.split import split
from hpc_galaxy.training.train import train
from hpc_galaxy.world import World

# Deep and bright, so that a small network learns from few stamps.
SETTINGS = [
    "seed=6",
    "survey.bricks=24",
    "survey.npix=448",
    "survey.galaxies_per_arcmin2=20.0",
    "survey.depth={g=26.5, r=26.0, z=25.0}",
    "injection.per_brick=90",
    "extract.selection='elg'",
    "split.train=0.6",
    "split.valid=0.15",
    "split.test=0.25",
    "train.epochs=6",
]


def run(root: Path, survey: Path, offset: float) -> float:
    names = ("obiwan", "cutouts", "shards", "run", "report")
    paths = [f"paths.survey='{survey}'", *[f"paths.{name}='{root / name}'" for name in names]]
    config = load_config(None, [*SETTINGS, *paths, f"injection.offset_pixels={offset}"])
    for stage in (make_survey, inject, extract, split, train, report):
        stage(config, World(), False)
    return float(json.loads((root / "report" / "report.json").read_text())["auc"])


@pytest.mark.slow
def test_a_shift_of_one_pixel_is_found_and_faithful_fakes_are_not(tmp_path: Path) -> None:
    faithful = run(tmp_path / "faithful", tmp_path / "survey", 0)
    shifted = run(tmp_path / "shifted", tmp_path / "survey", 1)
    print(f"test AUC: faithful {faithful:.3f}, one pixel off {shifted:.3f}")
    assert abs(faithful - 0.5) < 0.12
    assert shifted > 0.75
