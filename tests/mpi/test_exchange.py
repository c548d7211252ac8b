"""Records sent from every rank to every other arrive whole and in order."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
from patience import patience

from hpc_galaxy.world import World

PROGRAM = """
import numpy as np
from hpc_galaxy.world import detect, guard

world = detect()
with guard(world):
    dtype = np.dtype([("key", "<u8"), ("number", "<u4"), ("name", "S3")])
    parts = [np.full(world.rank + to, np.array((2**63 + 10 * world.rank + to, to, b"abc"), dtype)) for to in range(world.size)]
    got = world.exchange(parts)
    expected = [(2**63 + 10 * rank + world.rank, world.rank, b"abc") for rank in range(world.size) for _ in range(rank + world.rank)]
    assert got.dtype == dtype and [tuple(row) for row in got.tolist()] == expected
    assert len(world.exchange([np.empty(0, dtype)] * world.size)) == 0
    assert world.sum(np.array([len(got)])) == sum(rank + to for rank in range(world.size) for to in range(world.size))
    world.say("EXCHANGED")
"""


def test_three_ranks(mpirun: Callable[..., CompletedProcess[str]], tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    done = mpirun(3, [str(tmp_path / "program.py")])
    assert done.returncode == 0, done.stderr
    assert "EXCHANGED" in done.stdout


WAITING = """
import time
from hpc_galaxy.world import detect, guard

world = detect()
with guard(world):
    world.barrier()
    begun, used = time.monotonic(), time.process_time()
    if world.is_root:
        time.sleep(3)  # as if it wrote
    assert world.bcast(world.rank) == 0
    share = world.gather((time.process_time() - used) / (time.monotonic() - begun))
    world.say(f"SHARE {max(share[1:], default=1.0):.3f}")
"""


def test_a_rank_that_waits_leaves_its_processor_to_others(mpirun: Callable[..., CompletedProcess[str]], tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(WAITING)
    done = mpirun(2, [str(tmp_path / "program.py")])
    assert done.returncode == 0, done.stderr
    # It is 1 where it spins, 0.05 where it sleeps; on a virtual machine that is often stopped, and so slow, that time counts as used.
    assert float(done.stdout.split("SHARE ")[1]) < min(0.5, patience(0.3))


def test_one_process_keeps_its_records() -> None:
    records = np.arange(5)
    got = World().exchange([records])
    assert got.tolist() == [0, 1, 2, 3, 4]
    got[0] = 7
    assert records[0] == 0
