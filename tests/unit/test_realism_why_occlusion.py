"""What networks look at of which we know it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sample_why import NOISE, make_reader
from torch import nn

from hpc_galaxy.config.training import Data
from hpc_galaxy.realism.why.occlusion import Occlusion, Patches, most_certain, occlude
from hpc_galaxy.shards.numpy_shards import SplitReader
from hpc_galaxy.training.data.inputs import Inputs, make_inputs
from hpc_galaxy.world import World

CPU = torch.device("cpu")


class Square(nn.Module):
    """Sums one channel over rows 7 and 8, and columns `left` and `left + 1`, into the logit of fake."""

    def __init__(self, channel: int, left: int = 7) -> None:
        super().__init__()
        self.channel, self.left = channel, left

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        summed = images[:, self.channel, 7:9, self.left : self.left + 2].sum(dim=(1, 2))
        return torch.stack([torch.zeros_like(summed), summed], dim=1)


def plain_inputs(reader: SplitReader, *names: str) -> Inputs:
    stamps, count = reader.stamp_format, 3 * len(names)
    return Inputs(stamps.bands, stamps.planes, stamps.size, names, "standard", (1.0,) * count, (0.0,) * count, (1.0,) * count)


def hide(model: nn.Module, reader: SplitReader, inputs: Inputs, rows: np.ndarray, labels: np.ndarray) -> Occlusion:
    found = occlude(model, CPU, reader, inputs, rows, labels, World())
    assert found is not None
    return found


def test_the_map_of_a_network_that_sums_some_pixels_is_there_and_nowhere_else(tmp_path: Path) -> None:
    reader = make_reader(tmp_path, bricks=2, each=4)
    rows, fakes = np.arange(4), np.ones(4, int)
    found = hide(Square(1, left=13), reader, plain_inputs(reader, "image", "invvar"), rows, fakes)
    assert found.channels == ("all", "image_g", "image_r", "image_z", "invvar_g", "invvar_r", "invvar_z")
    assert found.maps.shape == (4, 7, 16, 16) and found.patch == 2
    # Patches of 2 x 2 pixels: outside the middle of the stamp they do not overlap, and one of them is the square.
    pixels = reader.stamps(rows)[:, 7:9, 13:15, 1].astype(float).sum(axis=(1, 2))
    for number, name in enumerate(found.channels):
        touched = np.zeros((4, 16, 16))
        if name in ("all", "image_r"):
            touched[:, 7:9, 13:15] = pixels[:, None, None]
        assert found.maps[:, number] == pytest.approx(touched, abs=1e-5)


def test_a_real_galaxy_s_answer_falls_the_other_way(tmp_path: Path) -> None:
    reader = make_reader(tmp_path, bricks=2, each=4)
    inputs, rows = plain_inputs(reader, "image", "invvar"), np.arange(4)
    as_fake, as_real = (hide(Square(0), reader, inputs, rows, np.full(4, label)) for label in (1, 0))
    assert np.array_equal(as_fake.maps, -as_real.maps) and as_fake.maps[:, 0].max() > 0.5
    by_channel = {row["channel"]: row for row in as_fake.rows()}
    assert by_channel["image_g"]["within_2_arcsec"] > 5 * abs(by_channel["image_g"]["outside"])
    assert by_channel["image_g"]["within_error"] > 0 and by_channel["invvar_g"]["within_2_arcsec"] == 0


def test_hidden_inverse_variance_is_the_stamp_s_median_and_hidden_signal_to_noise_zero(tmp_path: Path) -> None:
    reader = make_reader(tmp_path, bricks=2, each=4)
    rows, fakes = np.arange(2), np.ones(2, int)
    x = np.lib.format.open_memmap(tmp_path / reader.shards[0].x, mode="r+")
    x[:, 7:9, 7:9, 3] *= 3
    del x
    reader = SplitReader(tmp_path, reader.manifest, "test")
    invvar = hide(Square(0), reader, plain_inputs(reader, "invvar"), rows, fakes)
    assert invvar.maps[:, 1, 7, 7] == pytest.approx(2.25 * 2 / NOISE**2, rel=1e-4)  # of 4 patches: 4, 2, 2 and 1 pixels
    snr = hide(Square(1), reader, plain_inputs(reader, "snr"), rows, fakes)
    assert snr.channels[2] == "snr_r" and snr.maps[0, 2].max() == pytest.approx(snr.maps[0, 0].max()) and snr.maps[0, 2].max() > 5


def test_with_arcsinh_and_a_mean_sky_is_what_the_network_sees_of_no_flux(tmp_path: Path) -> None:
    reader = make_reader(tmp_path, bricks=2, each=4)
    inputs = make_inputs(Data(), reader)
    assert inputs.mean[0] != 0
    found = hide(Square(0), reader, inputs, np.array([0]), np.ones(1, int))
    seen = np.arcsinh(reader.stamps(np.array([0]))[0, 7:9, 7:9, 0].astype(float)).sum()
    assert found.maps[0, 1].max() == pytest.approx(seen, rel=0.6) and found.maps[0, 1].max() <= seen * (1 + 1e-5)


def test_ranks_share_the_galaxies_and_the_network_keeps_its_mode(tmp_path: Path) -> None:
    reader = make_reader(tmp_path, bricks=2, each=4)
    model = nn.Sequential(nn.Dropout(0.5), Square(0))
    inputs, rows, labels = plain_inputs(reader, "image", "invvar"), np.arange(5), np.array([1, 1, 1, 0, 0])
    model.train()
    together = hide(model, reader, inputs, rows, labels)
    assert model.training and np.array_equal(together.maps, hide(model, reader, inputs, rows, labels).maps)
    one_by_one = [hide(model, reader, inputs, rows[number : number + 1], labels[number : number + 1]).maps for number in range(5)]
    assert np.array_equal(together.maps, np.concatenate(one_by_one))
    assert occlude(model, CPU, reader, inputs, rows, labels, World(rank=1, size=9)) is None


@pytest.mark.parametrize("size", [1, 5, 8, 16, 64, 65, 200])
def test_patches_hide_every_pixel_and_are_few(size: int) -> None:
    patches = Patches(size)
    hidden = np.zeros((size, size), int)
    for rows, columns in patches.slices():
        hidden[rows, columns] += 1
    assert hidden.min() >= 1 and len(patches.corners()) <= 180
    number = len(patches.corners())
    assert patches.spread(np.full((2, number), 3.0)) == pytest.approx(np.full((2, size, size), 3.0))
    if size == 64:
        assert number == 121 and patches.side == 8 and [28, 28] in patches.corners().tolist()


def test_the_surest_of_each_class_are_chosen() -> None:
    labels, scores = np.array([1, 0, 1, 0, 1, 0]), np.array([0.1, 0.3, 5.0, -2.0, 3.0, -1.0])
    assert most_certain(labels, scores, 4).tolist() == [2, 4, 3, 5]
    assert most_certain(labels, scores, 3).tolist() == [2, 4, 3]
    assert most_certain(labels, scores, 20).tolist() == [2, 4, 0, 3, 5, 1]
    assert most_certain(np.ones(6), scores, 4).tolist() == [2, 4]
