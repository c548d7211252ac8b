"""A small survey taken through the stages before training, once for all tests of this folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from helpers import SMALL_SURVEY, made_once

STAGES = ("survey", "inject", "extract", "split", "shuffled")


@pytest.fixture(scope="session")
def run_stages(mpirun: Callable[..., CompletedProcess[str]]) -> Callable[[Path, int], None]:
    """``run_stages(root, ranks)`` makes everything up to the shards in `root`, from ``root/run.toml``, which it writes."""

    def run(root: Path, ranks: int) -> None:
        (root / "run.toml").write_text(SMALL_SURVEY)
        done = mpirun(ranks, [str(Path(__file__).parent / "_stages_program.py"), str(root / "run.toml"), *STAGES])
        assert done.returncode == 0, done.stderr
        assert all(f"rank {rank} of {ranks}" in done.stdout for rank in range(ranks))

    return run


@pytest.fixture(scope="session")
def one_rank(run_stages: Callable[[Path, int], None], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything up to the shards, made by one rank."""
    return made_once(tmp_path_factory, "one_rank", lambda root: run_stages(root, 1))
