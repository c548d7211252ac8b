"""The residual network: its shape, independence of the batch, and that it learns."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from sample_shards import make_config, make_shards

from hpc_galaxy.shards.numpy_shards import open_split
from hpc_galaxy.training.model import count_parameters, make_model
from hpc_galaxy.training.resnet import GalaxyResNet


def make(channels: int = 6, size: int = 64, seed: int = 1) -> GalaxyResNet:
    torch.manual_seed(seed)
    model = make_model("resnet", channels, size)
    assert isinstance(model, GalaxyResNet)
    return model


def test_twenty_layers_as_published() -> None:
    model = make(3, 32)
    layers = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    assert len(layers) == 20
    # He et al. (2016), table 6: 0.27 million. By hand: 3 -> 16; six of 16 -> 16; 16 -> 32 and five of 32 -> 32; 32 -> 64 and five of
    # 64 -> 64; the head; scale and bias of each norm.
    convolutions = 9 * (3 * 16 + 6 * 16 * 16 + 16 * 32 + 5 * 32 * 32 + 32 * 64 + 5 * 64 * 64)
    assert count_parameters(model) == convolutions + 2 * (7 * 16 + 6 * 32 + 6 * 64) + 64 * 2 + 2 == 269_202
    assert not list(model.buffers())  # nothing is remembered of batches


@pytest.mark.parametrize(("channels", "size", "side"), [(6, 64, 8), (2, 32, 8), (1, 8, 2), (4, 50, 13), (3, 128, 16)])
def test_any_stamps(channels: int, size: int, side: int) -> None:
    model, sides = make(channels, size), []
    model.blocks.register_forward_hook(lambda module, given, found: sides.append(tuple(found.shape[1:])))
    assert model(torch.zeros(3, channels, size, size)).shape == (3, 2)
    assert sides == [(64, side, side)]


def test_a_score_does_not_depend_on_what_else_is_in_the_batch() -> None:
    model, images = make(3, 32), torch.randn(9, 3, 32, 32)
    images[4:] *= 100
    with torch.inference_mode():
        whole, alone = model(images), torch.cat([model(images[n : n + 1]) for n in range(9)])
        model.train()
        training = model(images)
    torch.testing.assert_close(whole, alone, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(training, whole, rtol=0, atol=0)
    assert whole.std() > 1e-3


def test_the_order_of_the_memory_does_not_matter() -> None:
    model, images = make(3, 32), torch.randn(4, 3, 32, 32)
    with torch.inference_mode():
        expected = model(images)
        last = images.contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(model(last), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(model.to(memory_format=torch.channels_last)(last), expected, rtol=1e-4, atol=1e-5)


def test_a_rank_without_examples_has_gradients_of_zero() -> None:
    model = make(3, 32)
    torch.nn.functional.cross_entropy(model(torch.empty(0, 3, 32, 32)), torch.empty(0, dtype=torch.int64), reduction="sum").backward()
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in model.parameters())


def test_features_keep_their_size_through_the_layers() -> None:
    """At the start neither logits nor gradients vanish or explode: what the first layer is told is of the order of the last's."""
    model, images = make(6, 64), torch.randn(32, 6, 64, 64)
    logits = model(images)
    assert 0.05 < logits.std() < 10
    torch.nn.functional.cross_entropy(logits, torch.arange(32) % 2).backward()
    norms = [parameter.grad.norm().item() for parameter in (model.stem.weight, model.head.weight) if parameter.grad is not None]
    assert len(norms) == 2 and 0.01 < norms[0] / norms[1] < 100


def blobs(count: int, size: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Noisy blobs anywhere in the stamp; those of class 1 are elongated along x, those of class 0 along y."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    axis = torch.arange(size, dtype=torch.float32) - (size - 1) / 2
    place = 6 * torch.rand(2, count, 1, generator=draw) - 3
    wide, narrow = (torch.exp(-((axis - place[:, :, 0, None]) ** 2) / (2 * width**2)) for width in (3.0, 1.5))
    across = torch.where(labels[:, None] == 1, wide[0], narrow[0])
    along = torch.where(labels[:, None] == 1, narrow[1], wide[1])
    images = 5 * along[:, None, :, None] * across[:, None, None, :]
    return images + torch.randn(count, 1, size, size, generator=draw), labels


def test_it_learns_which_way_galaxies_lie() -> None:
    model = make(1, 16)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    images, labels = blobs(256, 16, 1)
    for step in range(24):
        rows = slice(32 * (step % 8), 32 * (step % 8) + 32)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images[rows]), labels[rows]).backward()
        optimizer.step()
    images, labels = blobs(200, 16, 2)
    with torch.inference_mode():
        assert (model(images).argmax(dim=1) == labels).float().mean() > 0.9


def test_it_is_trained_saved_and_restored(tmp_path: Path) -> None:
    from hpc_galaxy.training.train import train
    from hpc_galaxy.training.weights import load_weights, restore_model
    from hpc_galaxy.world import World

    make_shards(tmp_path / "shards", train=32, valid=16, test=16)
    train(make_config(tmp_path, "train.model='resnet'", "train.epochs=1"), World(), overwrite=False)
    weights = load_weights(tmp_path / "run" / "weights.safetensors")
    assert weights.about.model == "resnet"
    model = restore_model(weights)
    assert isinstance(model, GalaxyResNet)
    stamps = open_split(tmp_path / "shards", "test").stamps([0, 1])
    assert torch.isfinite(model(torch.from_numpy(stamps).permute(0, 3, 1, 2))).all()
