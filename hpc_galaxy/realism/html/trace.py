"""Whatever the page shows of ``report.json`` is marked with the place it was taken from, so that it can be looked up again.

A path is the keys on the way, joined by dots, such as ``auc_interval.0``. In a key ``~`` is written ``~0`` and a dot ``~1``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

ABSENT = "\N{EN DASH}"  # shown for what is null, or no number
WIDTH = 160  # of an interval's picture, in its own units; AUC 0 to 1
LATEX = {"\\": r"\textbackslash{}", **{each: "\\" + each for each in "&%$#_{}"}, "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}


def at(prefix: str, *keys: str | int) -> str:
    """Return the path of something below the path `prefix`, which may be empty."""
    steps = [str(key).replace("~", "~0").replace(".", "~1") for key in keys]
    return ".".join([prefix, *steps] if prefix else steps)


def look_up(content: Any, path: str) -> Any:
    """Return what stands at a path; None where there is nothing."""
    for step in path.split("."):
        key = step.replace("~1", ".").replace("~0", "~")
        if isinstance(content, Mapping):
            content = content.get(key)
        elif isinstance(content, Sequence) and not isinstance(content, str) and key.isdigit() and int(key) < len(content):
            content = content[int(key)]
        else:
            return None
    return content


def formatted(value: Any, spec: str) -> str:
    """Return a number as text; `ABSENT` of what is none, or not finite."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return ABSENT
    return format(value, spec)


class Tracer:
    """Shows what stands in a report, marked; these are the functions that the templates call.

    Parameters
    ----------
    content : dict
        What is in ``report.json``.
    """

    def __init__(self, content: Mapping[str, Any]) -> None:
        self._content = content

    def get(self, path: str) -> Any:
        """Return what stands at a path, unmarked: to decide with, not to show."""
        return look_up(self._content, path)

    def num(self, path: str, spec: str = "") -> Markup:
        """Return the number at a path in Python's format `spec`."""
        return Markup('<span class="n" data-path="{}" data-format="{}">{}</span>').format(path, spec, formatted(self.get(path), spec))

    def text(self, path: str) -> Markup:
        """Return the words at a path."""
        value = self.get(path)
        return Markup('<span class="t" data-path="{}">{}</span>').format(path, ABSENT if value is None else str(value))

    def latex(self, path: str) -> Markup:
        """Return the words at a path as LaTeX understands them."""
        words = "".join(LATEX.get(each, each) for each in str(self.get(path)))
        return Markup('<span class="t" data-path="{}" data-as="latex">{}</span>').format(path, words)

    def key(self, prefix: str, key: str) -> Markup:
        """Return a key of the table at a path."""
        return Markup('<span class="t" data-path="{}" data-as="key">{}</span>').format(at(prefix, key), key)

    def count(self, path: str, name: str = "", value: str = "") -> Markup:
        """Return how many entries the list at a path has; with `name`, how many of them have this value there."""
        entries = self.get(path) or []
        found = sum(not name or str(entry.get(name)) == value for entry in entries)
        return Markup('<span class="n" data-path="{}" data-count="{}">{}</span>').format(path, f"{name}={value}" if name else "", found)

    def total(self, path: str) -> Markup:
        """Return the sum of the whole numbers in the table at a path."""
        return Markup('<span class="n" data-path="{}" data-total="">{}</span>').format(path, f"{sum(self.get(path).values()):,}")

    def value(self, path: str) -> Markup:
        """Return whatever stands at a path: a number as it is, yes or no, a list joined by commas, or words."""
        found = self.get(path)
        if isinstance(found, bool):
            return Markup('<span class="t" data-path="{}" data-as="yes">{}</span>').format(path, "yes" if found else "no")
        if isinstance(found, (int, float)):
            return self.num(path, "" if isinstance(found, int) else ".6g")
        if isinstance(found, (list, tuple)):
            return Markup(", ").join(self.value(at(path, number)) for number in range(len(found)))
        return self.text(path)

    def bar(self, path: str, interval: str) -> Markup:
        """Return a picture of the AUC at a path with its interval, on a line from 0 to 1 with a mark at 0.5."""
        value, ends = self.get(path), self.get(interval)
        if formatted(value, "") == ABSENT:
            return Markup("")
        low, high = ends or (value, value)
        return BAR.format(path, interval, *(f"{WIDTH * number:.1f}" for number in (low, high, value)))


BAR = Markup(
    f'<svg class="bar" viewBox="-4 0 {WIDTH + 8} 16" aria-hidden="true" data-auc="{{}}" data-interval="{{}}">'
    f'<path class="axis" d="M0 8H{WIDTH}"/><path class="half" d="M{WIDTH / 2:g} 0V16"/>'
    '<path class="ends" d="M{} 8H{}"/><circle cx="{}" cy="8" r="3.5"/></svg>'
)
