"""What stands between scores and a verdict: the audit of the shards."""

from __future__ import annotations

from hpc_galaxy.files import read_object
from hpc_galaxy.shards.numpy_shards import SplitReader
from hpc_galaxy.splits.audit.audit import NAME, run_audit
from hpc_galaxy.world import World


def require_audit(reader: SplitReader, world: World, seed: int) -> None:
    """Audit the shards, unless that was done. Collective.

    Parameters
    ----------
    reader : SplitReader
        Of any of their splits.
    world : World
        Whose ranks share the work.
    seed : int
        Of the audit.

    Raises
    ------
    InputError
        ``audit.json`` is damaged.
    """
    if not world.bcast(_is_audited(reader) if world.is_root else False):
        world.say("realism: these shards were not audited yet")
        run_audit(reader.directory, world, seed)


def _is_audited(reader: SplitReader) -> bool:
    path = reader.directory / NAME
    return path.exists() and read_object(path, "hpc-galaxy audit", fingerprint=str)["fingerprint"] == reader.manifest.fingerprint


def find_leaks(reader: SplitReader) -> list[str]:
    """Return why no verdict may be given on audited shards; nothing if they have passed.

    Raises
    ------
    InputError
        ``audit.json`` is missing or damaged.
    """
    content = read_object(reader.directory / NAME, "hpc-galaxy audit", checks=list)
    failed = [str(check.get("name")) for check in content["checks"] if check.get("result") == "fail"]
    return [f"the audit failed: {', '.join(failed)}"] if failed else []
