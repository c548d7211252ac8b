"""What a stage has promised and what it has done, in its own output directory.

``stage.json`` and ``config.toml`` are written before the first item: they say which configuration the outputs belong to.
``ledger.json`` is written after the last one: where it is, the stage is complete. While a job works there it holds ``.lock``.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpc_galaxy import __version__
from hpc_galaxy.config import Config
from hpc_galaxy.errors import InputError, OutputError, StaleOutputError
from hpc_galaxy.files import lock, read_object, remove_partials, write_json
from hpc_galaxy.schedule import Part
from hpc_galaxy.world import World

MARKER, LEDGER, LOCK = "stage.json", "ledger.json", ".lock"


def fingerprint(config: Config, section: str, *inputs: Path) -> str:
    """Return a short hash of what a stage's outputs depend on: the seed, a section of the configuration, and its inputs.

    Parameters
    ----------
    config, section : Config, str
        The stage's own section.
    inputs : Path
        Directories that it reads: known by the fingerprint of the stage that made them, or, as a data release, by their path.
    """
    sources = []
    for directory in inputs:
        marker = directory / MARKER
        sources.append(_read_marker(marker, "hpc-galaxy")["fingerprint"] if marker.exists() else str(directory))
    return hashlib.sha256(" ".join([config.fingerprint(section), *sources]).encode()).hexdigest()[:16]


@dataclass
class Ledger:
    """The book-keeping of one stage's output directory.

    Attributes
    ----------
    directory : Path
        Where the stage writes.
    stage : str
        Its verb.
    fingerprint : str
        Of what its outputs depend on.
    require_held : callable
        While the directory is claimed, on rank 0: raises `OutputError` where it is no longer the one that was claimed.
    """

    directory: Path
    stage: str
    fingerprint: str
    require_held: Callable[[], None] = field(default=lambda: None, repr=False, compare=False)

    @contextmanager
    def claim_part(self, config: Config, world: World, part: Part, outputs: Sequence[str]) -> Iterator[None]:
        """Work in the directory at the same time as other parts of the stage, while the block runs. Collective.

        No part closes the ledger: the whole stage, started after them, does what is missing and then closes it.

        Parameters
        ----------
        config, world, outputs : Config, World, sequence of str
            See `claim`.
        part : Part
            Which one; nobody else works on it.

        Raises
        ------
        StaleOutputError
            See `claim`.
        OutputError
            The whole stage, or another job with the same part, is writing there.
        """
        with ExitStack() as held:
            if world.is_root:
                held.enter_context(lock(self.directory / LOCK, shared=True))
                held.enter_context(lock(self.directory / f"{LOCK}-{part.number}-of-{part.of}"))
                self._require_ours(outputs)
                self._remove_receipt()
                if not (self.directory / MARKER).exists():
                    self._promise(config)
            world.barrier()
            yield

    @contextmanager
    def claim(self, config: Config, world: World, overwrite: bool, outputs: Sequence[str]) -> Iterator[None]:
        """Own the directory for this configuration while the block runs; outputs of an interrupted run with the same one stay. Collective.

        Parameters
        ----------
        config : Config
            Saved as ``config.toml``.
        world : World
            Rank 0 writes, all wait.
        overwrite : bool
            Remove what an earlier run of this stage left. Only a directory that this stage has claimed before is ever cleared.
        outputs : sequence of str
            Glob patterns of everything the stage makes in the directory.

        Raises
        ------
        StaleOutputError
            The directory holds outputs of another configuration or other inputs, or files that this stage did not make.
        OutputError
            Another job is writing there.
        """
        with lock(self.directory / LOCK) if world.is_root else nullcontext() as held:
            if held is not None:
                self.require_held = held
                self._prepare(config, overwrite, outputs)
            world.barrier()
            try:
                yield
            finally:
                self.require_held = lambda: None

    def _prepare(self, config: Config, overwrite: bool, outputs: Sequence[str]) -> None:
        self._require_ours(outputs, overwrite)
        remove_partials(self.directory)  # of a job that was killed while it wrote what follows
        # An earlier run's receipt must not vouch for what this one is about to make.
        self._remove_receipt()
        self._promise(config)

    def _promise(self, config: Config) -> None:
        made_by = {"stage": self.stage, "fingerprint": self.fingerprint, "seed": config.seed, "code_version": __version__}
        config.save(self.directory / "config.toml")
        write_json(self.directory / MARKER, made_by)

    def _require_ours(self, outputs: Sequence[str], overwrite: bool = False) -> None:
        """Refuse a directory that holds anything else than this stage's outputs, made as they would be now; or clear it."""
        marker = self.directory / MARKER
        if marker.exists():
            before = _read_marker(marker, f"hpc-galaxy {self.stage}")
            if before["stage"] != self.stage:
                raise StaleOutputError(
                    self.directory, f"holds outputs of '{before['stage']}', expected '{self.stage}'", "choose another [paths]"
                )
            if overwrite:
                self._clear(outputs)
            elif before["fingerprint"] != self.fingerprint and self._found(outputs):
                raise StaleOutputError(
                    self.directory,
                    f"was made with another configuration or from other inputs ({before['fingerprint']}, expected {self.fingerprint})",
                    f"run 'hpc-galaxy {self.stage} --overwrite' or choose another [paths]",
                )
        elif self._found(outputs):
            raise StaleOutputError(self.directory, f"holds files that 'hpc-galaxy {self.stage}' did not make", "choose another [paths]")

    def _remove_receipt(self) -> None:
        try:
            (self.directory / LEDGER).unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(self.directory / LEDGER, f"cannot be removed ({error.strerror})", "check its permissions") from error

    def _found(self, outputs: Sequence[str]) -> list[Path]:
        return [path for pattern in outputs for path in self.directory.glob(pattern)]

    def _clear(self, outputs: Sequence[str]) -> None:
        for path in self._found(outputs):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()

    def close(self, world: World, entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Write ``ledger.json``: one entry an item, from every rank, ordered by the entries' own content. Collective.

        Returns
        -------
        list of dict
            All entries on rank 0; an empty list elsewhere.

        Raises
        ------
        OutputError
            It cannot be written; or the directory is no longer the one that was claimed, and so lacks what was made before.
        """
        gathered = [entry for part in world.gather(list(entries)) for entry in part]
        gathered.sort(key=lambda entry: [str(value) for value in entry.values()])
        if world.is_root:
            self.require_held()
            write_json(self.directory / LEDGER, {"stage": self.stage, "fingerprint": self.fingerprint, "items": gathered})
        world.barrier()
        return gathered


def _read_marker(marker: Path, made_by: str) -> dict[str, Any]:
    """Return the content of a ``stage.json``. What lies beside a damaged one may be anybody's: no --overwrite clears it."""
    try:
        return read_object(marker, made_by, stage=str, fingerprint=str)
    except InputError as error:
        raise InputError(error.where, error.problem, "remove its directory and make it again, or choose another [paths]") from None


def read_ledger(directory: Path, stage: str) -> list[dict[str, Any]]:
    """Return the entries of a stage that is complete.

    Raises
    ------
    InputError
        The stage has not run to its end, or its ledger is not as it writes it.
    """
    if (directory / MARKER).exists() and not (directory / LEDGER).exists():
        raise InputError(directory, f"'hpc-galaxy {stage}' did not finish here", f"run 'hpc-galaxy {stage}' again: it continues")
    entries = read_object(directory / LEDGER, f"hpc-galaxy {stage}", items=list)["items"]
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict):
            problem = f"item {number} is {str(entry)[:40]!r}, expected an object"
            raise InputError(directory / LEDGER, problem, f"run 'hpc-galaxy {stage} --overwrite'")
    return entries


def require_complete(directory: Path, stage: str) -> None:
    """Refuse to read outputs of `stage` that are not complete; a directory that no stage made (a data release) is fine.

    Raises
    ------
    InputError
        The stage began here and has not finished.
    """
    if (directory / MARKER).exists():
        read_ledger(directory, stage)
