"""Write ``report.html``: what is in ``report.json``, with its pictures inside."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from hpc_galaxy.errors import FormatError, InputError
from hpc_galaxy.files import is_plain_name, write_text
from hpc_galaxy.realism.html.drawing import draw_missing
from hpc_galaxy.realism.html.limits import LIMITS
from hpc_galaxy.realism.html.references import REFERENCES, bibtex, cite, cite_latex
from hpc_galaxy.realism.html.trace import Tracer, at
from hpc_galaxy.realism.power import SIGNIFICANCE
from hpc_galaxy.realism.verdict import ALIKE, REFUSED, TOLD_APART, UNDECIDED

if TYPE_CHECKING:
    from jinja2 import Environment

NAME = "report.html"
REMEDY = "run 'hpc-galaxy realism' again"
PNG = b"\x89PNG\r\n\x1a\n"
TITLES = {
    "answer": "Question and answer",
    "sample": "What was tested",
    "gate": "The gate: leaks and matching",
    "result": "The result",
    "calibration": "Calibration",
    "ladder": "Simpler and deeper classifiers",
    "where": "Where they differ",
    "why": "Why they differ",
    "controls": "Controls",
    "bands": "Bands",
    "replicate": "The test as it was done in 2018",
    "mosaics": "The galaxies",
    "methods": "A methods paragraph to paste",
    "limits": "What this test cannot say",
    "provenance": "How to make it again",
    "references": "References",
}
COMMANDS = {
    "why": "hpc-galaxy realism",
    "controls": "hpc-galaxy controls",
    "bands": "hpc-galaxy controls",
    "replicate": "hpc-galaxy replicate-2018",
}
# Class and sign of each kind of verdict: nothing is said by colour alone.
LOOK = {TOLD_APART: ("apart", "\u2260"), ALIKE: ("alike", "\u2248"), UNDECIDED: ("undecided", "?"), REFUSED: ("refused", "\u2298")}
MEANING = {
    TOLD_APART: "The network finds fakes more often than chance would have it. Whoever uses these fakes has to ask whether what it sees "
    "matters to them; the sections on where and why say what it may be.",
    ALIKE: "The AUC has been shown to lie within the margin of 0.5. A difference smaller than the margin may be there; a larger "
    "one would have been seen.",
    UNDECIDED: "The test found no difference, and is too small to show that there is none. This is no evidence that the "
    "fakes are like the real galaxies; more galaxies on more bricks are needed.",
    REFUSED: "The data are not fit to ask this question: something other than the galaxies tells the classes apart. The numbers below "
    "are shown all the same, but nothing follows from them.",
}
MARKS = {"pass": "\u2713", "warn": "!", "fail": "\u2717"}
DROPPED = {
    "overlap": "could share pixels with another split",
    "repeat": "the same galaxy was injected on the other side",
    "match": "found no partner",
    "balance": "one too many of their class",
}


def write_html(content: Mapping[str, Any], folder: Path) -> Path:
    """Write the report as one HTML page that needs no other file.

    Parameters
    ----------
    content : dict
        What is in ``report.json``. Sections whose keys are missing say which command makes them.
    folder : Path
        The report's: holds the pictures that `content` names. Those of calibration, thresholds and the replication of 2018 are drawn here.

    Returns
    -------
    Path
        ``report.html`` in that folder.

    Raises
    ------
    InputError
        A picture is missing.
    FormatError
        A picture's name is a path, or it is no PNG; or the verdict is of no known kind.
    OutputError
        The page cannot be written.
    """
    if content["verdict"]["kind"] not in LOOK:
        raise FormatError(folder / "report.json", f"'verdict.kind' is {content['verdict']['kind']!r}, expected one of {list(LOOK)}", REMEDY)
    drawn = draw_missing(content, folder)
    page = _environment(content, folder, drawn).get_template("report.html.j2").render()
    write_text(folder / NAME, page)
    return folder / NAME


def _environment(content: Mapping[str, Any], folder: Path, drawn: list[str]) -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("hpc_galaxy.realism", "html"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    trace = Tracer(content)
    names = ("get", "num", "text", "latex", "key", "count", "total", "value", "bar")
    environment.globals.update({name: getattr(trace, name) for name in names}, at=at, cite=cite, citation=citation)
    environment.globals.update(titles=TITLES, commands=COMMANDS, look=LOOK, meaning=MEANING, marks=MARKS, dropped=DROPPED, limits=LIMITS)
    environment.globals.update(references=REFERENCES, bibtex=bibtex(), significance=SIGNIFICANCE, content=content)
    environment.globals.update(_arms(content), absent=_absent(content), mosaics=_mosaics(content))
    environment.globals["picture"] = lambda name: embed(folder, name)
    environment.globals["has"] = lambda name: name in (*content.get("pictures", ()), *drawn)
    environment.globals["link"] = lambda report: find_report(folder, report)
    environment.filters["reflow"] = reflow
    return environment


def _arms(content: Mapping[str, Any]) -> dict[str, list[tuple[str, Any]]]:
    """Return the runs of each kind with their paths, under the templates' names; ``commanded`` are all that have a command."""
    prefixes = ("controls.arms", "replicate.arms")
    every = [(at(prefix, number), arm) for prefix in prefixes for number, arm in enumerate(_list(content, *prefix.split(".")))]
    kinds = {"negative": "negative", "positive": "positive", "rungs": "ladder", "bands": "bands", "replicate": "2018"}
    found = {name: [(path, arm) for path, arm in every if arm.get("kind") == kind] for name, kind in kinds.items()}
    return {**found, "commanded": [(path, arm) for path, arm in every if arm.get("command")]}


def _list(content: Mapping[str, Any], section: str, name: str) -> list[Any]:
    return list((content.get(section) or {}).get(name) or [])


def _absent(content: Mapping[str, Any]) -> set[str]:
    """Return the sections that were not made."""
    arms = _arms(content)
    made = {
        "why": content.get("why"),
        "controls": arms["negative"] + arms["positive"],
        "bands": arms["bands"],
        "replicate": arms["replicate"],
    }
    return {name for name, there in made.items() if not there}


def _mosaics(content: Mapping[str, Any]) -> list[str]:
    return [name for name in content.get("pictures", ()) if name.startswith("mosaic")]


def citation(tex: bool, *keys: str) -> Markup:
    """Return papers in brackets, in plain words or as LaTeX."""
    return cite_latex(*keys) if tex else Markup("({})").format(Markup("; ").join(cite(key) for key in keys))


def reflow(text: Markup) -> Markup:
    """Return a text in one line: what it is pasted into breaks lines itself. Spaces within marks stay."""
    parts = re.split(r"(<[^>]*>)", text)
    return Markup("".join(part if part.startswith("<") else re.sub(r"\s+", " ", part) for part in parts).strip())


def embed(folder: Path, name: str) -> str:
    """Return a picture of the folder as a ``data:`` address.

    Raises
    ------
    InputError
        It is missing or cannot be read.
    FormatError
        Its name is a path, or it is no PNG.
    """
    if not is_plain_name(name):
        raise FormatError(folder / "report.json", f"names the picture {name!r}, expected the name of a file in the report's folder", REMEDY)
    try:
        found = (folder / name).read_bytes()
    except FileNotFoundError:
        raise InputError(folder / name, "no such file, but the report names it", REMEDY) from None
    except OSError as error:
        raise InputError(folder / name, f"cannot be read ({error.strerror})", "check its permissions and the file system") from error
    if not found.startswith(PNG):
        raise FormatError(folder / name, "is no PNG", REMEDY)
    return f"data:image/png;base64,{base64.b64encode(found).decode()}"


def find_report(folder: Path, report: str | None) -> str:
    """Return where another run's report lies, as seen from this one's folder; empty where it is not there, or lies outside of the run."""
    if not report or ":" in report or report.startswith("/") or ".." in Path(report).parts:
        return ""
    for base, prefix in ((folder, ""), (folder.parent, "../")):
        if (base / report).is_file():
            return f"{prefix}{report}"
    return ""
