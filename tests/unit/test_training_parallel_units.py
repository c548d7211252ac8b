"""Averaging gradients, as far as one process can tell: memory, choices, refusals. For ranks together see tests/mpi/test_backends.py."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from types import ModuleType

import pytest
import torch
from torch import nn

from hpc_galaxy.config import Train
from hpc_galaxy.config.training import Horovod
from hpc_galaxy.errors import ConfigError, LaunchError
from hpc_galaxy.training.model import GalaxyCNN
from hpc_galaxy.training.parallel import choose
from hpc_galaxy.training.parallel.base import DataParallel, Serial
from hpc_galaxy.training.parallel.choose import choose_backend, pick_device
from hpc_galaxy.training.parallel.flat import FlatGradients, FlatMpi, share_parameters
from hpc_galaxy.world import World

CPU = torch.device("cpu")


@pytest.fixture(params=[torch.contiguous_format, torch.channels_last], ids=["default", "channels last"])
def model(request: pytest.FixtureRequest) -> nn.Module:
    """A small network whose convolutions lie one way or the other, one of them with kernels of one pixel."""
    torch.manual_seed(2)
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 1), nn.Flatten(), nn.Linear(5 * 36, 2))
    return layers.to(memory_format=request.param)


def backward(model: nn.Module) -> None:
    torch.manual_seed(3)
    model(torch.randn(2, 3, 8, 8)).square().sum().backward()


def gradients(model: nn.Module) -> list[torch.Tensor]:
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


def test_the_backward_pass_writes_into_the_buffer(model: nn.Module) -> None:
    backward(model)
    expected = [gradient.clone() for gradient in gradients(model)]
    flat = FlatGradients(model)
    for passes in (1, 2, 1):
        flat.zero()
        assert not flat.buffer.any()
        for _ in range(passes):
            backward(model)
        storage = flat.buffer.untyped_storage().data_ptr()
        for parameter, gradient, one in zip(flat.parameters, gradients(model), expected, strict=True):
            assert gradient.untyped_storage().data_ptr() == storage
            assert gradient.stride() == parameter.stride()
            torch.testing.assert_close(gradient, passes * one)
    assert flat.buffer.numel() == sum(parameter.numel() for parameter in model.parameters())


def test_a_part_of_the_buffer_is_its_parameter_s_gradient(model: nn.Module) -> None:
    flat = FlatGradients(model)
    flat.zero()
    for number, part in enumerate(flat.parts):
        part += number
    for number, (gradient, part) in enumerate(zip(gradients(model), flat.parts, strict=True)):
        assert part.is_contiguous()
        assert gradient.shape == flat.parameters[number].shape
        assert (gradient == number).all()


def test_forgotten_gradients_come_back_to_the_buffer(model: nn.Module) -> None:
    flat = FlatGradients(model)
    model.zero_grad(set_to_none=True)
    flat.zero()
    backward(model)
    assert flat.buffer.any()


def test_frozen_parameters_have_no_part(model: nn.Module) -> None:
    frozen = next(model.parameters()).requires_grad_(False)
    assert FlatGradients(model).buffer.numel() == sum(parameter.numel() for parameter in model.parameters()) - frozen.numel()


class Sharing(World):
    """Rank 1 of two, of which rank 0 sends `state`, and has the same gradients but three times as large."""

    state: dict[str, object]

    def bcast(self, value: object) -> object:
        assert value is None
        return self.state

    def sum_in_place(self, values: object) -> None:
        values *= 4


def test_parameters_are_those_of_rank_0(model: nn.Module) -> None:
    strides = [parameter.stride() for parameter in model.parameters()]
    Sharing.state = {name: tensor.numpy() + 1 for name, tensor in model.state_dict().items()}
    expected = {name: tensor + 1 for name, tensor in model.state_dict().items()}
    share_parameters(model, Sharing(1, 2))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, expected[name])
    assert [parameter.stride() for parameter in model.parameters()] == strides


def test_mpi_averages_over_the_ranks(model: nn.Module) -> None:
    backward(model)
    expected = [2 * gradient for gradient in gradients(model)]
    Sharing.state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    parallel = choose_backend(Train(backend="mpi"), Sharing(1, 2), CPU)
    assert parallel.prepare(model) is model
    parallel.zero_gradients()
    with parallel.backward(last=True):
        backward(model)
    parallel.average_gradients()
    for gradient, mean in zip(gradients(model), expected, strict=True):
        torch.testing.assert_close(gradient, mean)


@pytest.mark.parametrize("parallel", [Serial(), FlatMpi(World(), CPU)], ids=lambda parallel: parallel.name)
def test_one_process_keeps_its_gradients(parallel: DataParallel) -> None:
    model = GalaxyCNN(1, 8)
    wrapped = parallel.prepare(model)
    for _ in range(2):
        parallel.zero_gradients()
        for last in (False, True):
            with parallel.backward(last):
                wrapped(torch.ones(1, 1, 8, 8)).sum().backward()
        parallel.average_gradients()
    assert model.layers[-1].bias.grad.tolist() == [2, 2]
    parallel.close()


def test_mpi_is_for_cpus() -> None:
    with pytest.raises(ConfigError, match="'mpi' on device cuda, expected the CPU; use 'horovod' or 'ddp'"):
        choose_backend(Train(backend="mpi"), World(0, 2), torch.device("cuda", 0))


@pytest.mark.parametrize("asked", ["horovod", "mpi"])
def test_torchrun_has_no_mpi(asked: str) -> None:
    with pytest.raises(LaunchError, match=f"'{asked}' under torchrun, expected 'ddp'; start with mpirun or srun"):
        choose_backend(Train(backend=asked), World(0, 2, launcher="torchrun"), CPU)


def test_auto_under_torchrun_is_ddp(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    monkeypatch.setattr(choose, "DDP", lambda *arguments: started.append(arguments) or Serial())
    monkeypatch.setattr(choose, "_find_horovod", lambda device: pytest.fail("looked for Horovod"))
    world = World(0, 2, launcher="torchrun")
    choose_backend(Train(), world, CPU)
    assert started == [(world, CPU, Train().ddp)]
    assert choose_backend(Train(), World(0, 1, launcher="torchrun"), CPU).name == "serial"


def test_horovod_without_gpus_is_not_for_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("hpc_galaxy.training.parallel.horovod_backend")
    module.knows_gpus = lambda: False
    monkeypatch.setitem(sys.modules, module.__name__, module)
    with pytest.raises(ConfigError, match="'horovod', but Horovod was built without GPUs; 'make horovod' builds it"):
        choose_backend(Train(backend="horovod"), World(0, 2), torch.device("cuda", 0))


def test_each_rank_of_a_node_has_its_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    assert torch.cuda.is_available() or pick_device(World()) == CPU
    chosen: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    assert pick_device(World(6, 8, local_rank=2, local_size=4)) == torch.device("cuda", 2)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)  # --gpus-per-task=1
    assert pick_device(World(6, 8, local_rank=2, local_size=4)) == torch.device("cuda", 0)
    assert chosen == [torch.device("cuda", 2), torch.device("cuda", 0)]


def test_horovod_is_told_its_settings_before_it_starts(require: Callable[[str], None]) -> None:
    require("horovod")
    from hpc_galaxy.training.parallel.horovod_backend import environment

    default = environment(Horovod())
    assert default["HOROVOD_STALL_SHUTDOWN_TIME_SECONDS"] == "900"
    assert "HOROVOD_CYCLE_TIME" not in default
    asked = environment(Horovod(cycle_time_ms=2.5, fusion_mb=0.5))
    assert {name: asked[name] for name in asked.keys() - default.keys()} == {
        "HOROVOD_CYCLE_TIME": "2.5",
        "HOROVOD_FUSION_THRESHOLD": str(2**19),
    }


@pytest.fixture
def hvd(monkeypatch: pytest.MonkeyPatch, require: Callable[[str], None]) -> Iterator[ModuleType]:
    """Horovod, as it would be after it has started as rank 0 of 1; it is not."""
    require("horovod")
    from hpc_galaxy.training.parallel import horovod_backend

    for name, value in {"init": None, "rank": 0, "size": 1}.items():
        monkeypatch.setattr(horovod_backend.hvd, name, lambda value=value: value)
    for name in horovod_backend.environment(Horovod()):
        monkeypatch.setenv(name, "7")
    yield horovod_backend


def test_horovod_that_sees_other_ranks_than_mpi_is_refused(hvd: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LaunchError, match="Horovod sees rank 0 of 1, MPI 1 of 2; build it for the MPI that mpi4py uses"):
        hvd.start(World(1, 2), Horovod())
    assert os.environ["HOROVOD_STALL_CHECK_TIME_SECONDS"] == "7"  # the user's
    assert type(hvd.start(World(), Horovod())).__name__ == "FlatHorovod"
    assert type(hvd.start(World(), Horovod(flat=False))).__name__ == "TensorHorovod"
