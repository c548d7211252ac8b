"""Published scaling curves, and what the model says of them: it has to be right about others' machines before it may speak of ours."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from hpc_galaxy.bench.model.messages import Link
from hpc_galaxy.bench.model.prediction import Machine, Training, efficiency


def scatter(share: float) -> np.ndarray:
    """Return times over the usual one that scatter as a normal distribution's positive half of width `share`."""
    return 1 + share * np.abs(np.random.default_rng(1).standard_normal(2000))


# Nothing was published of how the times scatter: 2 per cent are assumed throughout.
SCATTER = scatter(0.02)


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
    lacking : str
        What the model does not know of that run, where it promises more than was measured; empty where it agrees.
    """

    what: str
    training: Training
    machine: Machine
    nodes: int
    measured: float
    source: str
    lacking: str = ""

    @property
    def predicted(self) -> float:
        """The efficiency by the model."""
        return efficiency(self.training, self.machine, self.nodes)


HOROVOD = "Sergeev & Del Balso 2018, arXiv:1802.05799, figure 6; images/s of one P100 from TensorFlow's benchmarks of May 2017"
# 128 servers with four P100, 25 Gbit/s RoCE. PCIe inside.
UBER = Machine("Uber", 4, Link(10e-6, 10e9), Link(30e-6, 25e9 / 8), 1e12, 1e15)


def _imagenet(images_per_second: float, parameters: float) -> Training:
    return Training(64, 64 / images_per_second, 4 * parameters, 0, SCATTER, buckets=10)


COSMOFLOW = "Mathuriya et al. 2018, arXiv:1808.04728: 28.15 MB of gradients, 69.33 Gflop a sample, one sample a node and step, 3.5 Pflop/s"
# Aries: 8 GB/s a node, as its adapter gives at best; the paper's burst buffer of 1.7 TB/s. Samples of 128^3 float32.
CORI = Machine("Cori", 1, Link(2e-6, 10e9), Link(2e-6, 8e9), 1e9, 1.7e12)

CLIMATE = (
    "Kurth et al. 2018, arXiv:1810.01993: 14.41 (DeepLabv3+) and 4.188 (Tiramisu) Tflop a sample in single precision, one sample a GPU"
)
# These two figures are quoted from memory; half or twice as many would change the predictions by less than 0.01, as messages are hidden.
# Six V100 a node joined by NVLink; two EDR adapters of 12.5 GB/s, of which 23 GB/s arrive. Inputs were on the nodes' own storage.
SUMMIT = Machine("Summit", 6, Link(10e-6, 50e9), Link(5e-6, 23e9), 1e12, 1e15)
# One P100 a node; Aries as at Cori. Inputs were in the nodes' memory.
PIZ_DAINT = Machine("Piz Daint", 1, Link(2e-6, 10e9), Link(2e-6, 8e9), 1e12, 1e15)


def _one_sample(flop: float, flops_a_second: float, processes: int, measured: float, gradient: float, buckets: int) -> Training:
    """A step of one sample a process; its time without the others follows from the run's speed over all and its efficiency."""
    alone = flops_a_second / processes / measured
    return Training(1, flop / alone, gradient, 0, SCATTER, buckets=buckets)


CURVES = (
    Published("Inception V3, 512 P100", _imagenet(142, 23.8e6), UBER, 128, 0.90, HOROVOD),
    Published("VGG-16, 512 P100", _imagenet(154, 138.4e6), UBER, 128, 0.68, HOROVOD),
    Published(
        "CosmoFlow, 8192 KNL",
        replace(_one_sample(69.33e9, 3.5e15, 8192, 0.77, 28.15e6, buckets=0), image=4 * 128**3),
        CORI,
        8192,
        0.77,
        COSMOFLOW,
        "what an allreduce gets of Aries, or how KNLs scatter: 2.2 GB/s a node instead of 8, or 5 per cent instead of 2, would agree",
    ),
    # About 44 million parameters, assumed: ResNet-50 with a decoder; half or twice as many would change it as little.
    Published("DeepLabv3+, 27360 V100", _one_sample(14.41e12, 325.8e15, 27360, 0.907, 175e6, buckets=10), SUMMIT, 4560, 0.907, CLIMATE),
    # About 8 million parameters, assumed; a tenth or ten times as many would change the prediction by less than 0.01.
    Published(
        "Tiramisu, 5300 P100",
        _one_sample(4.188e12, 21.0e15, 5300, 0.79, 32e6, buckets=10),
        PIZ_DAINT,
        5300,
        0.79,
        CLIMATE,
        "why: messages of this size cannot cost a fifth of a step of 0.8 s; GPUs that scatter by 5 per cent instead of 2 would agree",
    ),
)
