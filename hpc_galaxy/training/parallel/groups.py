"""Torch's process groups, and how a process leaves them."""

from __future__ import annotations

import atexit
import gc
from importlib import import_module
from typing import Any

from torch import distributed

# Its functions' default arguments keep a group, to the end, that is made before it is imported; and DDP imports it.
import_module("torch.distributed.nn.functional")


def join(transport: str, **options: Any) -> None:
    """Make torch's group of all ranks, to be left before the interpreter ends. Collective.

    Parameters
    ----------
    transport : str
        ``gloo`` or ``nccl``.
    **options
        As ``torch.distributed.init_process_group`` takes them.
    """
    distributed.init_process_group(transport, **options)
    atexit.register(leave)


def leave() -> None:
    """Leave all groups, and wait for their threads.

    A thread of gloo's that gives back a tensor while the interpreter ends takes the process with it (SIGABRT). A group ends its threads
    when nothing refers to it any more, and a model that was wrapped for DDP does so until its reference cycles are collected.
    """
    if distributed.is_initialized():
        distributed.destroy_process_group()
    gc.collect()
