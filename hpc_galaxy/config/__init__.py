"""The one configuration: a typed TOML file, with ``--set section.key=value`` on top.

Unknown keys are errors that name the nearest valid one. The resolved configuration is saved with each run.
"""

from hpc_galaxy.config.base import PerBand, Section
from hpc_galaxy.config.injection import Defects, Injection
from hpc_galaxy.config.loading import Config, load_config
from hpc_galaxy.config.stages import Extract, Paths, Realism, Split, Survey
from hpc_galaxy.config.tracing import Trace
from hpc_galaxy.config.training import Train

__all__ = [
    "Config",
    "Defects",
    "Extract",
    "Injection",
    "Paths",
    "PerBand",
    "Realism",
    "Section",
    "Split",
    "Survey",
    "Trace",
    "Train",
    "load_config",
]
