"""Fixtures of every test; what they return lives in helpers.py, from which test modules may import it as well."""

from __future__ import annotations

from collections.abc import Callable
from subprocess import CompletedProcess

import helpers
import pytest


@pytest.fixture(scope="session")
def mpirun() -> Callable[..., CompletedProcess[str]]:
    """``mpirun(ranks, argv, *, timeout=120, env=None)`` runs ``python *argv`` on so many ranks; a hang fails the test."""
    return helpers.run_ranks


@pytest.fixture(scope="session")
def require() -> Callable[[str], None]:
    """``require(name)`` skips the test when this machine lacks ``horovod``, ``slurm``, ``mpich``, ``browser`` or ``compiler``."""
    return helpers.require
