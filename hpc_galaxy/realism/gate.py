"""What stands between scores and a verdict: the audit of the shards."""

from __future__ import annotations

from pathlib import Path

from hpc_galaxy.errors import InputError
from hpc_galaxy.files import read_object
from hpc_galaxy.shards.numpy_shards import SplitReader
from hpc_galaxy.splits.audit.audit import NAME, run_audit
from hpc_galaxy.world import World

MADE_BY = "hpc-galaxy audit"


def require_audit(reader: SplitReader, world: World, seed: int, out: Path) -> Path:
    """Return the audit of shards, after making it where it was not made. Collective.

    Parameters
    ----------
    reader : SplitReader
        Of any of their splits.
    world : World
        Whose ranks share the work.
    seed : int
        Of the audit.
    out : Path
        Where it is made: the shards may be somebody else's.

    Raises
    ------
    InputError
        ``audit.json`` is damaged.
    """
    found = world.bcast(_find_audit(reader, out) if world.is_root else None)
    if found is None:
        world.say("realism: these shards were not audited yet")
        run_audit(reader.directory, world, seed, out)
    return found or out / NAME


def _find_audit(reader: SplitReader, out: Path) -> Path | None:
    """Return where there is an audit of just these shards."""
    for path in (reader.directory / NAME, out / NAME):
        if path.exists() and read_object(path, MADE_BY, fingerprint=str)["fingerprint"] == reader.manifest.fingerprint:
            return path
    return None


def read_checks(audit: Path) -> list[dict[str, str]]:
    """Return the checks of an audit: for each its ``name``, its ``result`` (``pass``, ``warn`` or ``fail``) and what was ``found``.

    Raises
    ------
    InputError
        The audit is missing or damaged.
    """
    checks = read_object(audit, MADE_BY, checks=list)["checks"]
    if not all(isinstance(check, dict) for check in checks):
        raise InputError(audit, "'checks' holds something that is no object", f"run '{MADE_BY}' again")
    return [{key: str(check.get(key, "")) for key in ("name", "result", "found")} for check in checks]


def find_leaks(audit: Path) -> list[str]:
    """Return why no verdict may be given on shards with such an audit; nothing if they have passed.

    Raises
    ------
    InputError
        The audit is missing or damaged.
    """
    failed = [check["name"] for check in read_checks(audit) if check["result"] == "fail"]
    return [f"the audit failed: {', '.join(failed)}"] if failed else []
