"""What the benchmarks of this folder share besides `hpc_galaxy.bench.measuring`: their options."""

from __future__ import annotations

import argparse
from pathlib import Path

from hpc_galaxy.bench.measuring import Log


def common_options(description: str | None) -> argparse.ArgumentParser:
    """Return a parser of the options that every benchmark has, to which it can add its own."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="end within a minute, with fewer repeats and sizes")
    parser.add_argument("--json", type=Path, help="write the figures, and what they were measured on, as JSON lines")
    return parser


def begin(description: str | None) -> tuple[bool, Log]:
    """Parse the options that every benchmark has; return whether it is to be quick, and where its figures go."""
    options = common_options(description).parse_args()
    return options.quick, Log(options.json)
