"""What may happen to a long training, with real processes: how soon the job is gone, what it says, and that nothing is lost.

"Nothing lost": what was saved is still there; it is, to the last bit, what a run that nothing happened to has saved at the same steps,
weights and optimizer; and nobody holds the directory any more. The same command, started again, ends with that run's last weights (after
some of the faults: a start takes seconds).
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import sample_shards
import torch
from helpers import beside_python, mpi_environ, run_group
from patience import patience
from preforked import behind, preforked, python

from hpc_galaxy.config import load_config
from hpc_galaxy.errors import FormatError
from hpc_galaxy.files import lock
from hpc_galaxy.guarding.watchdog import STUCK
from hpc_galaxy.ledger import LOCK
from hpc_galaxy.training.board import Board
from hpc_galaxy.training.checkpoint import checkpoint_path, read_checkpoint
from hpc_galaxy.training.train import train
from hpc_galaxy.training.weights import load_weights
from hpc_galaxy.world import World

EXAMPLES, BATCH, EPOCHS = 160, 16, 5  # long enough to be struck in the middle, where 40 steps take half a second
LAST = EXAMPLES // BATCH * EPOCHS
BEFORE = 4  # steps that have been saved when something happens
PREEMPTED, GONE_WITHIN, SILENT = 75, patience(30), patience(5)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("faults") / "shards"
    sample_shards.make_shards(directory, train=EXAMPLES, valid=40, test=0, contrast=1.3, size=32)
    return directory


class Job:
    """``hpc-galaxy train`` on two ranks, in the background."""

    def __init__(self, shards: Path, run: Path, backend: str, *settings: str) -> None:
        self.run = run
        overrides = [f"paths.shards='{shards}'", f"paths.run='{run}'", f"train.epochs={EPOCHS}", f"train.batch_size={BATCH // 2}"]
        overrides += [f"train.backend='{backend}'", "train.threads=1", "train.saving.every_steps=1", "train.saving.keep=60"]
        overrides += ["train.saving.curve=false"]
        overrides += [f"train.watchdog.silent_seconds={SILENT}", *settings]
        options = [part for override in overrides for part in ("--set", override)]
        launcher = [str(beside_python("mpirun")), "--oversubscribe", "--bind-to", "none", "-n", "2"]
        own = shards.parent / f"mpi-{time.monotonic_ns()}"  # what a killed mpirun leaves behind
        own.mkdir(parents=True, exist_ok=True)
        self.process = subprocess.Popen(
            [*launcher, python(), "-m", "hpc_galaxy", "train", *options],
            env=mpi_environ({"TMPDIR": str(own)}) | preforked(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )

    def wait_for_step(self, steps: int) -> None:
        """Wait until a checkpoint of so many steps is there: the job is in the middle of its work."""
        deadline = time.monotonic() + patience(60)
        while not checkpoint_path(self.run, steps).exists():
            assert self.process.poll() is None, self.process.communicate()[0]
            assert time.monotonic() < deadline, "no checkpoint after 60 s"
            time.sleep(0.01)

    def rank(self, number: int) -> psutil.Process:
        """Return the process of a rank."""
        for child in psutil.Process(self.process.pid).children(recursive=True):
            if child.environ().get("OMPI_COMM_WORLD_RANK") == str(number) and "hpc_galaxy" in child.cmdline():
                return behind(child)
        raise AssertionError(f"no rank {number}")

    def end(self) -> tuple[int, str, float]:
        """Wait for the end; return exit code, everything said, and how long it took."""
        start = time.monotonic()
        try:
            said, _ = self.process.communicate(timeout=patience(60))
        except subprocess.TimeoutExpired:
            for process in [*psutil.Process(self.process.pid).children(recursive=True), self.process]:
                process.kill()
            pytest.fail(f"the job hangs; it said\n{self.process.communicate()[0]}", pytrace=False)
        return self.process.returncode, said, time.monotonic() - start


def weights(run: Path) -> torch.Tensor:
    model = read_checkpoint(checkpoint_path(run, LAST))["model"]
    return torch.cat([tensor.flatten() for tensor in model.values()])


@pytest.fixture(scope="module")
def undisturbed(shards: Path) -> Path:
    """A run that nothing happens to, with all its checkpoints. MPI and Horovod come to the same bits with two ranks."""
    job = Job(shards, shards.parent / "undisturbed" / "run", "mpi")
    code, said, _ = job.end()
    assert code == 0, said
    return job.run


def assert_nothing_lost(run: Path, steps: int, undisturbed: Path) -> None:
    """So many steps and more are saved, each as the undisturbed run has saved it; and another job may go on from there."""
    found = sorted((run / "checkpoints").glob("step_*.pt"))
    assert found[:steps] == [checkpoint_path(run, step) for step in range(1, steps + 1)] and not (run / "DONE").exists()
    for path in found:
        assert_alike(read_checkpoint(path), read_checkpoint(undisturbed / "checkpoints" / path.name))
    with lock(run / LOCK):  # refused while rank 0 is left
        pass


def assert_alike(content: dict[str, Any], expected: dict[str, Any]) -> None:
    """Two checkpoints hold the same, to the last bit, apart from times and rates in what was reported of the epochs."""
    assert content.keys() == expected.keys()
    for name in ("model", "optimizer"):
        torch.testing.assert_close(content[name], expected[name], rtol=0, atol=0)
    if (content["seen"], expected["seen"]) == (EXAMPLES, 0):
        return  # struck after an epoch's last step and before its validation, after which an undisturbed run writes this file once more
    for name in content.keys() - {"model", "optimizer", "rows"}:
        assert content[name] == expected[name], name
    reported = ("epoch", "steps", "train_loss", "train_accuracy", "valid_loss", "valid_accuracy", "valid_auc")
    assert [[row[name] for name in reported] for row in content["rows"]] == [[row[name] for name in reported] for row in expected["rows"]]


def assert_goes_on(shards: Path, run: Path, backend: str, undisturbed: Path) -> None:
    """The same command goes on from the last checkpoint, and comes to the same weights."""
    code, said, _ = Job(shards, run, backend).end()
    assert code == 0, said
    assert "training: continuing from epoch " in said
    assert (run / "DONE").exists() and not list((run / "checkpoints").glob(".partial*"))
    assert torch.equal(weights(run), weights(undisturbed))
    load_weights(run / "weights.safetensors")


def kill(number: int) -> Callable[[Job], None]:
    return lambda job: job.rank(number).kill()


def stop(number: int) -> Callable[[Job], None]:
    return lambda job: job.rank(number).suspend()


def signal_to_job(number: signal.Signals) -> Callable[[Job], None]:
    return lambda job: os.kill(job.process.pid, number)


def signal_to_rank(rank: int, number: signal.Signals) -> Callable[[Job], None]:
    return lambda job: job.rank(rank).send_signal(number)


# After which of them the job is started again, to its end.
GO_ON = ("SIGKILL of a rank", "USR1 to mpirun")
# What happens, through which backend, the exit code (None: any but 0), and what is said.
FAULTS = {
    "SIGKILL of a rank": (kill(1), "horovod", None, "signal 9"),
    "SIGSTOP of a rank": (stop(1), "horovod", STUCK, "hpc-galaxy: watchdog: rank 1 on "),
    "SIGSTOP of rank 0": (stop(0), "mpi", STUCK, "hpc-galaxy: watchdog: rank 0 on "),
    "USR1 to mpirun": (signal_to_job(signal.SIGUSR1), "horovod", PREEMPTED, "stopped by SIGUSR1 after epoch "),
    "USR2 to one rank": (signal_to_rank(1, signal.SIGUSR2), "mpi", PREEMPTED, "stopped by SIGUSR2 after epoch "),
    "TERM to one rank": (signal_to_rank(0, signal.SIGTERM), "ddp", PREEMPTED, "stopped by SIGTERM after epoch "),
    # Open MPI kills the ranks at once; what they have saved is whole.
    "TERM to mpirun": (signal_to_job(signal.SIGTERM), "mpi", None, ""),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_job_ends_soon_and_nothing_is_lost(
    fault: str, shards: Path, undisturbed: Path, tmp_path: Path, require: Callable[[str], None]
) -> None:
    happens, backend, expected, message = FAULTS[fault]
    if backend == "horovod":
        require("horovod")
    job = Job(shards, tmp_path / "run", backend)
    job.wait_for_step(BEFORE)
    happens(job)
    code, said, seconds = job.end()
    print(f"{fault}: gone after {seconds:.1f} s, exit code {code}")
    assert seconds < GONE_WITHIN
    assert code != 0 if expected is None else code == expected, said
    assert message in said
    assert "Traceback" not in said
    if backend != "ddp":  # whose sums are in another order
        assert_nothing_lost(tmp_path / "run", BEFORE, undisturbed)
    if fault in GO_ON:
        assert_goes_on(shards, tmp_path / "run", backend, undisturbed)


def test_a_damaged_newest_checkpoint_costs_one_interval(shards: Path, undisturbed: Path, tmp_path: Path) -> None:
    # What a run that was killed after ten steps leaves.
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    for step in range(1, 11):
        shutil.copy(checkpoint_path(undisturbed, step), tmp_path / "run" / "checkpoints")
    newest = sorted((tmp_path / "run" / "checkpoints").glob("step_*.pt"))[-1]
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    code, said, _ = Job(shards, tmp_path / "run", "mpi").end()
    assert code == 0, said
    assert f"{newest.name}: not a readable checkpoint (" in said and "trying the one before it" in said
    assert torch.equal(weights(tmp_path / "run"), weights(undisturbed))


def test_a_shard_that_is_missing_or_vanishes(shards: Path, tmp_path: Path) -> None:
    sample_shards.make_shards(tmp_path / "shards", train=600, valid=40, test=0, size=32)
    (tmp_path / "shards" / "xtrain_000001.npy").rename(tmp_path / "aside.npy")
    job = Job(tmp_path / "shards", tmp_path / "run", "mpi")
    code, said, seconds = job.end()
    assert code == 1 and seconds < GONE_WITHIN
    assert said.count("xtrain_000001.npy: cannot be found (No such file or directory), but manifest.json names it") == 1
    assert "Traceback" not in said and not (tmp_path / "run" / "checkpoints").exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 18 MB: room for four checkpoints."""
    if os.geteuid():
        pytest.skip("mounting a small file system needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=18m", "tmpfs", str(disk)], check=True)
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_full_disk(shards: Path, undisturbed: Path, small_disk: Path) -> None:
    run = small_disk / "run"
    code, said, seconds = Job(shards, run, "mpi").end()
    assert code == 1 and seconds < GONE_WITHIN
    assert "cannot be written (No space left on device); check permissions, quota and free space" in said
    assert "Traceback" not in said
    subprocess.run(["mount", "-o", "remount,size=400m", str(small_disk)], check=True)
    assert_nothing_lost(run, 1, undisturbed)
    assert_goes_on(shards, run, "mpi", undisturbed)


def test_a_directory_that_may_only_be_read(shards: Path, small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    job = Job(shards, small_disk / "run", "mpi")
    code, said, seconds = job.end()
    assert code == 1 and seconds < GONE_WITHIN
    assert said.count("cannot be written (Read-only file system); check permissions") == 1
    assert "Traceback" not in said


EARLY = """
import os, signal, sys, time
if "EARLY" not in os.environ:
    # As the job script does: trap '' USR1; and then the signal comes before there is a Python.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    os.kill(os.getpid(), signal.SIGUSR1)
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, "EARLY": "1"})
from hpc_galaxy import cli
from hpc_galaxy.training import train

prepare = train.prepare_node
def before_torch(*arguments):
    assert "torch" not in sys.modules
    os.kill(os.getpid(), signal.SIGUSR1)
    return prepare(*arguments)
train.prepare_node = before_torch
cli.main()
"""


def test_a_signal_before_the_training_begins_is_not_lost(shards: Path, tmp_path: Path) -> None:
    """Importing torch takes seconds, and opening the data more: a signal that comes meanwhile is obeyed after the first step."""
    settings = [f"paths.shards='{shards}'", f"paths.run='{tmp_path}/run'", "train.backend='serial'", "train.threads=1"]
    settings += [f"train.batch_size={BATCH}", f"train.epochs={EPOCHS}"]
    options = [part for setting in settings for part in ("--set", setting)]
    done = run_group([sys.executable, "-c", EARLY, "train", *options], timeout=60, env=mpi_environ())
    assert done.returncode == PREEMPTED, done.stderr
    assert "train: stopped by SIGUSR1 after epoch 1, step 1, saved as " in done.stdout
    assert checkpoint_path(tmp_path / "run", 1).exists()


def forge(path: Path, **changes: Any) -> None:
    """Change what a checkpoint holds."""
    torch.save({**torch.load(path, weights_only=True), **changes}, path)


def test_foreign_checkpoints_and_markers_cost_one_interval(shards: Path, undisturbed: Path, tmp_path: Path) -> None:
    """Of the right version and fingerprint, and yet not what a training writes; in one process, which sums in another order."""
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    for step in range(LAST - 7, LAST + 1):
        shutil.copy(checkpoint_path(undisturbed, step), tmp_path / "run" / "checkpoints")
    wrong: dict[str, Any] = {"fingerprint": None, "epoch": "3", "seen": -1, "rows": 5, "totals": [[1.0], [2.0, 3.0]], "model": "x"}
    for number, (name, value) in enumerate(wrong.items()):
        path = checkpoint_path(tmp_path / "run", LAST - number)
        forge(path, **{name: value})
        with pytest.raises(FormatError, match=r"not a readable checkpoint \("):
            read_checkpoint(path)
    for content in (torch.zeros(3), [1, 2]):
        torch.save(content, tmp_path / "other.pt")
        with pytest.raises(FormatError, match=r"not a readable checkpoint \(holds a "):
            read_checkpoint(tmp_path / "other.pt")
    (tmp_path / "other.pt").write_bytes(pickle.dumps(Path("x")))
    with pytest.raises(FormatError, match=r"not a readable checkpoint \("):
        read_checkpoint(tmp_path / "other.pt")
    (tmp_path / "run" / "DONE").write_text('{"epochs": "all", "weights": "../../../etc/passwd"}')
    # The settings of `Job`, which decide the fingerprint.
    settings = [f"paths.shards='{shards}'", f"paths.run='{tmp_path}/run'", f"train.epochs={EPOCHS}", f"train.batch_size={BATCH // 2}"]
    settings += ["train.backend='serial'", "train.threads=1"]
    config = load_config(None, settings)
    train(config, World(), False)
    assert torch.allclose(weights(tmp_path / "run"), weights(undisturbed), atol=1e-4)
    assert json.loads((tmp_path / "run" / "DONE").read_text())["epochs"] == EPOCHS
    newest = checkpoint_path(tmp_path / "run", LAST)
    forge(newest, epoch=EPOCHS, model={name: tensor[:1] for name, tensor in read_checkpoint(newest)["model"].items()})
    with pytest.raises(FormatError, match=rf"the checkpoint of step {LAST}: does not fit this network and optimizer \("):
        train(config, World(), False)


def test_tensorboard_that_cannot_write_does_not_hold_up_the_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "there").write_text("a file")
    board = Board(tmp_path / "there", 0)
    for step in range(100):
        board.add("loss", 1.0, step)
    board.close()
    full = Board(tmp_path / "run", 0)
    os.dup2(os.open("/dev/full", os.O_WRONLY), full._file._writer.fileno())
    for step in range(10_000):
        full.add("loss", 1.0, step)
    full.close()
    said = capsys.readouterr().err.splitlines()
    assert [line.partition(" cannot be written ")[2] for line in said] == [
        "(File exists); the training goes on without TensorBoard",
        "(No space left on device); the training goes on without TensorBoard",
    ]
