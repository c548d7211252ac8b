"""Data-parallel training on real ranks: the same weights as one process, the same scores, and no hang when a rank fails."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import torch
from mpi import _training_program as program

from hpc_galaxy.realism.report import report
from hpc_galaxy.training.checkpoint import checkpoint_path, read_checkpoint
from hpc_galaxy.training.train import train
from hpc_galaxy.world import World

Mpirun = Callable[..., CompletedProcess[str]]
# 65 = 4 x 16 + 1: in the last step of an epoch rank 0 of 2 has no example.
TRAIN, GLOBAL_BATCH = 65, 16


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards, and a training and a report made from them by one process."""
    root = tmp_path_factory.mktemp("parallel")
    program.make_shards(root / "shards", train=TRAIN, valid=150, test=150, contrast=1.3)
    config = program.make_config(root, f"train.batch_size={GLOBAL_BATCH}")
    train(config, World(), False)
    report(config, World(), False)
    return root


def weights(run: Path) -> torch.Tensor:
    model = read_checkpoint(checkpoint_path(run, 2))["model"]
    return torch.cat([tensor.flatten() for tensor in model.values()])


def metrics(run: Path) -> dict[str, float]:
    return json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])


@pytest.mark.parametrize("backend", ["horovod", "ddp"])
def test_two_ranks_learn_the_weights_of_one(backend: str, root: Path, mpirun: Mpirun, require: Callable[[str], None]) -> None:
    if backend == "horovod":
        require("horovod")
    done = mpirun(2, [program.__file__, "stages", str(root), backend, str(GLOBAL_BATCH // 2)])
    assert done.returncode == 0, done.stderr
    assert f"2 ranks x 1 thread, global batch {GLOBAL_BATCH}, 353,786 parameters" in done.stdout
    run = root / f"{backend}-2"
    start = torch.cat([parameter.detach().flatten() for parameter in initial_parameters()])
    difference, moved = (weights(run) - weights(root / "run")).abs().max().item(), (weights(run) - start).abs().max().item()
    print(f"{backend}: weights differ by {difference:.2g} at most, training moved them by up to {moved:.2g}")
    # Sums in another order differ in the last bits; ten steps of Adam make 1e-6 to 1e-5 of it (measured), and moves of 1e-2.
    assert difference < 1e-4 < 1e-3 < moved
    for name in ("train_loss", "train_accuracy", "valid_loss", "valid_accuracy", "valid_auc"):
        assert metrics(run)[name] == pytest.approx(metrics(root / "run")[name], rel=1e-3)
    assert json.loads((run / "DONE").read_text())["backend"] == backend
    assert_same_report(root)


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
    done = mpirun(1, [program.__file__, "stages", str(root), "horovod", str(GLOBAL_BATCH)])
    assert done.returncode == 0, done.stderr
    assert "Horovod" in done.stdout
    assert torch.equal(weights(root / "horovod-1"), weights(root / "run"))


def test_an_exception_on_one_rank_ends_the_job(tmp_path: Path, mpirun: Mpirun) -> None:
    program.make_shards(tmp_path / "shards")
    done = mpirun(2, [program.__file__, "fail", str(tmp_path)], timeout=60)
    assert time.time() - float((tmp_path / "raised").read_text()) < 10
    assert done.returncode != 0
    assert "rank 1: Traceback" in done.stderr
    assert "rank 1: RuntimeError: a bug on rank 1" in done.stderr
    assert not (tmp_path / "run" / "DONE").exists()
