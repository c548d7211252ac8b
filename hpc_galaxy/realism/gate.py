"""What stands between scores and a verdict: the audit of the shards."""

from __future__ import annotations

from hpc_galaxy.files import read_object
from hpc_galaxy.shards.numpy_shards import SplitReader
from hpc_galaxy.splits.audit.audit import NAME


def find_leaks(reader: SplitReader) -> list[str]:
    """Return why no verdict may be given on a directory of shards; nothing if it has passed the audit.

    Parameters
    ----------
    reader : SplitReader
        Of any of its splits.

    Raises
    ------
    InputError
        ``audit.json`` is damaged.
    """
    path = reader.directory / NAME
    if not path.exists():
        return [f"the shards were not audited, run 'hpc-galaxy audit {reader.directory}'"]
    content = read_object(path, "hpc-galaxy audit", fingerprint=str, checks=list)
    if content["fingerprint"] != reader.manifest.fingerprint:
        return [f"the audit is of other shards, run 'hpc-galaxy audit {reader.directory}'"]
    failed = [str(check.get("name")) for check in content["checks"] if check.get("result") == "fail"]
    return [f"the audit failed: {', '.join(failed)}"] if failed else []
