"""``hpc-galaxy`` ends at once, and loses nothing that waits for its end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import atexit, sys, threading, time
from hpc_galaxy.ending import end_with
class TakenApart:
    def __del__(self):
        print("taken apart")
kept = TakenApart()
def late():
    time.sleep(0.2)
    print("thread")
def program():
    atexit.register(print, "at the end")
    threading.Thread(target=late).start()
    print("work")
    {end}
end_with(program)
print("not reached")
"""


def run(end: str, **options: object) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "PYTHONUNBUFFERED": ""}  # so that something waits for the end
    options = {"capture_output": True, **options}
    return subprocess.run([sys.executable, "-c", PROGRAM.format(end=end)], text=True, check=False, env=environ, **options)


@pytest.mark.parametrize(("end", "code"), [("pass", 0), ("sys.exit()", 0), ("sys.exit(0)", 0), ("sys.exit(75)", 75)])
def test_threads_and_functions_have_their_turn_and_nothing_is_taken_apart(end: str, code: int) -> None:
    done = run(end)
    assert (done.stdout.splitlines(), done.stderr, done.returncode) == (["work", "thread", "at the end"], "", code)


def test_a_profiler_has_its_turn(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM.format(end="sys.exit(75)"))
    done = subprocess.run([sys.executable, "-m", "cProfile", tmp_path / "program.py"], text=True, capture_output=True, check=False)
    assert "work" in done.stdout and " function calls (" in done.stdout


def test_a_message_and_an_error_are_shown() -> None:
    done = run("sys.exit('no')")
    assert (done.stderr, done.returncode) == ("no\n", 1)
    done = run("1 / 0")
    assert done.stderr.endswith("ZeroDivisionError: division by zero\n") and done.returncode == 1


def test_output_that_nobody_reads_is_an_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = run("pass", capture_output=False, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert "BrokenPipeError" in done.stderr and done.returncode == 120
