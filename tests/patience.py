"""How long a test waits before it calls something hung."""

from __future__ import annotations

import os

# Of a machine that is slower than a usual one, so many times: .ci/run measures it.
SLOWER = max(1.0, float(os.environ.get("HPC_GALAXY_PATIENCE", "1")))
# Between two questions to Slurm: each starts a process, for which those that work have to wait.
LOOK_SECONDS = 0.2 * SLOWER


def patience(seconds: float) -> float:
    """Return how long to wait here for what takes less than `seconds` on a usual machine."""
    return seconds * SLOWER
