"""What a benchmark was measured on: two figures can only be compared where this says so."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import time
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any

from hpc_galaxy import __version__, processor
from hpc_galaxy.launch import find_mpirun

PACKAGES = ("numpy", "h5py", "torch", "mpi4py", "horovod")


def describe() -> dict[str, Any]:
    """Return this machine and what runs on it.

    Returns
    -------
    dict
        ``date``, ``host``, ``cpu``, ``cores`` (those this process may use), ``instructions``, ``memory_gb``, ``gpus``, ``threads``
        (``OMP_NUM_THREADS``), ``python``, ``mpi`` (the launcher), ``version``,
        ``commit`` (of a checkout) and the version of each of `PACKAGES`.
    """
    cpuinfo = _read("/proc/cpuinfo")
    kilobytes = re.match(r"\d+", processor.field(_read("/proc/meminfo"), "MemTotal"))
    return {
        "date": time.strftime("%Y-%m-%d"),
        "host": platform.node(),
        "cpu": processor.cpu_model(cpuinfo),
        "cores": len(os.sched_getaffinity(0)),
        "instructions": processor.instruction_sets(cpuinfo),
        "memory_gb": round(int(kilobytes[0]) / 1e6, 1) if kilobytes else None,
        "gpus": [line.split(" (")[0] for line in _ask("nvidia-smi", "-L").splitlines()],
        "threads": os.environ.get("OMP_NUM_THREADS", ""),
        "python": platform.python_version(),
        "mpi": next(iter(_ask(find_mpirun() or "mpirun", "--version").splitlines()), ""),
        "version": __version__,
        "commit": _commit(),
    } | {name: _package(name) for name in PACKAGES}


def kind(environment: dict[str, Any]) -> str:
    """Return a short name for machines like this one, such as ``2x-amd-epyc``, that can be a directory's."""
    name = re.sub(r"\((r|tm)\)|\bprocessor\b|\bcpu\b|@.*|\d+-core", " ", environment["cpu"].lower())
    words = re.findall(r"[a-z0-9]+", name)[:4]
    gpus = [f"{len(environment['gpus'])}gpu"] if environment["gpus"] else []
    return "-".join([f"{environment['cores']}x", *words, *gpus])


def sentence(environment: dict[str, Any]) -> str:
    """Return what was measured on, in a line."""
    parts = [f"hpc_galaxy {environment['version']}{environment['commit'] and ' (' + environment['commit'] + ')'}"]
    parts += [f"Python {environment['python']}", f"{environment['cores']} x {environment['cpu']}", environment["date"]]
    return ", ".join(parts)


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _package(name: str) -> str:
    try:
        return package_version(name)
    except PackageNotFoundError:
        return ""


def _commit() -> str:
    """Return the commit of the checkout that this file lies in, with a + where it has been changed; nothing for an installed package."""
    checkout = Path(__file__).resolve().parents[2]
    if not (checkout / ".git").exists():
        return ""
    commit = _ask("git", "-C", str(checkout), "rev-parse", "--short=9", "HEAD").strip()
    return commit + ("+" if _ask("git", "-C", str(checkout), "status", "--porcelain", "--untracked-files=no").strip() else "")


def _ask(*command: str) -> str:
    if shutil.which(command[0]) is None:
        return ""
    done = subprocess.run(command, text=True, capture_output=True, timeout=60)
    return done.stdout if done.returncode == 0 else ""
