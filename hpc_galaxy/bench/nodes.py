"""Numbers of nodes, as they are typed."""

from __future__ import annotations

from hpc_galaxy.errors import ConfigError


def parse_nodes(text: str) -> tuple[int, ...]:
    """Return what ``1,2,4``, ``1..1024`` (powers of two from the first, and the last itself) or a mixture of them means, ascending.

    Raises
    ------
    ConfigError
        It means nothing, or not only positive numbers.
    """
    found: set[int] = set()
    try:
        for word in text.split(","):
            first, dots, last = word.partition("..")
            found |= set(_doubled(int(first), int(last))) if dots else {int(word)}
    except ValueError:
        found = set()
    if not found or min(found) < 1:
        raise ConfigError("--nodes", f"got '{text}', expected positive numbers", "such as --nodes 1,2,4 or --nodes 1..1024")
    return tuple(sorted(found))


def _doubled(first: int, last: int) -> list[int]:
    if not 1 <= first <= last:
        raise ValueError
    return [*(first * 2**power for power in range((last // first).bit_length())), last]
