"""The same numbers as scipy.stats gives, far into the tails, and a start that does not read what it does not need."""

from __future__ import annotations

import os
import sys

import numpy as np
import pytest
from helpers import run_group
from scipy import stats

from hpc_galaxy.chance import midranks, normal_from_tail, normal_quantile, student_quantile, student_tail

SHARES = np.array([1e-300, 1e-12, 0.025, 0.5, 0.975, 1 - 1e-12])


def test_normal() -> None:
    np.testing.assert_allclose(normal_quantile(SHARES), stats.norm.ppf(SHARES), rtol=1e-14)
    np.testing.assert_allclose(normal_from_tail(SHARES), stats.norm.isf(SHARES), rtol=1e-14)


@pytest.mark.parametrize("freedom", [1, 2, 5, 24, 1000])
def test_student(freedom: int) -> None:
    inner = SHARES[1:]
    np.testing.assert_allclose(student_quantile(inner, freedom), stats.t.ppf(inner, freedom), rtol=1e-12)
    values = np.array([-5.0, 0.0, 0.3, 2.0, 40.0])
    np.testing.assert_allclose(student_tail(values, freedom), stats.t.sf(values, freedom), rtol=1e-12)
    assert np.all(np.diff(student_tail(values, freedom)) < 0)


@pytest.mark.parametrize("different", [1, 3, 50, 10**6])
def test_midranks(different: int) -> None:
    values = np.random.default_rng(1).integers(0, different, 200) / 7

    assert np.array_equal(midranks(values), stats.rankdata(values))


@pytest.mark.parametrize("module", ["cutouts.extract", "splits.split", "splits.audit.audit", "realism.report"])
def test_a_stage_starts_without_what_only_some_of_it_needs(module: str) -> None:
    """Thousands of ranks read a stage's imports from one file system, at the same time."""
    program = f"import sys, hpc_galaxy.{module}; print([name for name in {NOT_AT_ONCE} if name in sys.modules])"
    ended = run_group([sys.executable, "-c", program], timeout=60, env=os.environ)

    assert (ended.stdout, ended.returncode) == ("[]\n", 0), ended.stderr


NOT_AT_ONCE = ("scipy.stats", "sklearn", "astropy", "torch._dynamo", "mpi4py.MPI")
