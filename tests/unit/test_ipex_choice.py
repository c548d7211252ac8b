"""When Intel's extension is used, and when not; with packages and processors that we do not have."""

from __future__ import annotations

import logging
import subprocess
import sys
from importlib import import_module, metadata
from pathlib import Path
from types import ModuleType

import pytest
import torch
from patience import patience

from hpc_galaxy.training import ipex
from hpc_galaxy.training.ipex import optimise, status
from hpc_galaxy.training.model import GalaxyCNN

AVX2 = "model name\t: Testor 2000\nflags\t\t: fpu avx avx2\n"
AVX = "model name\t: Testor 1000\nflags\t\t: fpu avx\n"


class FakeExtension(ModuleType):
    """Notes what it was asked to do, and lets the optimizer know, as the real one does."""

    def __init__(self, fuses: bool) -> None:
        super().__init__("intel_extension_for_pytorch")
        self.fuses, self.asked = fuses, {}
        logging.getLogger("IPEX").setLevel(logging.NOTSET)

    def optimize(self, model: torch.nn.Module, **asked: object) -> tuple[torch.nn.Module, object]:
        self.asked = asked
        if self.fuses:
            asked["optimizer"].fused = True
        return model, asked["optimizer"]


class Machine:
    """Packages and a processor to make up; importing the extension is noted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
        self.cpuinfo, self.imported, self.extension = directory / "cpuinfo", 0, FakeExtension(fuses=True)
        monkeypatch.setattr(ipex, "CPUINFO", self.cpuinfo)
        monkeypatch.setattr(metadata, "version", self._version)
        monkeypatch.setattr(ipex, "import_module", self._import)
        self.set()

    def set(self, cpuinfo: str = AVX2, **versions: str) -> None:
        self.cpuinfo.write_text(cpuinfo)
        self._versions = {name.replace("_", "-"): version for name, version in versions.items()}

    def _version(self, name: str) -> str:
        if name not in self._versions:
            raise metadata.PackageNotFoundError(name)
        return self._versions[name]

    def _import(self, name: str) -> ModuleType:
        assert name == "intel_extension_for_pytorch"
        self.imported += 1
        return self.extension


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    return Machine(monkeypatch, tmp_path)


def model_and_optimizer(device: str = "cpu") -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    model = GalaxyCNN(2, 16).to(device)
    return model, torch.optim.Adam(model.parameters())


def refusal(device: str = "cpu") -> str:
    """Return the sentence, after having seen that model and optimizer are left alone."""
    model, optimizer = model_and_optimizer(device)
    before = [(parameter, parameter.stride()) for parameter in model.parameters()]
    found = optimise(model, optimizer)
    assert found[0] is model and found[1] is optimizer and "step" not in vars(optimizer)
    assert all(now is then and now.stride() == stride for now, (then, stride) in zip(model.parameters(), before, strict=True))
    return found[2]


@pytest.mark.parametrize(
    ("versions", "reason"),
    [
        ({"torch": "2.13.0+cpu"}, "intel-extension-for-pytorch is not installed"),
        (
            {"torch": "2.13.0", "intel_extension_for_pytorch": "2.8.0"},
            "intel-extension-for-pytorch 2.8.0 fits PyTorch 2.8, and 2.13.0 is installed",
        ),
        # 2.80 begins with 2.8, and is another series all the same.
        (
            {"torch": "2.80.0", "intel_extension_for_pytorch": "2.8.0"},
            "intel-extension-for-pytorch 2.8.0 fits PyTorch 2.8, and 2.80.0 is installed",
        ),
        (
            {"torch": "2.8.0", "intel_extension_for_pytorch": "3.8.0"},
            "intel-extension-for-pytorch 3.8.0 fits PyTorch 3.8, and 2.8.0 is installed",
        ),
        (
            {"intel_extension_for_pytorch": "2.8.0"},
            "intel-extension-for-pytorch 2.8.0 fits PyTorch 2.8, and none is installed",
        ),
    ],
)
def test_it_is_not_imported_where_the_versions_differ(machine: Machine, versions: dict[str, str], reason: str) -> None:
    machine.set(**versions)
    assert status() == (False, reason)
    assert refusal() == f"plain PyTorch: {reason}"
    assert not machine.imported


@pytest.mark.parametrize(("torch_version", "version"), [("2.8.0", "2.8.0"), ("2.8.0+cu128", "2.8.10+xpu"), ("2.8.1", "2.8.0+cpu")])
def test_versions_that_fit(machine: Machine, torch_version: str, version: str) -> None:
    machine.set(torch=torch_version, intel_extension_for_pytorch=version)
    assert status() == (True, f"intel-extension-for-pytorch {version}")


def test_a_processor_without_avx2_is_named(machine: Machine) -> None:
    machine.set(AVX, torch="2.8.0", intel_extension_for_pytorch="2.8.0")
    assert refusal() == "plain PyTorch: intel-extension-for-pytorch needs a processor with AVX2, and Testor 1000 has none"
    assert not machine.imported


def test_without_cpuinfo_it_is_not_used(machine: Machine) -> None:
    machine.set(torch="2.8.0", intel_extension_for_pytorch="2.8.0")
    machine.cpuinfo.unlink()
    able, reason = status()
    assert not able and "AVX2" in reason


def test_a_model_elsewhere_than_on_the_cpu_is_left_alone(machine: Machine) -> None:
    machine.set(torch="2.8.0", intel_extension_for_pytorch="2.8.0")
    assert refusal("meta") == "plain PyTorch: intel-extension-for-pytorch is for CPUs, and the model is on meta"
    assert not machine.imported


def test_one_that_cannot_be_imported_is_no_error(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.set(torch="2.8.0", intel_extension_for_pytorch="2.8.0")
    monkeypatch.setattr(ipex, "import_module", import_module)
    monkeypatch.setitem(sys.modules, "intel_extension_for_pytorch", None)
    assert refusal().startswith("plain PyTorch: intel-extension-for-pytorch cannot be imported (")


@pytest.mark.parametrize(("fuses", "how"), [(True, "Adam fused"), (False, "Adam not fused")])
def test_what_it_is_asked_for(machine: Machine, fuses: bool, how: str) -> None:
    machine.set(torch="2.8.0", intel_extension_for_pytorch="2.8.0")
    machine.extension = FakeExtension(fuses)
    model, optimizer = model_and_optimizer()
    found = optimise(model, optimizer)
    assert found == (model, optimizer, f"intel-extension-for-pytorch 2.8.0, channels-last weights, {how}")
    assert machine.imported == 1
    assert machine.extension.asked == {"optimizer": optimizer, "dtype": torch.float32, "weights_prepack": False, "inplace": True}
    assert logging.getLogger("IPEX").level == logging.ERROR


def test_asking_needs_no_torch() -> None:
    code = "import sys; from hpc_galaxy.training.ipex import status; print(status()[0] in (True, False), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=patience(30), check=True)
    assert done.stdout == "True False\n"
