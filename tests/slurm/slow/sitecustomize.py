"""A slow or broken node, for tests: Python loads this in jobs whose PYTHONPATH names its folder.

$HPC_GALAXY_SLOW is a directory. ``pace`` in it says how many seconds each step of a training takes more, as long as it is there; after as
many steps as ``stuck`` says, one comes to no end; ``broken`` names the rank on which the next step fails. What ranks have begun is a byte a
step in ``begun-RANK``.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from hpc_galaxy.world import World

STUCK_SECONDS = 600.0
FOLDER = Path(os.environ["HPC_GALAXY_SLOW"])
plain = World.sum_in_place  # sums the gradients of a step


def _read(name: str) -> str:
    try:
        return (FOLDER / name).read_text()
    except FileNotFoundError:
        return ""


def slow(self: World, values: Any) -> None:
    """Sum, later."""
    with open(FOLDER / f"begun-{self.rank}", "a") as file:
        file.write(".")
        begun = file.tell()
    if _read("broken") == str(self.rank):
        raise RuntimeError("this node is broken")
    stuck = _read("stuck")
    time.sleep(STUCK_SECONDS if stuck and begun > int(stuck) else float(_read("pace") or 0))
    plain(self, values)


World.sum_in_place = slow
