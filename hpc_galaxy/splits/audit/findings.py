"""What a check has found, and how it is shown and stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Result = Literal["pass", "warn", "fail"]
RESULTS: tuple[Result, ...] = ("pass", "warn", "fail")


@dataclass(frozen=True)
class Finding:
    """The outcome of one check.

    Attributes
    ----------
    name : str
        Of the check.
    result : str
        ``pass``, ``warn`` or ``fail``.
    found : str
        The numbers, short enough for a line of a table.
    advice : str
        What a warning or failure means, and what to do; not shown with ``pass``.
    numbers : dict
        What is stored: ready for JSON.
    """

    name: str
    result: Result
    found: str
    advice: str = ""
    numbers: dict[str, Any] = field(default_factory=dict)


def worst(results: Sequence[Result]) -> Result:
    """Return the worst of some results; ``pass`` of none."""
    return max(results, key=RESULTS.index, default="pass")


def judge(failed: bool, warned: bool) -> Result:
    """Return ``fail``, ``warn`` or ``pass``."""
    return "fail" if failed else "warn" if warned else "pass"


def table(findings: Sequence[Finding]) -> str:
    """Return the findings as text: a line each, then a line for each warning and failure that says what it means."""
    width = max(len(finding.name) for finding in findings)
    lines = [
        f"  {finding.result.upper() if finding.result == 'fail' else finding.result}  {finding.name:<{width}}  {finding.found}"
        for finding in findings
    ]
    advice = [f"{finding.result}: {finding.name}: {finding.advice}" for finding in findings if finding.result != "pass"]
    return "\n".join([*lines, *advice])


def count(findings: Sequence[Finding]) -> dict[str, int]:
    """Return how many findings there are of each result."""
    return {result: sum(finding.result == result for finding in findings) for result in RESULTS}


def as_json(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """Return the findings, ready for JSON."""
    return [asdict(finding) for finding in findings]
