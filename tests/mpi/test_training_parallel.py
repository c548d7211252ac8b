"""Data-parallel training on real ranks: the same weights as one process, the same scores, and no hang when a rank fails."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import sample_shards
import torch
from helpers import run_python

from hpc_galaxy.config import load_config
from hpc_galaxy.realism.report import report
from hpc_galaxy.training.checkpoint import checkpoint_path, read_checkpoint
from hpc_galaxy.training.metrics import TIMINGS
from hpc_galaxy.training.train import train
from hpc_galaxy.training.weights import load_weights
from hpc_galaxy.world import World

Mpirun = Callable[..., CompletedProcess[str]]
# 65 = 4 x 16 + 1: in the last step of an epoch rank 0 of 2 has no example. 4 epochs are 20 steps.
TRAIN, GLOBAL_BATCH, EPOCHS = 65, 16, 4
LAST = 5 * EPOCHS
PREEMPTED = 75
PROGRAM = str(Path(__file__).parent / "_training_program.py")
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", PROGRAM]
# Where each backend's run is, below what its job was told: ranks of mpirun train with one after another, those of torchrun with one.
BACKENDS = {"horovod": "mpirun/horovod", "mpi": "mpirun/mpi", "ddp": "mpirun/ddp", "ddp under torchrun": "torchrun/ddp"}
BY_MPIRUN = ",".join(["mpi", "ddp", *(["horovod"] if importlib.util.find_spec("horovod") else [])])
Jobs = dict[str, CompletedProcess[str]]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards, and a training and a report made from them by one process."""
    root = tmp_path_factory.mktemp("parallel")
    sample_shards.make_shards(root / "shards", train=TRAIN, valid=150, test=150, contrast=1.3, size=32)
    config = sample_shards.make_config(root, f"train.batch_size={GLOBAL_BATCH}", f"train.epochs={EPOCHS}", "train.optimizer.name='sgd'")
    config.save(root / "config.toml")
    train(config, World(), False)
    report(config, World(), False)
    return root


def arguments(root: Path, run: str, backends: str, *overrides: str, stop: int = 0, ranks: int = 2) -> list[str]:
    """Train with `backends`, the global batch shared out among `ranks`, into ROOT/RUN/BACKEND."""
    return [str(root), run, str(stop), backends, f"train.batch_size={GLOBAL_BATCH // ranks}", *overrides]


def both_launchers(root: Path, mpirun: Mpirun, name: str, *overrides: str, stop: int = 0) -> Jobs:
    """Train with all backends, into ``ROOT/NAME/LAUNCHER/BACKEND``; return what each launcher's job has said."""
    by_mpirun = mpirun(2, [PROGRAM, *arguments(root, f"{name}/mpirun", BY_MPIRUN, *overrides, stop=stop)])
    by_torchrun = arguments(root, f"{name}/torchrun", "ddp", *overrides, stop=stop)
    return {"mpirun": by_mpirun, "torchrun": run_python([*TORCHRUN, *by_torchrun], timeout=120)}


@pytest.fixture(scope="module")
def learned(root: Path, mpirun: Mpirun) -> Jobs:
    """All epochs, with every backend."""
    return both_launchers(root, mpirun, "learned")


def weights(directory: Path) -> torch.Tensor:
    model = read_checkpoint(checkpoint_path(directory, LAST))["model"]
    return torch.cat([tensor.flatten() for tensor in model.values()])


def metrics(directory: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("backend", BACKENDS)
def test_two_ranks_learn_the_weights_of_one(backend: str, root: Path, learned: Jobs, require: Callable[[str], None]) -> None:
    if backend == "horovod":
        require("horovod")
    launcher, name = BACKENDS[backend].split("/")
    done = learned[launcher]
    assert done.returncode == 0, done.stderr
    trainings = len(BY_MPIRUN.split(",")) if launcher == "mpirun" else 1
    assert done.stdout.count(f"2 ranks x 1 thread, global batch {GLOBAL_BATCH}, 187,898 parameters") == trainings
    # One that is left when the interpreter ends kills the process now and then.
    assert done.stdout.count("threads of gloo's: []") == 2
    run = root / "learned" / BACKENDS[backend]
    assert_learned_the_same(run, root)
    assert json.loads((run / "DONE").read_text())["backend"] == name


def assert_learned_the_same(directory: Path, root: Path) -> None:
    """The weights are those that one process has learned."""
    start = torch.cat([parameter.detach().flatten() for parameter in initial_parameters()])
    difference, moved = (weights(directory) - weights(root / "run")).abs().max().item(), (weights(directory) - start).abs().max().item()
    print(f"{directory}: weights differ by {difference:.2g} at most, training moved them by up to {moved:.2g}")
    # Sums in another order differ in the last bits, by what is printed above. Adam, which divides small gradients by their own size,
    # would make so much of them that nothing could be told.
    assert difference < 2e-6 < 2e-3 < moved
    for name in ("train_loss", "train_accuracy", "gradient_norm", "valid_loss", "valid_accuracy", "valid_auc"):
        assert [row[name] for row in metrics(directory)] == pytest.approx([row[name] for row in metrics(root / "run")], rel=1e-5)


def test_a_signal_to_one_rank_stops_all_and_the_run_continues(root: Path, learned: Jobs, mpirun: Mpirun) -> None:
    """Stopped within an epoch; then continued by two ranks, to the bits of an undisturbed run, and by one, in the same order."""
    undisturbed, run = root / "learned" / "mpirun" / "mpi", root / "stopped" / "mpi"
    stopped = mpirun(2, [PROGRAM, *arguments(root, "stopped", "mpi", stop=7)])
    assert stopped.returncode == PREEMPTED, stopped.stdout + stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert [path.name for path in (run / "checkpoints").iterdir() if int(path.stem[5:]) > 5] == ["step_00000007.pt"]
    assert not (run / "DONE").exists()
    shutil.copytree(run, root / "one")

    again = mpirun(2, [PROGRAM, *arguments(root, "stopped", "mpi")])
    assert again.returncode == 0, again.stderr
    assert "continuing from epoch 2, step 2 of 4 epochs" in again.stdout
    assert torch.equal(weights(run), weights(undisturbed))
    timeless = [name for name in metrics(run)[0] if name not in TIMINGS]
    assert [[row[name] for name in timeless] for row in metrics(run)] == [[row[name] for name in timeless] for row in metrics(undisturbed)]

    # One rank that holds no more at a time than each of the two did.
    config = load_config(root / "config.toml", [f"train.batch_size={GLOBAL_BATCH // 2}", f"paths.run='{root}/one'"])
    train(config, World(), False)
    assert_learned_the_same(root / "one", root)


@pytest.fixture(scope="module")
def two_networks(root: Path, mpirun: Mpirun) -> tuple[Jobs, Jobs]:
    """One job that trains two networks, stopped in the second one's second step, and started again: what each has said."""
    stopped = both_launchers(root, mpirun, "two", "train.networks=2", "train.epochs=1", stop=7)
    shutil.copytree(root / "two", root / "two stopped")
    return stopped, both_launchers(root, mpirun, "two", "train.networks=2", "train.epochs=1")


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_job_trains_two_networks(backend: str, root: Path, two_networks: tuple[Jobs, Jobs], require: Callable[[str], None]) -> None:
    """The second is what it would be by itself: backend, watchdog and signals begin anew in the same processes."""
    if backend == "horovod":
        require("horovod")
    launcher = BACKENDS[backend].split("/")[0]
    stopped, again = (jobs[launcher] for jobs in two_networks)
    # torchrun has an exit code of its own.
    assert stopped.returncode == (1 if launcher == "torchrun" else PREEMPTED), stopped.stdout + stopped.stderr
    run = root / "two stopped" / BACKENDS[backend]
    assert (run / "DONE").exists() and not (run / "network_2" / "DONE").exists()
    assert [path.name for path in (run / "network_2" / "checkpoints").iterdir()] == ["step_00000002.pt"]

    assert again.returncode == 0, again.stdout + again.stderr
    trainings = len(BY_MPIRUN.split(",")) if launcher == "mpirun" else 1
    for said in ("done already", "network 2 of 2 (seed 2)", "continuing from epoch 1, step 2 of 1 epochs"):
        assert again.stdout.count(said) == trainings, said
    run = root / "two" / BACKENDS[backend]
    for seed, directory in ((1, run), (2, run / "network_2")):
        assert_close(directory, by_itself(root, seed))


def by_itself(root: Path, seed: int) -> Path:
    """Train the network of such a seed for one epoch in this process, unless that has been done."""
    run = root / f"alone-{seed}"
    train(load_config(root / "config.toml", [f"seed={seed}", "train.epochs=1", f"paths.run='{run}'"]), World(), False)
    return run


def assert_close(one: Path, other: Path) -> None:
    first, second = (load_weights(directory / "weights.safetensors").state for directory in (one, other))
    assert max((first[name] - tensor).abs().max().item() for name, tensor in second.items()) < 2e-6


def initial_parameters() -> list[torch.nn.Parameter]:
    from hpc_galaxy.training.model import GalaxyCNN

    torch.manual_seed(1)
    return list(GalaxyCNN(size=32).parameters())


def test_two_ranks_score_to_the_same_bytes_as_one(root: Path, mpirun: Mpirun) -> None:
    done = mpirun(2, [PROGRAM, str(root), "report"])
    assert done.returncode == 0, done.stderr
    for name in ("scores.csv", "report.json"):
        assert (root / "report-2" / name).read_bytes() == (root / "report" / name).read_bytes()


def test_one_rank_under_horovod_is_serial(root: Path, mpirun: Mpirun, require: Callable[[str], None]) -> None:
    require("horovod")
    done = mpirun(1, [PROGRAM, *arguments(root, "alone", "horovod", ranks=1)])
    assert done.returncode == 0, done.stderr
    assert "Horovod" in done.stdout
    assert torch.equal(weights(root / "alone" / "horovod"), weights(root / "run"))
