"""The Perfetto UI in a real Chromium: open a trace, ask it in SQL, take its picture."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from patience import patience

from hpc_galaxy.tracing.serve import serve

QUERY = """async (sql) => {
    const result = await window.app.trace.engine.query(sql), rows = [];
    const plain = (value) => typeof value === 'bigint' ? Number(value) : value;
    for (const row = result.iter({}); row.valid(); row.next())
        rows.push(Object.fromEntries(result.columns().map((name) => [name, plain(row.get(name))])));
    return rows;
}"""
ZOOM = """async ([start, end]) => {
    const timeline = window.app.trace.timeline, time = (seconds) => BigInt(Math.round(seconds * 1e9));
    timeline.setViewportTime(window.app.trace.traceInfo.start + time(start), window.app.trace.traceInfo.start + time(end));
}"""
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
ERRORS = "select name, value from stats where value > 0 and severity = 'error'"


class Page:
    """A trace that is open in the browser."""

    def __init__(self, page: Any) -> None:
        self._page = page

    def query(self, sql: str) -> list[dict[str, Any]]:
        """Return what the UI's own engine answers, a dict a row."""
        return list(self._page.evaluate(QUERY, sql))

    def column(self, sql: str) -> list[Any]:
        """Return the only column of an answer."""
        return [next(iter(row.values())) for row in self.query(sql)]

    def picture(self, path: Path, start: float, end: float) -> None:
        """Take a picture of everything between two times, seconds after the trace begins."""
        self._page.evaluate("() => window.app.commands.runCommand('dev.perfetto.ExpandAllGroups')")
        self._page.evaluate(ZOOM, [start, end])
        allreduce = self.query(
            f"select id from slice where name = 'allreduce' and ts >= (select min(ts) from slice) + {int(start * 1e9)} order by ts limit 1"
        )
        for row in allreduce:
            self._page.evaluate("(id) => window.app.trace.selection.selectSqlEvent('slice', id)", row["id"])
        self._page.wait_for_timeout(1500)
        self._page.screenshot(path=str(path))


@contextmanager
def opened(trace: Path, width: int = 1400, height: int = 900) -> Iterator[Page]:
    """Serve a trace, and open it in a Chromium without a window."""
    from playwright.sync_api import sync_playwright

    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    with serve(trace) as server, sync_playwright() as playwright:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=options)
        try:
            page = browser.new_page(viewport={"width": width, "height": height})
            page.set_default_timeout(patience(30_000))
            page.goto(f"http://127.0.0.1:{server.server_address[1]}")
            page.wait_for_function("() => window.app && window.app.trace && window.app.trace.engine", timeout=patience(60_000))
            yield Page(page)
        finally:
            browser.close()
            server.shutdown()


def find_chromium() -> str | None:
    """Return this machine's Chromium."""
    return next(filter(None, map(shutil.which, PROGRAMS)), None)
