"""A deeper network: the residual network of 20 layers that He et al. (2016, CVPR, 770, section 4.2) made for small images."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

WIDTHS = (16, 32, 64)
BLOCKS = 3  # of two convolutions in each of the stages: 2 x 3 x 3, the stem and the dense layer make 20 layers
CHANNELS_A_GROUP = 8
LARGE = 64  # pixels, from which on the stem halves the image: a quarter of the work


class Block(nn.Module):
    """Two convolutions 3 x 3 beside a shortcut without parameters (He et al.'s option A).

    Where the image is halved, the shortcut takes every second pixel, and channels of zeros fill it up.

    Parameters
    ----------
    before, after, stride : int
        Channels of what comes in and goes out, and by how much the image shrinks.
    """

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.first, self.first_norm = _convolution(before, after, stride), _norm(after)
        self.second, self.second_norm = _convolution(after, after, 1), _norm(after)
        self.stride, self.added = stride, after - before

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return features, shape (N, after, side / stride, side / stride), of features of shape (N, before, side, side)."""
        found = functional.relu(self.first_norm(self.first(images)))
        shortcut = functional.pad(images[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.added))
        return functional.relu(self.second_norm(self.second(found)) + shortcut)


class GalaxyResNet(nn.Module):
    """A residual network of 20 layers: a stem, three stages of three blocks, the mean over the image, and one score a class.

    It has GroupNorm (Wu & He 2018, ECCV, 3) where He et al. have batch normalisation: statistics of a batch would depend on how many
    examples a rank holds, so that results would depend on the number of ranks, and a stamp's score on what else is scored with it.
    Convolutions start as He et al. (2015, ICCV, 1026) propose. Stamps of 64 pixels and more are halved by the stem.

    The mean over the image forgets where things are. That a galaxy is off the middle shows in nothing but the edges and the pixels that
    strides keep, so that a shift of all fakes is found later than by the network of 2018, which has a weight for each place.

    Parameters
    ----------
    channels, size : int
        Of the images that it sees; `size` of 8 or more.
    """

    def __init__(self, channels: int = 6, size: int = 64) -> None:
        super().__init__()
        self.stem, self.stem_norm = _convolution(channels, WIDTHS[0], 2 if size >= LARGE else 1), _norm(WIDTHS[0])
        blocks = []
        before = WIDTHS[0]
        for width in WIDTHS:
            for number in range(BLOCKS):
                blocks.append(Block(before, width, 2 if number == 0 and width > WIDTHS[0] else 1))
                before = width
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(before, 2)
        nn.init.kaiming_normal_(self.head.weight, nonlinearity="linear")
        nn.init.zeros_(self.head.bias)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits, shape (N, 2), of images of shape (N, channels, size, size); column 1 is 'fake'."""
        found = self.blocks(functional.relu(self.stem_norm(self.stem(images))))
        return self.head(found.mean(dim=(2, 3)))


def _convolution(before: int, after: int, stride: int) -> nn.Conv2d:
    convolution = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)  # the norm that follows has a bias
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return convolution


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(channels // CHANNELS_A_GROUP, channels)
