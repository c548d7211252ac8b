"""``study.json``: which stage is to run on how many nodes, and how often."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

from hpc_galaxy import __version__
from hpc_galaxy.bench.nodes import parse_nodes
from hpc_galaxy.config import Config
from hpc_galaxy.errors import ConfigError, FormatError, StaleOutputError
from hpc_galaxy.files import read_json, write_json

NAME, VERSION = "study.json", 1
MADE_BY = "hpc-galaxy bench scaling"
STAGES, MODES = ("train", "extract"), ("strong", "weak")
UNITS = {"train": "images", "extract": "cutouts"}


@dataclass(frozen=True)
class Asked:
    """What a study is to find out.

    Attributes
    ----------
    stages, modes : tuple of str
        Of `STAGES` and `MODES`. Strong: the same work for any number of ranks. Weak: the same work for each rank.
    nodes : tuple of int
        Numbers of nodes, ascending.
    ranks_per_node, repeats : int
        On each node; and how often each point is measured.
    steps : int
        Of a training that are timed.
    bricks : int
        A rank cuts in a weak point; in a strong one all ranks together cut as many as the largest weak point's.
    """

    stages: tuple[str, ...]
    modes: tuple[str, ...]
    nodes: tuple[int, ...]
    ranks_per_node: int
    repeats: int
    steps: int
    bricks: int

    @property
    def most_ranks(self) -> int:
        """Of the largest points."""
        return self.nodes[-1] * self.ranks_per_node


@dataclass(frozen=True)
class Point:
    """One measurement.

    Attributes
    ----------
    number : int
        In the plan, and in Slurm's job arrays.
    stage, mode, nodes, ranks_per_node, repeat
        What, where, and which time.
    work : int
        The global batch of a training; the bricks of an extraction.
    """

    number: int
    stage: str
    mode: str
    nodes: int
    ranks_per_node: int
    repeat: int
    work: int

    @property
    def ranks(self) -> int:
        """On all nodes."""
        return self.nodes * self.ranks_per_node

    @property
    def name(self) -> str:
        """Its directory's, such as ``train-weak-4x1-repeat2``."""
        return f"{self.stage}-{self.mode}-{self.nodes}x{self.ranks_per_node}-repeat{self.repeat}"

    @property
    def sentence(self) -> str:
        """What it is, for people."""
        return f"{self.mode} {self.stage} on {count(self.nodes, 'node')} x {count(self.ranks_per_node, 'rank')}, repeat {self.repeat}"


@dataclass(frozen=True)
class Study:
    """A plan, and where it is kept.

    Attributes
    ----------
    directory : Path
        Of everything.
    asked : Asked
        What is to be found out.
    config : Config
        Of the stages, as the user has it.
    synthetic : tuple of str
        The stages for which the configuration names no data that are there, so that synthetic ones are used.
    points : list of Point
        All of them, by number; repeats are outermost, so that a busy spell of the machine meets all sizes.
    """

    directory: Path
    asked: Asked
    config: Config
    synthetic: tuple[str, ...]
    points: list[Point]

    def folder(self, point: Point) -> Path:
        """Return the directory of a point."""
        return self.directory / "points" / point.name

    def result(self, point: Point) -> Path:
        """Return the file that is there when the point has been measured."""
        return self.folder(point) / "result.json"

    @property
    def missing(self) -> list[Point]:
        """The points that have no result."""
        return [point for point in self.points if not self.result(point).exists()]

    @property
    def jobs(self) -> Path:
        """Where scripts and what the points say are kept."""
        return self.directory / "jobs"


def count(number: int, what: str) -> str:
    """Return ``1 node`` or ``2 nodes``."""
    return f"{number} {what}{'s' * (number != 1)}"


def parse_asked(stages: str, modes: str, nodes: str, **numbers: int) -> Asked:
    """Return what the options of the command ask for: words and numbers that commas separate.

    Raises
    ------
    ConfigError
        One of them is unknown, or no positive number.
    """
    sizes = parse_nodes(nodes)
    for name, number in numbers.items():
        if number < 1:
            raise ConfigError(f"--{name.replace('_', '-')}", f"got {number}, expected 1 or more", "mend this value")
    return Asked(_words("--stages", stages, STAGES), _words("--modes", modes, MODES), sizes, **numbers)


def _words(option: str, text: str, known: tuple[str, ...]) -> tuple[str, ...]:
    words = {word.strip() for word in text.split(",")}
    if not words <= set(known):
        raise ConfigError(option, f"got '{text}', expected some of {', '.join(known)}", f"such as {option} {','.join(known)}")
    return tuple(word for word in known if word in words)


def make_points(asked: Asked, config: Config) -> Iterator[Point]:
    """Yield the points of a plan."""
    train = config.train
    shares = {"train": train.batch_size * train.accumulate, "extract": asked.bricks}
    order = product(range(1, asked.repeats + 1), asked.stages, asked.modes, asked.nodes)
    for number, (repeat, stage, mode, nodes) in enumerate(order):
        ranks = asked.most_ranks if mode == "strong" else nodes * asked.ranks_per_node
        yield Point(number, stage, mode, nodes, asked.ranks_per_node, repeat, shares[stage] * ranks)


def make_study(directory: Path, asked: Asked, config: Config, synthetic: tuple[str, ...]) -> Study:
    """Write a plan, whole, and return it."""
    study = Study(directory, asked, config, synthetic, list(make_points(asked, config)))
    content = {"version": VERSION, "code_version": __version__, "asked": asdict(asked), "config": config.model_dump(mode="json")}
    points = [asdict(point) | {"name": point.name} for point in study.points]
    write_json(directory / NAME, content | {"synthetic": list(synthetic), "points": points})
    return study


def load_study(directory: Path) -> Study:
    """Read a plan.

    Raises
    ------
    InputError
        There is none.
    FormatError
        It is none of this version.
    """
    path = directory / NAME
    content = read_json(path, MADE_BY)
    try:
        if content["version"] != VERSION:
            raise ValueError(f"version {content['version']}, expected {VERSION}")
        fields: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in content["asked"].items()}
        asked = Asked(**fields)
        config = Config.model_validate(content["config"])
        points = [Point(**{name: value for name, value in entry.items() if name != "name"}) for entry in content["points"]]
        return Study(directory, asked, config, tuple(content["synthetic"]), points)
    except (KeyError, TypeError, ValueError) as error:
        problem = f"is no plan of a study ({type(error).__name__}: {error})"
        raise FormatError(path, problem, f"run '{MADE_BY}' with another directory") from error


def require_same(study: Study, asked: Asked, config: Config) -> None:
    """Refuse to go on with a plan that is not the one asked for: results of two would be mixed.

    Raises
    ------
    StaleOutputError
        It is another; the first difference is named.
    """
    before = flat(asdict(study.asked)) | flat(study.config.model_dump(mode="json"))
    after = flat(asdict(asked)) | flat(config.model_dump(mode="json"))
    for name in [*after, *before]:
        if before.get(name) != after.get(name):
            problem = f"was planned with {name} = {before.get(name)}, now it is {after.get(name)}"
            raise StaleOutputError(study.directory / NAME, problem, "give the same options and configuration, or another directory")


def flat(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested tables as one, with keys such as ``train.batch_size``."""
    table: dict[str, Any] = {}
    for name, value in content.items():
        table |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: _plain(value)}
    return table


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
