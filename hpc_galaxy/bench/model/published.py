"""Published scaling curves, and what the model says of them: it has to be right about others' machines before it may speak of ours."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hpc_galaxy.bench.model.messages import Link
from hpc_galaxy.bench.model.prediction import Machine, Training, efficiency

# Nothing was published of how the times scatter: that of a normal distribution's positive half, of 2 per cent, is assumed throughout.
SCATTER = 1 + 0.02 * np.abs(np.random.default_rng(1).standard_normal(2000))


@dataclass(frozen=True)
class Published:
    """A measured efficiency.

    Attributes
    ----------
    what : str
        Network and place.
    training, machine : Training, Machine
        As far as they were published.
    nodes : int
        On which it was measured.
    measured : float
        Speed over that of one process times the number of processes.
    source : str
        Where.
    """

    what: str
    training: Training
    machine: Machine
    nodes: int
    measured: float
    source: str

    @property
    def predicted(self) -> float:
        """The efficiency by the model."""
        return efficiency(self.training, self.machine, self.nodes)


HOROVOD = "Sergeev & Del Balso 2018, arXiv:1802.05799, figure 6; images/s of one P100 from TensorFlow's benchmarks of May 2017"
# 128 servers with four P100, 25 Gbit/s RoCE. PCIe inside.
UBER = Machine("Uber", 4, Link(10e-6, 10e9), Link(30e-6, 25e9 / 8), 1e12, 1e15)


def _imagenet(images_per_second: float, parameters: float) -> Training:
    return Training(64, 64 / images_per_second, 4 * parameters, 0, SCATTER, buckets=10)


CURVES = (
    Published("Inception V3, 512 P100", _imagenet(142, 23.8e6), UBER, 128, 0.90, HOROVOD),
    Published("VGG-16, 512 P100", _imagenet(154, 138.4e6), UBER, 128, 0.68, HOROVOD),
)
