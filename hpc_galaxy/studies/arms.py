"""An arm of a study: the pipeline once more, with something changed on purpose, into a directory of its own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hpc_galaxy.slurm.submit import OUTPUT

# An arm is asked for its numbers: pictures and explanations are the main report's.
PLAIN = ("realism.explain=false", "realism.percentiles=[]", "train.networks=1")
CHANCE, FOUND = "0.5", "found"  # what is expected of an arm


@dataclass(frozen=True)
class Arm:
    """One change and what is expected of it.

    Attributes
    ----------
    name : str
        Of its directory.
    kind : str
        ``negative``, ``positive``, ``bands``, ``ladder`` or ``2018``.
    purpose : str
        For people.
    begins : str
        The first stage that is done again; what earlier ones have made is shared with the survey's own test.
    settings : tuple of str
        ``section.key=value``, on top of the configuration.
    expected : str
        `CHANCE`: nothing is there to be found; `FOUND`; or empty: it is a question.
    defect, strength, unit : str, float, str
        Of positive controls.
    """

    name: str
    kind: str
    purpose: str
    begins: str
    settings: tuple[str, ...]
    expected: str = ""
    defect: str = ""
    strength: float = 0.0
    unit: str = ""

    @property
    def stages(self) -> list[str]:
        """What is done, in order."""
        known = list(OUTPUT)
        return known[known.index(self.begins) :]

    def overrides(self, folder: Path, asked: Sequence[str] = ()) -> list[str]:
        """Return everything that its stages get by ``--set``.

        Parameters
        ----------
        folder : Path
            Of the study; the arm writes into a directory of its name there.
        asked : sequence of str
            What the user has set; the arm's own settings come after it.
        """
        paths = [f"paths.{OUTPUT[stage]}={json.dumps(str(folder / self.name / OUTPUT[stage]))}" for stage in self.stages]
        return [*asked, *PLAIN, *self.settings, *paths]

    def report(self, folder: Path) -> Path:
        """Return where its numbers are."""
        return folder / self.name / OUTPUT["realism"] / "report.json"
