"""Every row of this folder's table names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parent
COLUMNS = ["fault", "stage, launcher", "what the user sees", "exit code", "lost", "gone after", "how it continues", "test"]
NAMED = re.compile(r"`([\w/]+\.py)(?:::(\w+))?`")


def rows() -> list[list[str]]:
    lines = [line for line in (HERE / "README.md").read_text().splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    tables = [cells[start + 2 :] for start, row in enumerate(cells) if row == COLUMNS]
    # A second table begins with a header of its own.
    return [row for row in (tables[0] if tables else []) if row != COLUMNS and set("".join(row)) != {"-"}]


def test_every_row_is_whole_and_names_tests_that_exist() -> None:
    found = rows()
    assert len(found) >= 40
    for row in found:
        assert len(row) == len(COLUMNS) and all(row), row
        named = NAMED.findall(row[-1])
        assert named, row
        for file, name in named:
            path = HERE.parent / file if "/" in file else HERE / file
            assert path.is_file(), f"{file} of the row '{row[0]}'"
            assert name and f"\ndef {name}(" in path.read_text(), f"{file}::{name} of the row '{row[0]}'"


def test_every_test_of_this_folder_is_in_the_table() -> None:
    """A fault that is tested and not told of helps nobody who has it."""
    table = (HERE / "README.md").read_text()
    for path in HERE.glob("test_*.py"):
        if path.name != Path(__file__).name:
            for name in re.findall(r"^def (test_\w+)\(", path.read_text(), re.MULTILINE):
                assert f"`{path.name}::{name}`" in table, f"{path.name}::{name}"
