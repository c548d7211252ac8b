"""Python's garbage collector is spared what comes to nothing, and otherwise left as it was."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest

from hpc_galaxy.collector import uncollected

PROGRAM = """
import gc
from hpc_galaxy.world import detect
detect(environ={})
class Cycle:
    def __init__(self, name):
        self.name, self.itself = name, self
    def __del__(self):
        print(self.name)
for name in ("early", "late"):
    Cycle(name)
    if name == "early":
        gc.collect()
print(gc.get_threshold()[0])
"""


def test_the_collector_is_left_as_it_was() -> None:
    with pytest.raises(KeyError), uncollected(), uncollected():
        assert not gc.isenabled()
        raise KeyError
    assert gc.isenabled()
    gc.disable()
    try:
        with uncollected():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_a_rank_collects_seldom_and_not_at_its_end() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["early", "20000"]
