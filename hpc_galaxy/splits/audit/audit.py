"""``hpc-galaxy audit``: look for leaks in a directory of shards, and print one table of what was found, MPI over shards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hpc_galaxy import __version__
from hpc_galaxy.config import Config
from hpc_galaxy.errors import StageError
from hpc_galaxy.files import shown, write_json
from hpc_galaxy.shards.manifest import SPLITS, load_manifest
from hpc_galaxy.splits.audit.classes import check_classes
from hpc_galaxy.splits.audit.examples import Examples, gather_examples
from hpc_galaxy.splits.audit.findings import Finding, as_json, count, table, worst
from hpc_galaxy.splits.audit.noise import check_noise_maps
from hpc_galaxy.splits.audit.provenance import check_provenance
from hpc_galaxy.splits.audit.tables import check_tables
from hpc_galaxy.tracing.spans import Stopwatch
from hpc_galaxy.world import World

NAME = "audit.json"
SERIAL = World()


def audit(directory: Path, world: World = SERIAL, seed: int = 1) -> None:
    """Look for leaks in a directory of shards; print a table, and write it to ``audit.json`` there. Collective.

    Every rank reads its share of the shards, one at a time; rank 0 keeps 56 bytes of each example, and some hundred of those in
    the sample (`hpc_galaxy.splits.audit.examples.SAMPLE`). What is found does not depend on the number of ranks.

    Parameters
    ----------
    directory : Path
        Holds the shards and their manifest.
    world : World
        Whose ranks share the work.
    seed : int
        Of the sample, of the classifier and of the bootstrap.

    Raises
    ------
    StageError
        A check failed; the table has been printed.
    InputError, FormatError
        There are no shards, or they are damaged.
    """
    failed = run_audit(directory, world, seed, directory)
    if failed:
        raise StageError(directory, f"the audit failed: {', '.join(failed)}", "see the lines above")


def audit_stage(config: Config, world: World = SERIAL, overwrite: bool = False) -> None:
    """Audit the shards of a configuration, as a stage of ``hpc-galaxy run``; always anew. Collective."""
    audit(config.paths.shards, world)


def run_audit(directory: Path, world: World, seed: int, out: Path) -> list[str]:
    """Do what `audit` does, write ``audit.json`` in `out`, and return on every rank which checks failed. Collective."""
    watch = Stopwatch()
    examples = gather_examples(directory, load_manifest(directory), world, seed, watch)
    failed = world.bcast(_report(examples, seed, watch, out) if examples is not None else [])
    world.say(watch.summary(world, "audit", "examples"))
    return failed


def find(examples: Examples, seed: int) -> list[Finding]:
    """Return the findings of all checks, in the order of the table."""
    return [*check_tables(examples), *check_provenance(examples), *check_classes(examples), *check_noise_maps(examples, seed)]


def _report(examples: Examples, seed: int, watch: Stopwatch, out: Path) -> list[str]:
    """Print and store what was found; return the names of the checks that failed."""
    with watch.span("judge"):
        findings = find(examples, seed)
    write_json(out / NAME, describe(examples, findings, seed))
    counts = {split: examples.manifest.examples(split) for split in SPLITS}
    sizes = ", ".join(f"{number} {split}" for split, number in counts.items())
    print(f"audit: {shown(examples.directory)}: {sizes}; pixels of {len(examples.sample)} measured (seed {seed})")
    print(table(findings))
    results = ", ".join(f"{number} {result}" for result, number in count(findings).items())
    print(f"audit: {results}; {shown(out / NAME)}", flush=True)
    return [finding.name for finding in findings if finding.result == "fail"]


def describe(examples: Examples, findings: list[Finding], seed: int) -> dict[str, Any]:
    """Return the content of ``audit.json``."""
    return {
        "format": "hpc_galaxy audit",
        "version": 1,
        "code_version": __version__,
        "fingerprint": examples.manifest.fingerprint,
        "seed": seed,
        "examples": {split: examples.manifest.examples(split) for split in SPLITS},
        "measured": len(examples.sample),
        "result": worst([finding.result for finding in findings]),
        "checks": as_json(findings),
    }
