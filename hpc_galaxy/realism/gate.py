"""What stands between scores and a verdict: the audit of the shards."""

from __future__ import annotations

from pathlib import Path

from hpc_galaxy.files import read_object
from hpc_galaxy.shards.numpy_shards import SplitReader
from hpc_galaxy.splits.audit.audit import NAME, run_audit
from hpc_galaxy.world import World


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
        if path.exists() and read_object(path, "hpc-galaxy audit", fingerprint=str)["fingerprint"] == reader.manifest.fingerprint:
            return path
    return None


def find_leaks(audit: Path) -> list[str]:
    """Return why no verdict may be given on shards with such an audit; nothing if they have passed.

    Raises
    ------
    InputError
        The audit is missing or damaged.
    """
    content = read_object(audit, "hpc-galaxy audit", checks=list)
    failed = [str(check.get("name")) for check in content["checks"] if check.get("result") == "fail"]
    return [f"the audit failed: {', '.join(failed)}"] if failed else []
