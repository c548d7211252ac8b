"""The report in a real Chromium: it opens without a complaint, its pictures are there, and its contents lead somewhere."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import sample_report
from patience import patience
from perfetto import find_chromium

from hpc_galaxy.realism.html.build import TITLES, write_html

TIMEOUT = patience(120_000)  # ms: other tests run beside this one


def test_a_full_report_opens(tmp_path: Path, require: Callable[[str], None]) -> None:
    require("browser")
    from playwright.sync_api import sync_playwright

    content = sample_report.full(0.8)
    sample_report.draw_pictures(content, tmp_path)
    write_html(content, tmp_path)
    said, asked = [], []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=find_chromium(), args=["--no-sandbox"] if os.geteuid() == 0 else [], timeout=TIMEOUT
        )
        page = browser.new_page(viewport={"width": 1200, "height": 1000})
        page.set_default_timeout(TIMEOUT)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto((tmp_path / "report.html").as_uri())
        widths = page.evaluate("() => [...document.images].map(image => image.naturalWidth)")
        lost = page.evaluate(
            "() => [...document.querySelectorAll('nav a')].filter(a => !document.querySelector(a.getAttribute('href'))).length"
        )
        sections = page.evaluate("() => document.querySelectorAll('nav a').length")
        too_wide = page.evaluate("() => document.documentElement.scrollWidth - window.innerWidth")
        table_too_wide = page.evaluate(
            "() => [...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth + 1).length"
        )
        page.screenshot(path=tmp_path / "page.png", full_page=True)
        browser.close()
    assert said == []
    assert [url for url in asked if not url.startswith("data:")] == [(tmp_path / "report.html").as_uri()]
    assert len(widths) == len(content["pictures"]) + 4 + 3 and min(widths) > 0
    assert (sections, lost) == (len(TITLES), 0)
    assert too_wide <= 0 and table_too_wide == 0
