"""A site: what a job script has to say on one particular machine, line by line, with the reason for each."""

from __future__ import annotations

import tomllib
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from hpc_galaxy.config.base import Count, Section
from hpc_galaxy.errors import ConfigError

STAGES = ("survey", "inject", "extract", "split", "train", "realism")
LIKE = {"survey": "extract", "inject": "extract"}
"""Stages that need as many ranks a node as another."""
Stage = Literal["survey", "inject", "extract", "split", "train", "realism"]


class Line(Section):
    """One line of a script.

    Attributes
    ----------
    line : str
        A directive without ``#SBATCH``, or a shell command.
    why, source : str
        What it is for, and the page of the site's documentation that says so; empty where it is assumed.
    stages : tuple of str
        Which stages it is for; empty: all.
    """

    line: Annotated[str, Field(pattern=r"^[^\n]+$")]
    why: str
    source: str
    stages: tuple[Stage, ...] = ()


class Variable(Section):
    """One exported variable, see `Line`."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
    value: Annotated[str, Field(pattern=r"^[^\n]*$")]
    why: str
    source: str
    stages: tuple[Stage, ...] = ()


class Ranks(Section):
    """MPI ranks a node, by stage; each gets an equal share of the cores."""

    extract: Count
    split: Count
    train: Count
    realism: Count


class Site(Section):
    """A machine.

    Attributes
    ----------
    name, about, source : str
        What it is, and where that is written.
    scheduler : str
        ``slurm`` or ``pbs``.
    cores_per_node, gpus_per_node : int
        Cores are those that jobs may use.
    account : bool
        Whether a job needs one.
    ended : str
        When it was switched off; empty: it is there.
    launcher : Line
        What starts the ranks; ``{ranks}`` and ``{ranks_per_node}`` are filled in.
    ranks : Ranks
        A node.
    warning_seconds : int
        How long before its limit a job is warned, at most: what the ranks need to reach the end of a step and to save.
    program : str
        What every rank runs, such as ``apptainer run hpc-galaxy.sif``; empty: hpc-galaxy of the environment that submits.
    directive, setup, environment : tuple
        What scripts say before the ranks are started.
    """

    name: str
    about: str
    source: str
    scheduler: Literal["slurm", "pbs"]
    cores_per_node: Count
    gpus_per_node: Annotated[int, Field(ge=0)]
    account: bool
    ended: str
    launcher: Line
    ranks: Ranks
    warning_seconds: Count = 120
    program: str = ""
    directive: tuple[Line, ...] = ()
    setup: tuple[Line, ...] = ()
    environment: tuple[Variable, ...] = ()

    def ranks_per_node(self, stage: str) -> int:
        """Return how many ranks a node has."""
        return int(getattr(self.ranks, LIKE.get(stage, stage)))


def list_sites() -> list[str]:
    """Return the names of the profiles that come with the package."""
    return sorted(path.name.removesuffix(".toml") for path in _folder().iterdir() if path.name.endswith(".toml"))


def load_site(name: str) -> Site:
    """Read a profile.

    Parameters
    ----------
    name : str
        One of `list_sites`, or the path of a TOML file.

    Raises
    ------
    ConfigError
        There is none of that name, or it is not as it has to be.
    """
    if name.endswith(".toml"):
        path: Any = Path(name)
    elif name in list_sites():
        path = _folder() / f"{name}.toml"
    else:
        raise ConfigError("--site", f"unknown site '{name}', expected one of {', '.join(list_sites())}", "or give the path of a TOML file")
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        return Site.model_validate({"name": path.name.removesuffix(".toml"), **content})
    except OSError as error:
        raise ConfigError(path, f"cannot be read ({error.strerror})", "give --site a name or the path of a TOML file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(path, f"not TOML: {error}", "mend that line") from None
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise ConfigError(path, f"'{key}': {first['msg']}", "see hpc_galaxy/slurm/sites/README.md") from None


def _folder() -> Any:
    return resources.files("hpc_galaxy.slurm").joinpath("sites")
