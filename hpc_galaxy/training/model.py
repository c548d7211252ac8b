"""What is trained: the convolutional network of 2018, in PyTorch, a deeper one (`resnet`), and a baseline that sees nothing."""

from __future__ import annotations

import torch
from torch import nn

from hpc_galaxy.training.resnet import GalaxyResNet

FILTERS = (18, 36, 54)
KERNEL = 7
HIDDEN = 64
CLASSES = 2


class GalaxyCNN(nn.Module):
    """Three times convolution 7 x 7, ReLU and 2 x 2 mean; then a dense layer of 64, ReLU, and one score a class.

    The weights keep torch's default memory layout unless asked otherwise: the *input* is channels-last, which is where the speed
    comes from. They start as He et al. (2015, ICCV, 1026) propose for ReLU: from torch's default, smaller by sqrt(6), one training
    in three had not begun to learn after four epochs of 2,400 stamps whose classes differ by a shift of one pixel, and "cannot tell
    them apart" would have been wrong.

    Parameters
    ----------
    channels, size : int
        Of the images that it sees.
    """

    def __init__(self, channels: int = 6, size: int = 64) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in zip((channels, *FILTERS[:-1]), FILTERS, strict=True):
            layers += [nn.Conv2d(before, after, KERNEL, padding="same"), nn.ReLU(), nn.AvgPool2d(2)]
        side = size // 2 ** len(FILTERS)
        dense = [nn.Flatten(), nn.Linear(FILTERS[-1] * side * side, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES)]
        self.layers = nn.Sequential(*layers, *dense)
        self.apply(_initialise)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits, shape (N, 2), of images of shape (N, channels, size, size); column 1 is 'fake'."""
        return self.layers(images)


class MajorityClass(nn.Module):
    """Predicts the commoner class of the training split, whatever it is shown: what any accuracy has to be compared with.

    It has one parameter, which changes nothing, so that optimizers and gradient averages have something to do.
    """

    log_shares: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("log_shares", torch.zeros(CLASSES))
        self.unused = nn.Parameter(torch.zeros(1))

    def learn(self, counts: torch.Tensor) -> None:
        """Take the classes' numbers of examples, shape (2,), from which its probabilities follow."""
        self.log_shares.copy_(torch.log(counts.clamp(min=0.5) / counts.sum()))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits, shape (N, 2), the same for each of N images."""
        return self.log_shares.expand(len(images), CLASSES) + 0 * self.unused


def make_model(name: str, channels: int, size: int) -> nn.Module:
    """Return the network that ``train.model`` names, for images of shape (N, channels, size, size), with its first weights."""
    if name == "dummy":
        return MajorityClass()
    return GalaxyResNet(channels, size) if name == "resnet" else GalaxyCNN(channels, size)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        nn.init.zeros_(module.bias)


def count_parameters(model: nn.Module) -> int:
    """Return the number of trainable parameters."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
