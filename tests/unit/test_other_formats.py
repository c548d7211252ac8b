"""Stamps of other bands, planes and sizes go the whole way: cutouts, shards, training, report."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hpc_galaxy.config import Config, load_config
from hpc_galaxy.errors import InputError
from hpc_galaxy.files import write_json
from hpc_galaxy.realism.mosaic import brightness_band, colour_pictures, draw_mosaic, noise, scale_images
from hpc_galaxy.realism.report import report
from hpc_galaxy.shards.check import check
from hpc_galaxy.shards.cutout_file import cutout_path, write_cutouts
from hpc_galaxy.shards.numpy_shards import open_split
from hpc_galaxy.shards.schema import CLASSES, StampFormat
from hpc_galaxy.splits.groups import overlap_arcsec
from hpc_galaxy.splits.split import split
from hpc_galaxy.training.model import GalaxyCNN, count_parameters
from hpc_galaxy.training.train import train
from hpc_galaxy.world import World

SMALL = StampFormat(("r", "i"), ("image",), 16)
FOUR = StampFormat(("g", "r", "i", "z"), ("image", "invvar"), 16)


def noisy(stamps: StampFormat, count: int, seed: int = 1) -> np.ndarray:
    """Return stamps of sky of noise 2, 3, ... in their bands."""
    rng = np.random.default_rng(seed)
    sigma = 2.0 + np.arange(len(stamps.bands))
    planes = {"image": rng.normal(0, sigma, (count, stamps.size, stamps.size, len(stamps.bands))), "invvar": np.zeros(1) + sigma**-2}
    shape = (count, stamps.size, stamps.size, len(stamps.bands))
    return np.concatenate([np.broadcast_to(planes[plane], shape) for plane in stamps.planes], axis=-1).astype(np.float32)


def cutouts(root: Path, stamps: StampFormat, bricks: int = 12, each: int = 4) -> Config:
    """Write the cutout files of a made-up extraction of all three classes."""
    items = []
    for number in range(bricks):
        item: dict[str, object] = {"brick": f"{number:04d}p060"}
        for label, value in CLASSES.items():
            table = np.zeros(each, stamps.source_dtype)
            table["id"] = [f"{label}-{number}-{row}".encode() for row in range(each)]
            table["brick"], table["label"], table["ra"] = str(item["brick"]).encode(), value, number
            table["bx"], table["by"] = 100, 100
            for band in stamps.bands:
                table[f"mag_{band}"], table[f"psfdepth_{band}"] = 20 + np.arange(each), 1000
            attributes = {"brick": item["brick"], "label": label, "fingerprint": "x"}
            write_cutouts(cutout_path(root / "cutouts", label, str(item["brick"])), noisy(stamps, each, number), table, attributes, stamps)
            item[label] = each
        items.append(item)
    write_json(root / "cutouts" / "stage.json", {"stage": "extract", "fingerprint": "x"})
    write_json(root / "cutouts" / "ledger.json", {"items": items})
    paths = [f"paths.{name}='{root}/{name}'" for name in ("cutouts", "shards", "run", "report")]
    short = [
        "train.epochs=1",
        "train.batch_size=8",
        "train.threads=1",
        "realism.percentiles=[50]",
        "realism.pairs=2",
        "realism.bootstrap=20",
        "realism.baselines=false",
    ]
    return load_config(None, [*paths, *short, "split.train=0.5", "split.valid=0.25", "split.test=0.25", "seed=3"])


@pytest.mark.parametrize("stamps", [SMALL, FOUR], ids=["ri", "griz"])
def test_other_stamps_go_the_whole_way(tmp_path: Path, stamps: StampFormat) -> None:
    config = cutouts(tmp_path, stamps)
    check([config.paths.cutouts], World())
    split(config, World())
    check([config.paths.shards], World())
    reader = open_split(config.paths.shards, "train")
    assert reader.stamp_format == stamps
    assert reader.stamps(np.array([1, 0])).shape == (2, *stamps.shape)
    assert set(reader.labels) == {0, 1}  # stamps at a user's own positions are in no split
    sigma = 2.0 + np.arange(len(stamps.bands))
    assert reader.manifest.statistics.scale[: len(sigma)] == pytest.approx(sigma, rel=0.05)
    train(config, World(), False)
    report(config, World(), False)
    made = json.loads((config.paths.report / "report.json").read_text())
    assert "mosaic_p50.png" in made["pictures"]
    header = (config.paths.report / "scores.csv").read_text().splitlines()[0]
    assert header == ("id,brick,label,mag_r,score" if stamps is SMALL else "id,brick,label,mag_g,score")


def test_stamps_of_two_formats_are_not_mixed(tmp_path: Path) -> None:
    config = cutouts(tmp_path, SMALL, bricks=4)
    table = np.zeros(4, FOUR.source_dtype)
    odd = cutout_path(config.paths.cutouts, "real", "0002p060")
    write_cutouts(odd, noisy(FOUR, 4), table, {}, FOUR)
    with pytest.raises(
        InputError, match=r"0002p060\.h5: has stamps \(16, 16, 8\) of image_g.*expected \(16, 16, 2\) of .* as in .*0000p060\.h5"
    ):
        split(config, World())


def test_overlaps_are_as_large_as_the_stamps() -> None:
    # A source lies within half a pixel of its stamp's centre.
    assert overlap_arcsec(64) == pytest.approx((64 + 2 * 0.5) * 2**0.5 * 0.262)
    assert overlap_arcsec(16) == pytest.approx((16 + 2 * 0.5) * 2**0.5 * 0.262)


def test_the_network_fits_the_stamps_and_is_that_of_2018_by_default() -> None:
    assert count_parameters(GalaxyCNN()) == 353_786
    assert count_parameters(GalaxyCNN(channels=8)) == 353_786 + 2 * 49 * 18
    assert count_parameters(GalaxyCNN(size=32)) == 353_786 - 54 * 64 * (64 - 16)
    assert count_parameters(GalaxyCNN(size=8)) == 353_786 - 54 * 64 * 63


def test_noise_is_known_from_the_pixels_where_there_is_no_inverse_variance() -> None:
    assert noise(noisy(SMALL, 50), SMALL) == pytest.approx([2, 3], rel=0.05)
    assert noise(noisy(FOUR, 5), FOUR) == pytest.approx([2, 3, 4, 5])
    assert noise(np.zeros((2, *SMALL.shape), np.float32), SMALL).tolist() == [1, 1]


@pytest.mark.parametrize("bands", [("z",), ("z", "g"), ("g", "r", "z"), ("z", "i", "r", "g")])
def test_colours_are_red_for_the_reddest_band_and_blue_for_the_bluest(bands: tuple[str, ...]) -> None:
    stamps = StampFormat(bands, ("image",), 16)
    for band, channel in ((min(bands, key="griz".index), 2), (max(bands, key="griz".index), 0)):
        images = noisy(stamps, 3) * 0.01
        images[:, 4:12, 4:12, bands.index(band)] = 1
        middle = colour_pictures(images, stamps)[:, 4:12, 4:12].astype(float).mean(axis=(0, 1, 2))
        assert middle[channel] == middle.max() > 50
        if len(bands) > 1:
            assert middle[2 - channel] < middle[channel]
    assert brightness_band(stamps) == min(bands, key="griz".index)
    assert scale_images(images, stamps).shape == (3, 16, 16, len(bands))


@pytest.mark.parametrize("planes", [("image",), ("invvar",), ("invvar", "image")])
def test_mosaics_show_the_planes_that_there_are(tmp_path: Path, planes: tuple[str, ...]) -> None:
    stamps = StampFormat(("r", "z"), planes, 16)
    draw_mosaic(noisy(stamps, 4), "RFRF", np.arange(4.0), "title", tmp_path / "mosaic.png", stamps)
    assert (tmp_path / "mosaic.png").stat().st_size > 5000
