"""Read a report as HTML, and hold every number in it against the JSON it came from."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

VOID = {"meta", "link", "img", "br", "hr", "input", "path", "circle"}
HIDDEN = {"style", "script"}
# The only numbers that the page says by itself: what the method is made of, and the year of the test that is repeated.
ALLOWED = (
    "95 %",
    "90 %",
    "5 %",
    r"95\,\%",
    r"90\,\%",
    r"5\,\%",
    "from 0 to 1",
    "above 0.5",
    "at 0.5",
    "from 0.5",
    "of 0.5",
    "to 0.5",
    "has 0.5",
    "is 0.5 when",
    "at 1 it finds",
    "score of 0.5 for everything has 0.25",
    "at most 0.05",
    "at most 0.01",
    "below 0.1",
    "exceed 3 by chance",
    "within 1 arcsec",
    "within 2 arcsec",
    "2018",
    "SHA-256",
    "sha256sum",
)
UNLATEX = {r"\textbackslash{}": "\\", r"\textasciitilde{}": "~", r"\textasciicircum{}": "^", **{"\\" + each: each for each in "&%$#_{}"}}


@dataclass
class Mark:
    """A piece of the page that says where it comes from."""

    attributes: dict[str, str]
    text: str = ""


@dataclass
class Page:
    """What there is on a page."""

    marks: list[Mark] = field(default_factory=list)
    static: dict[str, str] = field(default_factory=dict)
    cites: list[Mark] = field(default_factory=list)
    bars: list[tuple[dict[str, str], list[dict[str, str]]]] = field(default_factory=list)
    rest: str = ""
    tags: list[tuple[str, dict[str, str]]] = field(default_factory=list)


class Reader(HTMLParser):
    """Sorts the page's text into what is marked and what is not."""

    def __init__(self) -> None:
        super().__init__()
        self.page, self.stack = Page(), []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        self.page.tags.append((tag, attributes))
        # Read out to the blind, so it counts as text.
        self.page.rest += " ".join(f" {attributes[name]} " for name in ("alt", "aria-label", "title") if name in attributes)
        if tag in ("path", "circle") and self.page.bars:
            self.page.bars[-1][1].append(attributes)
        if tag in VOID:
            return
        mark = None
        if tag == "svg":
            self.page.bars.append((attributes, []))
        elif "data-path" in attributes:
            mark = Mark(attributes)
            self.page.marks.append(mark)
        elif "data-cite" in attributes:
            mark = Mark(attributes)
            self.page.cites.append(mark)
        self.stack.append((tag, attributes, mark))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            opened = self.stack.pop()[0]
            assert opened == tag, f"</{tag}> closes <{opened}>"
        if tag not in ("span", "strong", "a", "code"):
            self.page.rest += "\n"

    def handle_data(self, data: str) -> None:
        if any(tag in HIDDEN for tag, _, _ in self.stack):
            return
        for _, attributes, mark in reversed(self.stack):
            if mark is not None:
                mark.text += data
                return
            if "data-static" in attributes:
                self.page.static[attributes["data-static"]] = self.page.static.get(attributes["data-static"], "") + data
                return
        self.page.rest += data


def read_page(html: str) -> Page:
    """Parse a page; every tag has to be closed."""
    reader = Reader()
    reader.feed(html)
    reader.close()
    assert not reader.stack, [tag for tag, _, _ in reader.stack]
    return reader.page


def find(content: Any, path: str) -> Any:
    """Return what stands at a path of the JSON; a KeyError where there is nothing."""
    for step in path.split("."):
        key = step.replace("~1", ".").replace("~0", "~")
        content = content[int(key)] if isinstance(content, list) else content[key]
    return content


def expected(content: Any, attributes: dict[str, str]) -> str:
    """Return what a mark has to say."""
    value = find(content, attributes["data-path"])
    if "data-count" in attributes:
        name, _, wanted = attributes["data-count"].partition("=")
        return str(len([each for each in value or [] if not name or str(each.get(name)) == wanted]))
    if "data-total" in attributes:
        return f"{sum(value.values()):,}"
    if "data-format" in attributes:
        return "\N{EN DASH}" if value is None else ("{:" + attributes["data-format"] + "}").format(value)
    kind = attributes.get("data-as")
    if kind == "key":
        return attributes["data-path"].split(".")[-1].replace("~1", ".").replace("~0", "~")
    if kind == "yes":
        return {True: "yes", False: "no"}[value]
    return "\N{EN DASH}" if value is None else str(value)


def unlatex(text: str) -> str:
    """Undo what makes words safe in LaTeX."""
    return re.sub("|".join(re.escape(each) for each in sorted(UNLATEX, key=len, reverse=True)), lambda found: UNLATEX[found[0]], text)


def problems(content: Any, html: str, cites: dict[str, str]) -> list[str]:
    """Return everything on a page that does not come from the JSON.

    Parameters
    ----------
    content : dict
        What ``report.json`` holds.
    html : str
        The page.
    cites : dict of str to str
        What a citation of each paper looks like.
    """
    page, found = read_page(html), []
    for mark in page.marks:
        said = unlatex(mark.text) if mark.attributes.get("data-as") == "latex" else mark.text
        try:
            wanted = expected(content, mark.attributes)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            found.append(f"{mark.attributes}: {error!r}")
            continue
        if said != wanted:
            found.append(f"{mark.attributes['data-path']}: the page says {said!r}, the JSON {wanted!r}")
    found += [f"citation {mark.text!r}" for mark in page.cites if cites[mark.attributes["data-cite"]] != mark.text]
    found += [problem for attributes, parts in page.bars for problem in _bar_problems(content, attributes, parts)]
    rest = re.sub("|".join(re.escape(each) for each in sorted(ALLOWED, key=len, reverse=True)), "", re.sub(r"\s+", " ", page.rest))
    return found + [f"untraced: ...{match[0]}..." for match in re.finditer(r".{0,30}\d.{0,30}", rest)]


def _bar_problems(content: Any, attributes: dict[str, str], parts: list[dict[str, str]]) -> list[str]:
    value, ends = find(content, attributes["data-auc"]), find(content, attributes["data-interval"]) or None
    low, high = ends or (value, value)
    drawn = [
        float(each) for each in re.findall(r"[\d.]+", next(part["d"] for part in parts if part.get("class") == "ends").replace("8H", " "))
    ]
    drawn.append(float(next(part["cx"] for part in parts if "cx" in part)))
    wanted = [low, high, value]
    return [
        f"bar of {attributes['data-auc']}: {drawn}"
        for _ in (1,)
        if any(abs(a / 160 - b) > 0.001 for a, b in zip(drawn, wanted, strict=True))
    ]
