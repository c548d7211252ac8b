"""The convolutional network of 2018, in PyTorch."""

from __future__ import annotations

import torch
from torch import nn

from hpc_galaxy.shards.schema import DEFAULT, StampFormat

FILTERS = (18, 36, 54)
KERNEL = 7
HIDDEN = 64
CLASSES = 2


class GalaxyCNN(nn.Module):
    """Three times convolution 7 x 7, ReLU and 2 x 2 mean; then a dense layer of 64, ReLU, and one score a class.

    The weights keep torch's default memory layout: only the *input* is channels-last, which is where the speed comes from,
    and Horovod refuses tensors that are not contiguous. They start as He et al. (2015, ICCV, 1026) propose for ReLU: from
    torch's default, smaller by sqrt(6), one training in three had not begun to learn after four epochs of 2,400 stamps
    whose classes differ by a shift of one pixel, and "cannot tell them apart" would have been wrong.

    Parameters
    ----------
    stamps : StampFormat
        Number of channels and size of what it sees.
    """

    def __init__(self, stamps: StampFormat = DEFAULT) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in zip((len(stamps.channels), *FILTERS[:-1]), FILTERS, strict=True):
            layers += [nn.Conv2d(before, after, KERNEL, padding="same"), nn.ReLU(), nn.AvgPool2d(2)]
        side = stamps.size // 2 ** len(FILTERS)
        dense = [nn.Flatten(), nn.Linear(FILTERS[-1] * side * side, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES)]
        self.layers = nn.Sequential(*layers, *dense)
        self.apply(_initialise)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits, shape (N, 2), of images of shape (N, channels, size, size); column 1 is 'fake'."""
        return self.layers(images)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        nn.init.zeros_(module.bias)


def count_parameters(model: nn.Module) -> int:
    """Return the number of trainable parameters."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
