"""Fixtures of every test; what they return lives in helpers.py, from which test modules may import it as well."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Generator
from pathlib import Path
from subprocess import CompletedProcess

import helpers
import pytest
from preforked import ROOT, preforked, python, start

# In this order, and then all others. What mostly waits, for a queue's limit or a lost node, begins beside what computes.
FIRST = ("slurm/test_requeue.py", "faults/", "slurm/test_slurm_faults.py")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Let the garbage collector rest while modules are imported, and pass them over afterwards: they stay."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


class AtOnce:
    """Shows a failure when it happens; a run that some limit ends has then said what it found."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        terminal = self.config.pluginmanager.get_plugin("terminalreporter")
        if report.failed and terminal is not None:
            terminal.write_line("")
            terminal.section(f"{report.nodeid}, {report.when}, after {report.duration:.0f} s", sep="_", red=True)
            terminal.write_line(report.longreprtext)


def pytest_configure(config: pytest.Config) -> None:
    """Let the process that gathers all workers' reports show failures at once, and start what they all fork their ranks from."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        return
    config.pluginmanager.register(AtOnce(config))
    if config.getoption("numprocesses", None) and (root := start()):
        os.environ[ROOT] = str(root)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Bring the tests into their order, see `FIRST`."""

    def place(item: pytest.Item) -> int:
        path = item.path.relative_to(Path(__file__).parent).as_posix()
        return next((number for number, beginning in enumerate(FIRST) if path.startswith(beginning)), len(FIRST))

    items.sort(key=place)


@pytest.fixture(scope="session")
def mpirun() -> Callable[..., CompletedProcess[str]]:
    """``mpirun(ranks, argv, *, timeout=120, env=None)`` runs ``python *argv`` on so many ranks; a hang fails the test."""
    return helpers.run_ranks


@pytest.fixture
def preforked_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks that a function of the package starts here are preforked."""
    monkeypatch.setattr("sys.executable", python())
    for name, value in preforked().items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="session")
def require() -> Callable[[str], None]:
    """``require(name)`` skips the test when this machine lacks ``horovod``, ``slurm``, ``mpich``, ``browser`` or ``compiler``."""
    return helpers.require


@pytest.fixture(params=["compiled", "numpy"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How stamps become what the network sees: by the package's C parts, and by numpy without them."""
    from hpc_galaxy.training.data import inputs

    if request.param == "compiled":
        assert inputs.COMPILED, "the package's C parts were not compiled"
    else:
        monkeypatch.setattr(inputs, "COMPILED", False)
    return str(request.param)
