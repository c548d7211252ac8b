"""What every way of averaging gradients has in common, and the way of one process."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext

from torch import nn

from hpc_galaxy.tracing.spans import Stopwatch

# A rank that lets the others wait this long is lost. Longer than the slowest legitimate wait: a checkpoint or a cold read.
STALL_SECONDS = 900


class DataParallel(ABC):
    """Averages gradients over the ranks.

    Attributes
    ----------
    name : str
        The backend, as in ``train.backend``.
    description : str
        One phrase for the user.
    overlaps : bool
        Whether the averaging happens during the backward pass, so that its time cannot be told from the computation's.
    waits : bool
        Whether `average_gradients` has anything to do.
    """

    name: str
    description: str
    overlaps: bool = False
    waits: bool = True

    @abstractmethod
    def prepare(self, model: nn.Module) -> nn.Module:
        """Give every rank the parameters of rank 0 and return what the forward pass must go through. Collective."""

    @abstractmethod
    def zero_gradients(self) -> None:
        """Forget the gradients of the step before."""

    def backward(self, last: bool) -> AbstractContextManager[object]:
        """Return the context of a forward and backward pass; the ranks may exchange gradients only in a step's `last` one."""
        return nullcontext()

    @abstractmethod
    def average_gradients(self) -> None:
        """Replace every gradient by its mean over the ranks, unless the backward pass has done so already. Collective."""

    def record(self, watch: Stopwatch) -> None:
        """Let `watch` know of messages during the backward pass, where there are any; after `prepare`."""
        return

    def close(self) -> None:
        """Leave the group of ranks."""
        return


class Serial(DataParallel):
    """One process."""

    name = "serial"
    description = "serial"
    waits = False

    def prepare(self, model: nn.Module) -> nn.Module:
        """Return `model` itself."""
        self._model = model
        return model

    def zero_gradients(self) -> None:
        """Forget the gradients."""
        self._model.zero_grad()

    def average_gradients(self) -> None:
        """Do nothing: the mean over one rank is there already."""
        return
