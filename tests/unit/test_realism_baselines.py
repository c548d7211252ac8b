"""Simple classifiers on galaxies of which we know what gives the fakes away."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import sample_shards

from hpc_galaxy.realism import baselines
from hpc_galaxy.realism.baselines import Baseline, run_baselines
from hpc_galaxy.shards.numpy_shards import SplitReader, write_shard
from hpc_galaxy.shards.recognise import PLANES
from hpc_galaxy.shards.schema import StampFormat


def make_readers(
    root: Path, *, shift: float = 0.0, fainter: float = 0.0, wider: float = 1.0, noise: float = 1.0, planes: tuple[str, ...] = PLANES
) -> tuple[SplitReader, SplitReader]:
    """Write round galaxies in noise; fakes are `shift` pixels off in x, listed `fainter` by so many magnitudes, `wider`, or less noisy."""
    splits = {}
    for number, (split, examples) in enumerate({"train": 512, "test": 300}.items()):
        rng = np.random.default_rng(number)
        labels = rng.permutation(np.arange(examples) % 2).astype(np.uint8)
        x, table = sample_shards.make_stamps(rng, labels, 1.0), sample_shards.make_table(rng, labels, split, 10)
        offset = np.arange(64) - 31.5
        variance = (9 * np.where(labels, wider, 1) ** 2)[:, None]
        along_y, along_x = np.exp(-(offset**2) / (2 * variance)), np.exp(-((offset - shift * labels[:, None]) ** 2) / (2 * variance))
        light = 180 / variance[..., None] * along_y[:, :, None] * along_x[:, None, :]
        scatter = np.where(labels, noise, 1.0)[:, None, None, None]
        x[..., :3] = light[..., None] + rng.normal(size=(examples, 64, 64, 3)) * scatter
        x[..., 3:] = 1
        x = np.ascontiguousarray(x[..., : 3 * len(planes)])
        table["bx"], table["by"] = 1031.5, 1031.5
        table["mag_g"] += fainter * labels
        splits[split] = [write_shard(root, split, 0, x, table)]
    manifest = sample_shards.save_manifest(root, splits, StampFormat(planes=planes))
    return SplitReader(root, manifest, "train"), SplitReader(root, manifest, "test")


def found(readers: tuple[SplitReader, SplitReader]) -> dict[str, Baseline]:
    return {each.name: each for each in run_baselines(*readers, 299, 1)}


def test_a_shift_is_seen_by_the_centroid_and_the_pixels_not_by_the_catalog(tmp_path: Path) -> None:
    by_name = found(make_readers(tmp_path, shift=0.5))
    assert by_name["centroid"].auc > 0.9 and by_name["centroid"].p_value < 0.02 and by_name["centroid"].examples == 300
    assert by_name["linear on pixels"].auc > 0.9
    assert by_name["catalog"].interval[0] < 0.5


def test_a_column_is_seen_by_the_catalog_alone(tmp_path: Path) -> None:
    by_name = found(make_readers(tmp_path, fainter=3.0))
    assert by_name["catalog"].auc > 0.8
    assert by_name["centroid"].interval[0] < 0.5 > by_name["linear on pixels"].interval[0]


def test_a_wider_profile_is_seen_by_the_light_profile_not_by_the_centroid(tmp_path: Path) -> None:
    by_name = found(make_readers(tmp_path, wider=1.08))
    assert by_name["light profile"].auc > 0.9 and by_name["light profile"].p_value < 0.02
    assert by_name["catalog"].interval[0] < 0.5 > by_name["noise"].interval[0]


@pytest.mark.parametrize("planes", [PLANES, ("image",)])
def test_missing_noise_is_seen_by_the_noise_not_by_the_light_profile(tmp_path: Path, planes: tuple[str, ...]) -> None:
    by_name = found(make_readers(tmp_path, noise=0.9, planes=planes))
    assert by_name["noise"].auc > 0.9 and by_name["noise"].p_value < 0.02
    assert by_name["catalog"].interval[0] < 0.5 > by_name["linear on pixels"].interval[0]


def test_of_many_shards_some_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, _ = make_readers(tmp_path)
    train.manifest.splits["train"].append(train.shards[0])
    monkeypatch.setattr(baselines, "MOST", 512)
    monkeypatch.setattr(SplitReader, "stamps", lambda self, rows: np.ones((len(rows), 64, 64, 6), np.float32))
    assert len(baselines.measure(train, 1).labels) == 512
