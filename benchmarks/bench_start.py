"""What a process that imports torch costs from its start to its end: with Python's own garbage collection and end, and as a rank has it.

Processor time of child processes, which run in turn.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys

from common import begin

from hpc_galaxy.bench.measuring import with_unit

OWN, SPARED, ENDED = "Python's own", "collector spared", "and ended at once"
SPARE = "from hpc_galaxy.collector import spare_the_collector; spare_the_collector()"
PROGRAMS = {
    OWN: "import torch",
    SPARED: f"{SPARE}; import torch",
    ENDED: f"{SPARE}; import torch; from hpc_galaxy.ending import end_with; end_with(int)",
}


def processor_seconds(program: str) -> float:
    """Return user and system time of a Python that runs `program`."""
    before = os.times()
    subprocess.run([sys.executable, "-c", program], env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def main() -> None:
    """Measure and print."""
    quick, log = begin(__doc__)
    with log:
        seconds: dict[str, list[float]] = {side: [] for side in PROGRAMS}
        for _ in range(3 if quick else 9):
            for side, program in PROGRAMS.items():
                seconds[side].append(processor_seconds(program))
        found = log.record("from the start to the end of a process that imports torch", "process", seconds, dict.fromkeys(PROGRAMS, 1.0))
        for side, one in found.items():
            print(f"  {side:{len(ENDED)}} {with_unit(one.seconds)} of processor time", flush=True)
        log.ratio("start_and_end_with_torch", statistics.median(seconds[OWN]) / statistics.median(seconds[ENDED]), "1.2")


if __name__ == "__main__":
    main()
