"""Intel's extension of PyTorch where it is installed and able, otherwise plain PyTorch. The only module that imports it.

Its last release is 2.8.0, for PyTorch 2.8 alone; ``make test-ipex`` sets up an environment with these two. No torch before
`optimise`, so that whoever only wants to know can ask.
"""

from __future__ import annotations

import logging
import re
from importlib import import_module, metadata
from types import ModuleType
from typing import TYPE_CHECKING

from hpc_galaxy.processor import cpu_model, instruction_sets
from hpc_galaxy.training.node import CPUINFO

if TYPE_CHECKING:
    import torch
    from torch import nn

NAME = "intel-extension-for-pytorch"
MODULE = "intel_extension_for_pytorch"


def status() -> tuple[bool, str]:
    """Return whether the extension can be used here, and its name and version, or why not.

    Nothing is imported to find out: where PyTorch is another one than the extension was built for, or the processor has no AVX2,
    importing it fails or ends the process.
    """
    version, torch_version = _installed(NAME), _installed("torch")
    if version is None:
        return False, f"{NAME} is not installed"
    if torch_version is None or _series(version) != _series(torch_version):
        return False, f"{NAME} {version} fits PyTorch {_series(version)}, and {torch_version or 'none'} is installed"
    cpuinfo = CPUINFO.read_text() if CPUINFO.exists() else ""
    if "AVX2" not in instruction_sets(cpuinfo):
        return False, f"{NAME} needs a processor with AVX2, and {cpu_model(cpuinfo)} has none"
    return True, f"{NAME} {version}"


def optimise(model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, torch.optim.Optimizer, str]:
    """Let the extension work on a model and its optimizer where it can; otherwise leave both as they are.

    Parameters
    ----------
    model : Module
        In training mode; neither wrapped for DDP nor compiled. Changed in place: the weights of its convolutions lie channels-last
        from here on. Names, shapes and types of its parameters stay, so that checkpoints go both ways.
    optimizer : Optimizer
        Of the model's parameters. Changed in place: SGD, AdaGrad and Adam get a fused step, which rounds differently in the last bits.

    Returns
    -------
    Module, Optimizer, str
        The same two, and a sentence for the user: what was done, or why it is plain PyTorch.
    """
    able, reason = status()
    devices = {parameter.device.type for parameter in model.parameters()}
    if able and devices != {"cpu"}:
        able, reason = False, f"{NAME} is for CPUs, and the model is on {', '.join(sorted(devices))}"
    extension, problem = _import() if able else (None, reason)
    if extension is None:
        return model, optimizer, f"plain PyTorch: {problem}"
    return *_apply(extension, model, optimizer), f"{reason}, {_describe(optimizer)}"


def _apply(extension: ModuleType, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, torch.optim.Optimizer]:
    import torch

    # float32 also where the forward pass is in bfloat16, which autocast does: with bfloat16 parameters the gradients would travel in
    # bfloat16, which MPI cannot add up, and the fused Adam's losses were further off than autocast alone lets them be.
    # No prepacked weights: in 2.8.0 load_state_dict fills prepacked convolutions of 18, 36 and 54 channels with garbage, and under
    # autocast they end the process with 'double free'. They were not faster either.
    optimised = extension.optimize(model, optimizer=optimizer, dtype=torch.float32, weights_prepack=False, inplace=True)
    return optimised[0], optimised[1]


def _import() -> tuple[ModuleType | None, str]:
    """Return the extension, or None and why it cannot be imported."""
    try:
        extension = import_module(MODULE)
    except (ImportError, OSError) as error:
        return None, f"{NAME} cannot be imported ({error})"
    # It would warn that its own default, the fused step, will be deprecated some day; the day will not come. Not before the import:
    # the extension makes a logger of this name with a method of its own.
    logging.getLogger("IPEX").setLevel(logging.ERROR)
    return extension, ""


def _describe(optimizer: torch.optim.Optimizer) -> str:
    fused = getattr(optimizer, "fused", False)
    return f"channels-last weights, {type(optimizer).__name__} {'fused' if fused else 'not fused'}"


def _installed(name: str) -> str | None:
    """Return the version of an installed package, None if there is none, without importing it."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _series(version: str) -> str:
    """Return ``2.8`` of ``2.8.0+cpu``; a version without such a beginning as it is."""
    match = re.match(r"\d+\.\d+", version)
    return match[0] if match else version
