"""The report as a page: every number comes from report.json, and nothing else is loaded."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import report_checker
import sample_report

from hpc_galaxy.errors import FormatError, InputError
from hpc_galaxy.realism.html.build import COMMANDS, TITLES, embed, find_report, write_html
from hpc_galaxy.realism.html.references import REFERENCES, bibtex, cite_latex

CITES = {key: paper.short for key, paper in REFERENCES.items()}
FORMS = {
    "short": lambda: sample_report.short(),
    "full": lambda: sample_report.full(0.8),
    "refused": lambda: sample_report.short(0.8, ("the audit failed: centroid x",)),
}


@pytest.fixture(scope="module", params=FORMS)
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any, str]:
    """Name, content as read back from JSON, and page."""
    return request.param, *write(FORMS[request.param](), tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, str]:
    return write(sample_report.full(), tmp_path_factory.mktemp("whole"))


def write(content: dict[str, Any], folder: Path) -> tuple[Any, str]:
    sample_report.draw_pictures(content, folder)
    stored = json.loads(json.dumps(content))
    path = write_html(stored, folder)
    assert path == folder / "report.html"
    return stored, path.read_text(encoding="utf-8")


def test_every_number_is_traced_to_the_json(written: tuple[str, Any, str]) -> None:
    name, content, html = written
    assert report_checker.problems(content, html, CITES) == []
    marked = sum("data-format" in mark.attributes for mark in report_checker.read_page(html).marks)
    assert marked > (400 if name == "full" else 100)


def test_what_is_not_traced_is_the_references_word_for_word(written: tuple[str, Any, str]) -> None:
    static = report_checker.read_page(written[2]).static
    assert set(static) == {"references", "bibtex"}
    assert static["bibtex"].strip() == bibtex().strip()
    listed = [line.strip() for line in static["references"].splitlines() if line.strip()]
    assert listed == [f"{paper.short}: {paper.used_for}." for paper in REFERENCES.values()]


def test_a_changed_number_is_found(whole: tuple[Any, str]) -> None:
    content, html = whole
    number = re.search(r'data-path="auc_interval.0" data-format=".3f">([\d.]+)<', html)
    assert number is not None
    changed = f"{float(number[1]) + 0.001:.3f}"
    spoiled = html[: number.start(1)] + changed + html[number.end(1) :]
    assert any("auc_interval.0" in each for each in report_checker.problems(content, spoiled, CITES))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("Surveys inject fake galaxies", "Surveys inject 12 fake galaxies", "untraced"),
        ('alt="ROC curve', 'alt="7 ROC curve', "untraced"),
        ('data-path="p_value"', 'data-path="p_value_of_old"', "KeyError"),
        ('data-path="bins.3.auc"', 'data-path="bins.4.auc"', "bins.4.auc"),
        ('data-count="result=pass">', 'data-count="result=pass">1', "audit.checks"),
        ("Obuchowski 1997</span>", "Obuchowski 1998</span>", "citation"),
        ('data-as="latex">mag\\_g', 'data-as="latex">mag\\_r', "matching.columns.0.column"),
        (
            'data-interval="auc_interval"><path class="axis" d="M0 8H160"/>',
            'data-interval="bins.0.interval"><path class="axis" d="M0 8H160"/>',
            "bar",
        ),
        ("95 % interval", "94 % interval", "untraced"),
    ],
)
def test_the_checker_finds_what_is_wrong(whole: tuple[Any, str], old: str, new: str, said: str) -> None:
    content, html = whole
    assert old in html
    found = report_checker.problems(content, html.replace(old, new), CITES)
    assert found and any(said in each for each in found)


def test_a_changed_json_is_found(whole: tuple[Any, str]) -> None:
    content, html = whole
    found = report_checker.problems(content | {"examples": content["examples"] + 1}, html, CITES)
    assert len(found) == html.count('data-path="examples"') == 2 and all("examples" in each for each in found)


def test_the_page_loads_nothing_and_leads_only_to_papers(written: tuple[str, Any, str]) -> None:
    html = written[2]
    tags = report_checker.read_page(html).tags
    assert not {"script", "iframe", "object", "embed", "form"} & {tag for tag, _ in tags}
    assert not any(name.startswith("on") for _, attributes in tags for name in attributes)
    pictures = [attributes for tag, attributes in tags if tag == "img"]
    assert pictures and all(each["src"].startswith("data:image/png;base64,") and len(each["alt"]) > 20 for each in pictures)
    assert "url(" not in html and "@import" not in html
    for tag, attributes in tags:
        if tag == "link":
            assert attributes["href"] == "data:,"
        elif "href" in attributes:
            assert tag == "a" and re.match(r"#\w+$|https://(arxiv\.org/abs/|doi\.org/)", attributes["href"])
        assert "src" not in attributes or tag == "img"


def test_the_contents_lead_to_sections_and_tables_have_headers(written: tuple[str, Any, str]) -> None:
    tags = report_checker.read_page(written[2]).tags
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert ids == list(TITLES)
    assert [attributes["href"][1:] for tag, attributes in tags if attributes.get("href", "").startswith("#")] == ids
    assert all(attributes.get("scope") in ("col", "row") for tag, attributes in tags if tag == "th")
    assert sum(tag == "table" for tag, _ in tags) == sum(tag == "caption" for tag, _ in tags) > 5
    assert all(attributes["aria-labelledby"] in ids for tag, attributes in tags if tag == "section")


def test_what_was_not_made_names_its_command(tmp_path: Path) -> None:
    _, html = write(sample_report.short(), tmp_path)
    for command in COMMANDS.values():
        assert f"<code>{command}</code>" in html
    assert html.count("(not made)") == 4
    assert sorted(path.name for path in tmp_path.glob("*.png")) == sorted([*sample_report.PICTURES, "calibration.png"])


def test_the_whole_report_misses_nothing(whole: tuple[Any, str]) -> None:
    assert "(not made)" not in whole[1] and 'class="absent"' not in whole[1]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (sample_report.short(0.8), "told apart"),
        (sample_report.short(margin=0.1), "indistinguishable"),
        (sample_report.short(margin=0.01), "undecided"),
        (sample_report.short(0.8, ("x",)), "refused"),
    ],
)
def test_the_verdict_is_said_in_words(content: dict[str, Any], said: str, tmp_path: Path) -> None:
    stored, html = write(content, tmp_path)
    badge = re.search(r'<span class="badge \w+"><span aria-hidden="true">(.)</span> ([\w ]+)</span>', html)
    assert badge is not None and badge[2] == said == stored["verdict"]["kind"]
    assert f'data-path="verdict.sentence">{stored["verdict"]["sentence"].replace("+/-", "+/-")}<' in html.replace("&#39;", "'")


def test_parts_that_are_impossible_say_why(tmp_path: Path) -> None:
    content = sample_report.full()
    why = dict.fromkeys(("stacks", "occlusion", "galleries", "sensitivity"))
    content["why"] = {**why, **{f"{part}_missing": f"no <b>{part}</b> of 7" for part in why}}
    content["bins"], content["baselines"], content["networks"] = [], [], None
    stored, html = write(content, tmp_path)
    assert report_checker.problems(stored, html, CITES) == []
    assert all(f"no &lt;b&gt;{part}&lt;/b&gt; of 7" in html for part in why)


def test_one_class_or_one_brick_leaves_dashes(tmp_path: Path) -> None:
    labels, logits, _ = sample_report.make_scores(40)
    from hpc_galaxy.config import Realism
    from hpc_galaxy.realism.statistics import summarise

    bricks = labels.astype("S8")
    one = summarise(labels * 0, logits, bricks, Realism(bootstrap=10, permutations=10), 1)
    networks = [{"seed": 3, "epoch": 2} | each for each in one["networks"]]
    content = sample_report.short() | one | {"networks": networks, "pictures": ["scores.png"], "bins": []}
    stored, html = write(content, tmp_path)
    assert report_checker.problems(stored, html, CITES) == []
    assert 'data-path="auc" data-format=".3f">\N{EN DASH}<' in html


def test_strings_are_escaped(whole: tuple[Any, str]) -> None:
    assert "<script" not in whole[1] and "rs0-&lt;script&gt;alert(&#34;7&#34;)&lt;/script&gt;&amp;&#39;-1211p060-3" in whole[1]
    said = [mark.text for mark in report_checker.read_page(whole[1]).marks]
    assert sample_report.HOSTILE in said


def test_methods_are_to_be_pasted(whole: tuple[Any, str]) -> None:
    content, html = whole
    plain, tex = (
        re.sub(r"<[^>]*>", "", part) for part in re.findall(r'<pre tabindex="0" aria-label="Methods[^>]*>(.*?)</pre>', html, re.S)
    )
    interval = "from {:.3f} to {:.3f}".format(*content["auc_interval"])
    assert interval in plain and interval in tex
    assert r"\citep{DeLong,Obuchowski}" in tex and "(DeLong et al. 1988; Obuchowski 1997)" in plain
    assert r"mag\_g, shape\_r" in tex and "mag_g, shape_r" in plain
    assert r"95\,\%" in tex and not re.search(r"(?<!\\)[%&#_]", tex)
    for each in (plain, tex):
        assert "\n" not in each and "  " not in each and each.endswith(".")
    assert set(re.findall(r"\w+", ",".join(re.findall(r"\\citep\{([^}]*)\}", tex)))) <= set(REFERENCES)


def test_bibtex_has_an_entry_for_each_paper() -> None:
    entries = dict(re.findall(r"@\w+\{(\w+),(.*?)\n\}\n", bibtex(), re.S))
    assert list(entries) == list(REFERENCES)
    for key, entry in entries.items():
        assert entry.count("{") == entry.count("}")
        year = re.search(r"year\s*=\s*\{(\d{4})\}", entry)
        assert year is not None and REFERENCES[key].short.endswith(year[1])
        surname = re.search(r"author\s*=\s*\{([^,]+),", entry)
        assert surname is not None and REFERENCES[key].short.startswith(surname[1])
        link = REFERENCES[key].link.removeprefix("https://arxiv.org/abs/").removeprefix("https://doi.org/")
        assert link in entry
    with pytest.raises(KeyError):
        cite_latex("Nobody")


def test_pictures_that_are_missing_or_none_are_refused(tmp_path: Path) -> None:
    content = sample_report.short()
    sample_report.draw_pictures(content, tmp_path)
    (tmp_path / "where.png").write_text("no picture")
    with pytest.raises(FormatError, match=r"where\.png: is no PNG; run 'hpc-galaxy realism' again"):
        write_html(content, tmp_path)
    (tmp_path / "where.png").unlink()
    with pytest.raises(InputError, match=r"where\.png: no such file, but the report names it"):
        write_html(content, tmp_path)
    assert not (tmp_path / "report.html").exists()
    with pytest.raises(FormatError, match="expected the name of a file in the report's folder"):
        embed(tmp_path, "../secret.png")
    content["verdict"]["kind"] = "perhaps"
    with pytest.raises(FormatError, match=r"'verdict\.kind' is 'perhaps'"):
        write_html(content, tmp_path)


def test_links_to_other_reports_stay_within_the_run(tmp_path: Path) -> None:
    folder, name = tmp_path / "report", "controls/sky/report/report.html"
    for base in (tmp_path, folder):
        (base / name).parent.mkdir(parents=True)
    (tmp_path / name).touch()
    assert find_report(folder, name) == f"../{name}"
    (folder / name).touch()
    assert find_report(folder, name) == name
    for bad in (None, "", "gone.html", "javascript:alert(1)", str(folder / name), f"../{name}", f"x/../{name}"):
        assert find_report(folder, bad) == ""
