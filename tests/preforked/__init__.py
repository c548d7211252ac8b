"""A Python for ranks that has imported torch and all of the package already.

Most of what a test with two ranks takes is the start of two Pythons that import torch, and there are hundreds. Here one process imports
everything once (`server`), and forks for each Python that is started as `python()` (`client`): an ordinary process, with an MPI, files and
signals of its own. It takes a quarter of the processor that a fresh one does. Where it matters how a process starts, or who its parent
is, tests start Python itself: as do all those of Slurm and of the demo, which start what a user starts.
"""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path

import psutil
from patience import patience

HERE = Path(__file__).parent
ROOT = "PREFORKED_ROOT"  # names the directory of a server that several test processes share
SOCKET = "socket"
STANDS_FOR = "for "  # and a number: so a client names itself
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MPLBACKEND": "agg"}  # a process with threads cannot fork


def start() -> Path | None:
    """Start a server that ends with this process; return its directory, None where there can be none."""
    if sys.platform != "linux":
        return None
    root = Path(tempfile.mkdtemp(prefix="preforked-", dir="/tmp"))  # a socket's path may have 107 characters
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    client = root / "python"
    # Without what is beside Python: it starts ten times as fast, and needs the standard library alone.
    client.write_text(f"#!{sys.executable} -IS\n{(HERE / 'client.py').read_text()}")
    client.chmod(0o755)
    command = [sys.executable, HERE / "server.py", root / SOCKET, client]
    server = subprocess.Popen(command, env=os.environ | ONE_THREAD, stdin=subprocess.PIPE, cwd="/")
    assert server.stdin is not None
    atexit.register(server.wait)
    atexit.register(server.stdin.close)  # upon which it ends
    return root


@cache
def preforked() -> dict[str, str]:
    """Return the variables that a client needs, once the server is there: the one of all test processes, or else one of this process."""
    root = Path(os.environ[ROOT]) if ROOT in os.environ else start()
    if root is None:
        return {}
    deadline = time.monotonic() + patience(60)
    while not (root / SOCKET).exists():
        assert time.monotonic() < deadline, "the server of preforked Pythons has not started"
        time.sleep(0.05)
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))  # mpirun is beside Python, not beside a client
    return {"PREFORKED_SOCKET": f"{root / SOCKET}", "PREFORKED_PYTHON": sys.executable, "PATH": path}


def python() -> str:
    """Return the program that ranks are to be started with; its environment needs `preforked`."""
    variables = preforked()
    return str(Path(variables["PREFORKED_SOCKET"]).with_name("python")) if variables else sys.executable


def behind(process: psutil.Process) -> psutil.Process:
    """Return the process that a client stands for; any other is itself."""
    name = process.name()
    return psutil.Process(int(name.removeprefix(STANDS_FOR))) if name.startswith(STANDS_FOR) else process
