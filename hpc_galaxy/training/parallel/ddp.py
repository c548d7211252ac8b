"""Gradient averaging by torch itself."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from inspect import signature
from typing import Any

import torch
from torch import distributed, nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks

from hpc_galaxy.config.training import Ddp
from hpc_galaxy.tracing.recorder import COMMUNICATION, now
from hpc_galaxy.tracing.spans import Stopwatch
from hpc_galaxy.training.parallel import groups
from hpc_galaxy.training.parallel.base import STALL_SECONDS, DataParallel
from hpc_galaxy.world import World

_OPTION = (
    "forward_sync_buffers" if "forward_sync_buffers" in signature(nn.parallel.DistributedDataParallel).parameters else "broadcast_buffers"
)
# No buffers are sent, as with the other backends; torch has given the option another name.
KEEP_BUFFERS: dict[str, Any] = {_OPTION: False}
Hook = Callable[[Any, distributed.GradBucket], torch.futures.Future[torch.Tensor]]
HOOKS: dict[str, Hook] = {
    "none": default_hooks.allreduce_hook,
    "fp16": default_hooks.fp16_compress_hook,
    "bf16": default_hooks.bf16_compress_hook,
}


class DDP(DataParallel):
    """``torch.nn.parallel.DistributedDataParallel``, over NCCL on GPUs and gloo on CPUs; the launcher only introduces the ranks.

    Parameters
    ----------
    world, device : World, device
        Where this rank is and computes.
    settings : Ddp
        The section [train.ddp].
    """

    name = "ddp"
    overlaps = True
    waits = False

    def __init__(self, world: World, device: torch.device, settings: Ddp) -> None:
        transport = "nccl" if device.type == "cuda" else "gloo"
        compressed = "" if settings.compression == "none" else f", {settings.compression}"
        self.description = f"torch DDP ({transport}{compressed})"
        self._device, self._settings = device, settings
        self._watch: Stopwatch | None = None
        timeout = timedelta(seconds=STALL_SECONDS)
        # Under torchrun the ranks know each other already; then this is one more group of the same ranks.
        self._group: distributed.ProcessGroup | None = None
        if distributed.is_initialized():
            self._group = distributed.new_group(backend=transport, timeout=timeout)
        else:
            groups.join(transport, store=_meet(world), rank=world.rank, world_size=world.size, timeout=timeout)

    def prepare(self, model: nn.Module) -> nn.Module:
        """Return the model wrapped; wrapping broadcasts the parameters."""
        self._model = model
        self._wrapped = nn.parallel.DistributedDataParallel(
            model,
            device_ids=[self._device.index] if self._device.type == "cuda" else None,
            process_group=self._group,
            bucket_cap_mb=self._settings.bucket_mb,
            gradient_as_bucket_view=True,
            **KEEP_BUFFERS,
        )
        self._hooked = False
        if self._settings.compression != "none":
            self._hook()
        return self._wrapped

    def record(self, watch: Stopwatch) -> None:
        """Time each bucket's message, from when it is handed over until it has come back."""
        self._watch = watch
        self._hook()

    def _hook(self) -> None:
        """Let buckets go through `_send`, unless they do."""
        if not self._hooked:
            # In a lambda, because by its name torch refuses bf16_compress_hook without NCCL, though gloo adds bfloat16 up as well.
            self._wrapped.register_comm_hook(self._group, lambda group, bucket: self._send(group, bucket))
        self._hooked = True

    def _send(self, group: distributed.ProcessGroup | None, bucket: distributed.GradBucket) -> torch.futures.Future[torch.Tensor]:
        """Hand a bucket of gradients over."""
        hook = HOOKS[self._settings.compression]
        if self._watch is None:
            return hook(group, bucket)
        watch, start, number = self._watch, now(), bucket.index()

        def back(message: torch.futures.Future[torch.Tensor]) -> torch.Tensor:
            watch.add("allreduce", COMMUNICATION, start, now(), number)
            return message.value()

        return hook(group, bucket).then(back)

    def zero_gradients(self) -> None:
        """Forget the gradients."""
        self._model.zero_grad()

    def backward(self, last: bool) -> AbstractContextManager[object]:
        """Return a context in which only the last pass of a step exchanges gradients."""
        return nullcontext() if last else self._wrapped.no_sync()

    def average_gradients(self) -> None:
        """Do nothing: the wrapped model averaged while it went backward."""
        return

    def close(self) -> None:
        """Destroy the process group, and leave that of torchrun alone."""
        groups.settle()
        distributed.destroy_process_group(self._group)


def _meet(world: World) -> distributed.TCPStore:
    """Open a store on rank 0, at a port the system chose, and connect every rank to it."""
    timeout = timedelta(seconds=STALL_SECONDS)
    store = None
    if world.is_root:
        store = distributed.TCPStore("127.0.0.1", 0, world.size, is_master=True, timeout=timeout, wait_for_workers=False)
    one_node = world.local_size == world.size
    host, port = world.bcast((("127.0.0.1" if one_node else socket.gethostname()), store.port if store else 0))
    return store or distributed.TCPStore(host, port, world.size, is_master=False, timeout=timeout)
