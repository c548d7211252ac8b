"""One brick: choose sources in every copy of it, cut their stamps, write one file a class with where everything came from.

At most one brick's planes and `BLOCK` stamps are in memory at a time, whatever the brick holds.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hpc_galaxy import __version__
from hpc_galaxy.bricks.images import Plane, plane_shape, read_plane
from hpc_galaxy.bricks.views import View, injected_views, survey_views
from hpc_galaxy.config import Config
from hpc_galaxy.cutouts.choose import Chosen, choose, stamp_format
from hpc_galaxy.cutouts.sky import choose_sky, sky_files
from hpc_galaxy.cutouts.stamps import cut_stamps
from hpc_galaxy.errors import FormatError, InputError
from hpc_galaxy.files import remove_partial, sha256
from hpc_galaxy.shards.cutout_file import CutoutWriter
from hpc_galaxy.shards.layout_2018 import Writer2018
from hpc_galaxy.shards.layouts import create_stamps, open_stamps, stamps_path
from hpc_galaxy.shards.schema import LABELS, StampFormat
from hpc_galaxy.tracing.spans import Stopwatch

BLOCK = 32  # stamps, 3 MB: they stay in the processor's cache until they are written


@dataclass(frozen=True)
class Work:
    """An item of the work list.

    Attributes
    ----------
    brick : str
        Its name.
    positions : ndarray, optional
        The user's own positions in it, `hpc_galaxy.bricks.positions.POSITION_DTYPE`.
    """

    brick: str
    positions: np.ndarray | None = None


def input_trees(config: Config) -> dict[str, Path]:
    """Return the directories that stamps are cut from, by the stage that makes them: ``survey``, ``inject`` (obiwan's), or both."""
    classes, from_survey = config.extract.classes, config.extract.real_from == "survey"
    if config.extract.control == "sky":  # the injection says where, the pixels are the survey's
        return {"inject": config.paths.obiwan, "survey": config.paths.survey}
    trees = {}
    if "fake" in classes or ("real" in classes and not from_survey):
        trees["inject"] = config.paths.obiwan
    if "user" in classes or ("real" in classes and from_survey):
        trees["survey"] = config.paths.survey
    return trees


def views_by_class(config: Config, brick: str) -> dict[str, list[View]]:
    """Return, for each class, the copies of a brick that it is cut from."""
    trees = input_trees(config)
    own = survey_views(trees["survey"], brick) if "survey" in trees else []
    injected = injected_views(trees["inject"], brick) if "inject" in trees else []
    # Realisations show the same real galaxies: those of the first are enough.
    real = own if config.extract.real_from == "survey" else injected[:1]
    # A position at the seam of north and south is cut once.
    views = {"real": real, "fake": injected, "user": own[:1]}
    if config.extract.control == "sky":
        views |= {"real": own[:1], "fake": own[:1]}
    return {label: views[label] for label in config.extract.classes}


@dataclass
class Started:
    """A brick whose stamps are cut.

    Attributes
    ----------
    entry : dict
        Its line in the ledger.
    files : ExitStack
        Its files, still open.
    newest : dict of Path to int
        For each file, when the newest of its inputs was modified, ns.
    """

    entry: dict[str, Any]
    files: ExitStack
    newest: dict[Path, int]

    def finish(self) -> dict[str, Any]:
        """Close the files, flush them to disk, give them their final names; return the entry."""
        self.files.close()
        for path, modified in self.newest.items():
            _date(path, modified)
        return self.entry


@dataclass
class Extractor:
    """Cuts bricks, one after the other; keeps the planes' memory from one to the next.

    Attributes
    ----------
    config : Config
        What to cut, and the directories.
    fingerprint : str
        Of the stage, stored with each file.
    watch : Stopwatch
        Where the time goes.
    memory : dict of str to ndarray
        The planes of the brick before, by channel, to be overwritten.
    """

    config: Config
    fingerprint: str
    watch: Stopwatch
    memory: dict[str, np.ndarray] = field(default_factory=dict)

    def start(self, work: Work) -> Started:
        """Cut one brick, unless its files are there and up to date; they are whole when the result has been finished."""
        views = views_by_class(self.config, work.brick)
        inputs = {label: self._inputs(label, found) for label, found in views.items()}
        paths = {label: stamps_path(self.config.extract.layout, self.config.paths.cutouts, label, work.brick) for label in views}
        flows = {label: _current_flow(paths[label], inputs[label]) for label in views}
        missing = {label: found for label, found in views.items() if flows[label] is None}
        for label in missing:
            remove_partial(paths[label])
        # Before they are read: one that is changed meanwhile has to be newer than what was cut from it.
        newest = {paths[label]: max((path.stat().st_mtime_ns for path in inputs[label].values()), default=0) for label in missing}
        with ExitStack() as files:
            outputs = {label: self._output(files, paths[label]) for label in missing}
            for view, labels in _labels_by_view(missing):
                self._cut_view(work, view, {label: outputs[label] for label in labels})
            for label, output in outputs.items():
                output.describe(self.config, work.brick, label, self.fingerprint, inputs[label])
            flows |= {label: output.flow for label, output in outputs.items()}
            return Started(_entry(work.brick, flows), files.pop_all(), newest)

    def _output(self, files: ExitStack, path: Path) -> Output:
        settings = self.config.extract
        writer = create_stamps(settings.layout, path, stamp_format(settings), settings.compression, settings.mantissa_bits)
        return Output(files.enter_context(writer))

    def _inputs(self, label: str, views: Sequence[View]) -> dict[str, Path]:
        """Return all files that a class is made from, by their names relative to the tree."""
        settings = self.config.extract
        if settings.control == "sky" and label in LABELS:
            return sky_files(self.config, views[0])
        files = [path for view in views for path in view.files(settings.planes, settings.bands)]
        return {str(path.relative_to(views[0].root)): path for path in files}

    def _cut_view(self, work: Work, view: View, outputs: dict[str, Output]) -> None:
        """Cut the wanted classes out of one copy of the brick."""
        settings, stamps = self.config.extract, stamp_format(self.config.extract)
        with self.watch.span("select", detail=work.brick):
            shape = plane_shape(view.coadd(settings.planes[0], settings.bands[0]))
            chosen = self._choose(work, view, shape, list(outputs))
        planes = self._read(view, stamps, shape, np.concatenate([part.outlines for part in chosen.values()]))
        for label, part in chosen.items():
            outputs[label].note(part, planes.values())
            for rows in _blocks(len(part.table)):
                with self.watch.span("cut", detail=work.brick):
                    images = self._stamps(planes, part.outlines[rows])
                with self.watch.span("write", detail=work.brick):
                    outputs[label].writer.append(images, part.table[rows])

    def _choose(self, work: Work, view: View, shape: tuple[int, int], classes: Sequence[str]) -> dict[str, Chosen]:
        if self.config.extract.control != "sky":
            return choose(self.config.extract, view, shape, classes, work.positions)
        user = choose(self.config.extract, view, shape, [label for label in classes if label not in LABELS], work.positions)
        return choose_sky(self.config, view, shape, [label for label in classes if label in LABELS]) | user

    def _read(self, view: View, stamps: StampFormat, shape: tuple[int, int], outlines: np.ndarray) -> dict[str, Plane]:
        planes = {}
        for name in stamps.channels:
            path = view.coadd(*name.split("_"))
            room = self.memory.pop(name, None)
            plane = read_plane(path, outlines, buffer=room, checksum=self.config.extract.checksums, watch=self.watch)
            self.memory[name] = plane.pixels
            if plane.pixels.shape != shape:
                raise InputError(path, f"has shape {plane.pixels.shape}, expected {shape}, that of its neighbours", "copy it again")
            planes[name] = plane
        return planes

    def _stamps(self, planes: dict[str, Plane], outlines: np.ndarray) -> np.ndarray:
        # Lossy compression can make an inverse variance negative (legacypipe issue 530).
        clamped = [name.startswith("invvar") for name in planes]
        bad = np.zeros(len(planes), np.int64)
        images = cut_stamps([plane.pixels for plane in planes.values()], outlines, clamped, bad)
        _require_numbers(planes.values(), bad)
        return images


@dataclass
class Output:
    """One class's file while it is written, and what has to be said in it."""

    writer: CutoutWriter | Writer2018
    flow: dict[str, int] = field(default_factory=dict)
    releases: set[int] = field(default_factory=set)
    datasums: dict[Path, int | None] = field(default_factory=dict)

    def note(self, part: Chosen, planes: Iterable[Plane]) -> None:
        """Remember what was cut, and the checksums of the planes it was cut from."""
        for name, count in part.flow.items():
            self.flow[name] = self.flow.get(name, 0) + count
        self.releases |= part.releases
        self.datasums |= {plane.path: plane.datasum for plane in planes}

    def describe(self, config: Config, brick: str, label: str, fingerprint: str, inputs: dict[str, Path]) -> None:
        """Store where everything came from."""
        self.writer.attributes.update(
            brick=brick,
            label=label,
            fingerprint=fingerprint,
            code_version=__version__,
            release=sorted(self.releases),
            selection=config.extract.selection,
            where=config.extract.where,
            control=config.extract.control,
            defects=config.extract.defects,
            cut_flow=self.flow,
            inputs=[self._input(name, path) for name, path in inputs.items()],
        )

    def _input(self, name: str, path: Path) -> dict[str, Any]:
        if path in self.datasums:
            return {"path": name, "bytes": path.stat().st_size, "datasum": self.datasums[path]}
        return {"path": name, "bytes": path.stat().st_size, "sha256": sha256(path)}


def _labels_by_view(views: dict[str, list[View]]) -> list[tuple[View, list[str]]]:
    every = dict.fromkeys(view for found in views.values() for view in found)
    return [(view, [label for label, found in views.items() if view in found]) for view in every]


def _blocks(count: int) -> Iterator[slice]:
    return (slice(start, start + BLOCK) for start in range(0, count, BLOCK))


def _require_numbers(planes: Iterable[Plane], bad: np.ndarray) -> None:
    for plane, count in zip(planes, bad.tolist(), strict=True):
        if count:
            raise InputError(plane.path, f"has {count} pixels in the stamps that are no numbers, expected 0", "copy it again")


def _entry(brick: str, flows: Mapping[str, dict[str, int] | None]) -> dict[str, Any]:
    """Return a brick's line in the ledger: how many stamps of each class, and how many sources each cut removed."""
    entry: dict[str, Any] = {"brick": brick}
    for label, flow in flows.items():
        assert flow is not None
        entry |= {label: 2 * flow["catalog"] - sum(flow.values()), f"{label}_cut_flow": flow}
    return entry


def _date(path: Path, newest: int) -> None:
    """Make a new file no older than its inputs: where their dates lie in the future (another clock), it would be made again each time."""
    status = path.stat()
    if status.st_mtime_ns < newest:
        os.utime(path, ns=(status.st_atime_ns, newest))


def _current_flow(path: Path, inputs: dict[str, Path]) -> dict[str, int] | None:
    """Return the cut flow of a file that is whole, and newer than its inputs, which have kept their sizes; otherwise None."""
    if not path.exists():
        return None
    made = path.stat().st_mtime
    if any(source.stat().st_mtime > made for source in inputs.values()):
        return None
    try:
        with open_stamps(path) as cutouts:
            recorded = {entry["path"]: entry["bytes"] for entry in json.loads(cutouts.attributes["inputs"])}
            flow: dict[str, int] = json.loads(cutouts.attributes["cut_flow"])
    except (FormatError, KeyError, ValueError, TypeError):
        return None
    return flow if recorded == {name: source.stat().st_size for name, source in inputs.items()} else None
