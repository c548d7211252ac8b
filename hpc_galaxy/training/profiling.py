"""What a trace says of a training beyond its spans: torch.profiler's windows, and how fast its arithmetic could be."""

from __future__ import annotations

import copy
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn, profiler
from torch.utils.flop_counter import FlopCounterMode

from hpc_galaxy.config.tracing import Profiler
from hpc_galaxy.errors import OutputError
from hpc_galaxy.files import whole_file
from hpc_galaxy.tracing.foreign import PROFILES
from hpc_galaxy.tracing.recorder import Recorder

SIDE, PRODUCTS = 1024, 4  # of the matrix product that the peak is measured with


@contextmanager
def profiling(settings: Profiler, recorder: Recorder | None, rank: int) -> Iterator[Callable[[], None]]:
    """Open torch.profiler's windows while the block runs; what is yielded is to be called after each step.

    Parameters
    ----------
    settings : Profiler
        The section [trace.profiler].
    recorder : Recorder or None
        The windows are written beside its file.
    rank : int
        This rank.
    """
    if recorder is None or rank not in settings.ranks:
        yield lambda: None
        return
    windows = 0

    def save(profile: profiler.profile) -> None:
        nonlocal windows
        windows += 1
        try:
            with whole_file(recorder.path.parent / PROFILES.format(rank).replace("*", f"{windows:04d}")) as partial:
                profile.export_chrome_trace(str(partial))
        except (OutputError, OSError) as error:  # a trace is never worth a job
            print(f"hpc-galaxy: no window of torch.profiler: {error}; the job goes on without", file=sys.stderr, flush=True)

    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it would note each window on standard error
    schedule = profiler.schedule(wait=settings.wait, warmup=settings.warmup, active=settings.active, repeat=settings.repeat)
    with profiler.profile(schedule=schedule, on_trace_ready=save, profile_memory=settings.memory, record_shapes=settings.shapes) as profile:
        yield profile.step


def note_amounts(recorder: Recorder, model: nn.Module, shape: tuple[int, ...], image_bytes: int, device: torch.device) -> None:
    """Note how much there is to compute, send and read, and how fast this rank computes at most while all others do as well.

    Parameters
    ----------
    recorder : Recorder
        Where it is noted.
    model : Module
        Is left as it is.
    shape : tuple of int
        Of one image: (channels, height, width).
    image_bytes : int
        That are read for one.
    device : device
        Where the training computes.
    """
    gradient = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters() if parameter.requires_grad)
    amounts = {"flops_per_image": count_flops(model, shape), "gradient_bytes": gradient, "image_bytes": image_bytes}
    recorder.note({**amounts, "peak_flops": measure_peak(device)})


def count_flops(model: nn.Module, shape: tuple[int, ...]) -> int:
    """Return the floating-point operations of an image's forward and backward pass, a multiplication and an addition being two."""
    twin = copy.deepcopy(model).to("meta")
    with FlopCounterMode(display=False) as counter:
        twin(torch.empty((1, *shape), device="meta")).sum().backward()
    return int(counter.get_total_flops())


def measure_peak(device: torch.device) -> float:
    """Return the operations per second of a product of two float32 matrices of 1024 x 1024: the best of some, after one."""
    left, right = torch.rand(SIDE, SIDE, device=device), torch.rand(SIDE, SIDE, device=device)
    return 2 * SIDE**3 / min([_seconds(left, right) for _ in range(PRODUCTS + 1)][1:])


def _seconds(left: torch.Tensor, right: torch.Tensor) -> float:
    start = time.perf_counter()
    torch.mm(left, right).sum().item()  # the sum waits for a GPU
    return time.perf_counter() - start
