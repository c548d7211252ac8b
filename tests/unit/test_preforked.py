"""A preforked Python is to whoever starts it what a fresh one is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from patience import patience
from preforked import behind, preforked, python

from hpc_galaxy import __version__

ECHO = "import os, sys; print(sys.argv, os.getcwd(), os.environ.get('ASKED'), sys.path[0], sys.stdin.read()); print('no', file=sys.stderr)"


def start(*argv: str, **options: object) -> subprocess.Popen[str]:
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen([python(), *argv], env=os.environ | preforked(), text=True, **pipes, **options)


def test_arguments_streams_and_directory_are_those_of_a_fresh_one(tmp_path: Path) -> None:
    (tmp_path / "echo.py").write_text(ECHO)
    for argv in (["-c", ECHO, "a b", ""], ["echo.py", "x"], ["-u", "echo.py"], ["-B", "echo.py"]):
        said = []
        for program, extra in ((python(), preforked()), (sys.executable, {})):
            env = {**os.environ, **extra, "ASKED": "yes"}
            done = subprocess.run([program, *argv], env=env, cwd=tmp_path, input="in", capture_output=True, text=True, check=True)
            said.append((done.stdout, done.stderr))
        assert said[0] == said[1] and "yes" in said[0][0]


def test_a_module_is_run() -> None:
    out, said = start("-m", "hpc_galaxy", "version").communicate()
    assert (out, said) == (f"{__version__}\n", "")


def test_it_has_imported_everything_and_no_mpi() -> None:
    out, _ = start("-c", "import sys; print('torch' in sys.modules, 'mpi4py' in sys.modules)").communicate()
    assert out == "True False\n"


@pytest.mark.parametrize(
    ("program", "code"),
    [
        ("pass", 0),
        ("raise SystemExit(75)", 75),
        ("import os; os._exit(86)", 86),
        ("1 / 0", 1),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
        ("import os; os.abort()", -signal.SIGABRT),
    ],
)
def test_it_ends_as_its_process_ends(program: str, code: int) -> None:
    process = start("-c", program)
    _, said = process.communicate()
    assert process.returncode == code
    assert said.count("Traceback") == said.count("ZeroDivisionError") == (program == "1 / 0")


WAIT = "import signal, sys, time; signal.signal(signal.SIGUSR1, lambda *_: sys.exit(9)); print('ready', flush=True); time.sleep(60)"


def test_signals_are_passed_on() -> None:
    for number, code in ((signal.SIGUSR1, 9), (signal.SIGTERM, -signal.SIGTERM)):
        with start("-c", WAIT) as process:
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
            process.send_signal(number)
            assert process.wait(patience(10)) == code


def test_ignored_signals_stay_ignored() -> None:
    program = "import os, signal; os.kill(os.getpid(), signal.SIGHUP); print('alive')"
    out, _ = start("-c", program, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)).communicate()
    assert out == "alive\n"


def test_a_killed_one_takes_its_process_with_it() -> None:
    with start("-c", WAIT) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        client, deadline = psutil.Process(process.pid), time.monotonic() + patience(10)
        while (worker := behind(client)) == client:  # which names its process a moment after that has started
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert worker.is_running()
        process.kill()
        while worker.is_running():
            assert time.monotonic() < deadline
            time.sleep(0.01)
