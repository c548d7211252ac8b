"""Torch's process groups, and how a process leaves them."""

from __future__ import annotations

import atexit
import gc
import time
from importlib import import_module
from typing import Any

from torch import distributed

# Its functions' default arguments keep a group, to the end, that is made before it is imported; and DDP imports it.
import_module("torch.distributed.nn.functional")
SETTLE_SECONDS = 0.1


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
        settle()
        distributed.destroy_process_group()
    gc.collect()


def settle() -> None:
    """Let gloo's threads put away the last messages, for which they need the interpreter.

    A group that is destroyed waits for its threads and keeps the interpreter meanwhile (torch 2.13): a thread that has a message to put
    away then waits for ever, and so does this process. Of some ten trainings of 20 steps that ended with a group's destruction at once
    one hung so.
    """
    time.sleep(SETTLE_SECONDS)
