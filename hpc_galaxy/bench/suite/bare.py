"""A bare PyTorch loop on one batch in memory: the limit of the network on this machine, and what changes that limit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from hpc_galaxy.bench.suite.clock import LEARNING_RATE, SEED, Side, timed
from hpc_galaxy.training.model import GalaxyCNN
from hpc_galaxy.training.node import keep_freed_memory


@dataclass(frozen=True)
class Loop:
    """How the bare loop is run.

    Attributes
    ----------
    batch : int
        Examples.
    input_last, weights_last : bool
        Whether input and weights lie channels-last in memory.
    bfloat16 : bool
        Whether the forward pass is under autocast.
    convolutions : str
        The precision in which oneDNN may do float32 convolutions: ``ieee``, ``bf16``.
    compiled : bool
        Whether the network goes through torch.compile.
    fused : bool
        Whether Adam is torch's fused one instead of the ``foreach`` one, which the package uses.
    flush : bool
        Whether denormal numbers are taken for zero.
    keeps : bool
        Whether freed memory is kept, see `keep_freed_memory`.
    """

    batch: int
    input_last: bool = True
    weights_last: bool = False
    bfloat16: bool = False
    convolutions: str = "ieee"
    compiled: bool = False
    fused: bool = False
    flush: bool = False
    keeps: bool = False


@contextmanager
def bare(loop: Loop) -> Iterator[Side]:
    """Yield the side that trains so. It changes settings of the whole process."""
    torch.backends.mkldnn.conv.fp32_precision = loop.convolutions  # type: ignore[attr-defined]  # torch's stubs lack it
    torch.set_flush_denormal(loop.flush)
    if loop.keeps:
        keep_freed_memory()
    torch.manual_seed(SEED)
    model = GalaxyCNN()
    if loop.weights_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # as do they this
    if loop.compiled:
        model.compile()
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE, foreach=not loop.fused, fused=loop.fused)
    images = torch.randn(loop.batch, 6, 64, 64)
    if loop.input_last:
        images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.arange(loop.batch) % 2

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=loop.bfloat16):
            logits = model(images)
        cross_entropy(logits.float(), labels).backward()
        optimizer.step()

    yield lambda steps: timed(step, steps)


OPTIONS: dict[str, dict[str, Any]] = {
    "bare loop": {},
    "input channels-first": {"input_last": False},
    "weights channels-last": {"weights_last": True},
    "fused Adam": {"fused": True},
    "denormals flushed": {"flush": True},
    "bf16 within convolutions": {"convolutions": "bf16"},
    "torch.compile": {"compiled": True},
    "freed memory kept": {"keeps": True},
    "freed memory kept, torch.compile": {"keeps": True, "compiled": True},
    "bf16 autocast": {"bfloat16": True},
    "bf16, memory kept": {"bfloat16": True, "keeps": True},
    "bf16, memory kept, torch.compile": {"bfloat16": True, "keeps": True, "compiled": True},
    "batch 64": {"batch": 64},
    "batch 64, memory kept": {"batch": 64, "keeps": True},
}
