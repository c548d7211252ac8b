"""Data-parallel training on real ranks: the same weights as one process, the same scores, and no hang when a rank fails."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import sample_shards
import torch
from helpers import mpi_environ, run_group

from hpc_galaxy.config import load_config
from hpc_galaxy.realism.report import report
from hpc_galaxy.training.checkpoint import checkpoint_path, read_checkpoint
from hpc_galaxy.training.metrics import TIMINGS
from hpc_galaxy.training.train import train
from hpc_galaxy.world import World

Mpirun = Callable[..., CompletedProcess[str]]
# 65 = 4 x 16 + 1: in the last step of an epoch rank 0 of 2 has no example. 4 epochs are 20 steps.
TRAIN, GLOBAL_BATCH, EPOCHS = 65, 16, 4
LAST = 5 * EPOCHS
PREEMPTED = 75
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards, and a training and a report made from them by one process."""
    root = tmp_path_factory.mktemp("parallel")
    sample_shards.make_shards(root / "shards", train=TRAIN, valid=150, test=150, contrast=1.3)
    config = sample_shards.make_config(root, f"train.batch_size={GLOBAL_BATCH}", f"train.epochs={EPOCHS}", "train.optimizer.name='sgd'")
    config.save(root / "config.toml")
    train(config, World(), False)
    report(config, World(), False)
    return root


def arguments(root: Path, ranks: int, backend: str, stop: int = 0, run: str = "") -> list[str]:
    """Train with `backend`, the global batch shared out among `ranks`, into ROOT/RUN."""
    overrides = [f"train.backend='{backend}'", f"train.batch_size={GLOBAL_BATCH // ranks}", f"paths.run='{root}/{run or backend}'"]
    return [str(Path(__file__).parent / "_training_program.py"), str(root), str(stop), *overrides]


def weights(directory: Path) -> torch.Tensor:
    model = read_checkpoint(checkpoint_path(directory, LAST))["model"]
    return torch.cat([tensor.flatten() for tensor in model.values()])


def metrics(directory: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("backend", ["horovod", "mpi", "ddp", "ddp under torchrun"])
def test_two_ranks_learn_the_weights_of_one(backend: str, root: Path, mpirun: Mpirun, require: Callable[[str], None]) -> None:
    if backend == "horovod":
        require("horovod")
    name, torchrun, _ = backend.partition(" under ")
    command = arguments(root, 2, name, run=backend)
    under_torchrun = [sys.executable, *TORCHRUN, *command]
    done = run_group(under_torchrun, timeout=120, env=mpi_environ()) if torchrun else mpirun(2, command)
    assert done.returncode == 0, done.stderr
    assert f"2 ranks x 1 thread, global batch {GLOBAL_BATCH}, 353,786 parameters" in done.stdout
    # One that is left when the interpreter ends kills the process now and then.
    assert done.stdout.count("threads of gloo's: []") == 2
    assert_learned_the_same(root / backend, root)
    assert json.loads((root / backend / "DONE").read_text())["backend"] == name
    assert_same_report(root)


def assert_learned_the_same(directory: Path, root: Path) -> None:
    """The weights are those that one process has learned."""
    start = torch.cat([parameter.detach().flatten() for parameter in initial_parameters()])
    difference, moved = (weights(directory) - weights(root / "run")).abs().max().item(), (weights(directory) - start).abs().max().item()
    print(f"{directory.name}: weights differ by {difference:.2g} at most, training moved them by up to {moved:.2g}")
    # Sums in another order differ in the last bits, by what is printed above. Adam, which divides small gradients by their own size,
    # would make so much of them that nothing could be told.
    assert difference < 2e-6 < 2e-3 < moved
    for name in ("train_loss", "train_accuracy", "gradient_norm", "valid_loss", "valid_accuracy", "valid_auc"):
        assert [row[name] for row in metrics(directory)] == pytest.approx([row[name] for row in metrics(root / "run")], rel=1e-5)


def test_a_signal_to_one_rank_stops_all_and_the_run_continues(root: Path, mpirun: Mpirun) -> None:
    """Stopped within an epoch; then continued by two ranks, to the bits of an undisturbed run, and by one, in the same order."""
    undisturbed = mpirun(2, arguments(root, 2, "mpi", run="undisturbed"))
    assert undisturbed.returncode == 0, undisturbed.stderr
    stopped = mpirun(2, arguments(root, 2, "mpi", stop=7, run="stopped"))
    assert stopped.returncode == PREEMPTED, stopped.stdout + stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert [path.name for path in (root / "stopped" / "checkpoints").iterdir() if int(path.stem[5:]) > 5] == ["step_00000007.pt"]
    assert not (root / "stopped" / "DONE").exists()
    shutil.copytree(root / "stopped", root / "one")

    again = mpirun(2, arguments(root, 2, "mpi", run="stopped"))
    assert again.returncode == 0, again.stderr
    assert "continuing from epoch 2, step 2 of 4 epochs" in again.stdout
    assert torch.equal(weights(root / "stopped"), weights(root / "undisturbed"))
    timeless = [name for name in metrics(root / "stopped")[0] if name not in TIMINGS]
    assert [[row[name] for name in timeless] for row in metrics(root / "stopped")] == [
        [row[name] for name in timeless] for row in metrics(root / "undisturbed")
    ]

    # One rank that holds no more at a time than each of the two did.
    config = load_config(root / "config.toml", [f"train.batch_size={GLOBAL_BATCH // 2}", f"paths.run='{root}/one'"])
    train(config, World(), False)
    assert_learned_the_same(root / "one", root)


def initial_parameters() -> list[torch.nn.Parameter]:
    from hpc_galaxy.training.model import GalaxyCNN

    torch.manual_seed(1)
    return list(GalaxyCNN().parameters())


def assert_same_report(root: Path) -> None:
    """Two ranks scored the test split with the network in ROOT/run to the same bytes as one."""
    for name in ("scores.csv", "report.json"):
        assert (root / "report-2" / name).read_bytes() == (root / "report" / name).read_bytes()


def test_one_rank_under_horovod_is_serial(root: Path, mpirun: Mpirun, require: Callable[[str], None]) -> None:
    require("horovod")
    done = mpirun(1, arguments(root, 1, "horovod", run="horovod-1"))
    assert done.returncode == 0, done.stderr
    assert "Horovod" in done.stdout
    assert torch.equal(weights(root / "horovod-1"), weights(root / "run"))
