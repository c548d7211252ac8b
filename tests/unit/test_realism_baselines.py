"""Simple classifiers on galaxies of which we know what gives the fakes away."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import sample_shards

from hpc_galaxy.realism import baselines
from hpc_galaxy.realism.baselines import Baseline, run_baselines
from hpc_galaxy.shards.numpy_shards import SplitReader, write_shard


def make_readers(root: Path, *, shift: float = 0.0, fainter: float = 0.0) -> tuple[SplitReader, SplitReader]:
    """Write round galaxies in noise; fakes are `shift` pixels off in x and listed as `fainter` magnitudes fainter."""
    splits = {}
    for number, (split, examples) in enumerate({"train": 512, "test": 300}.items()):
        rng = np.random.default_rng(number)
        labels = rng.permutation(np.arange(examples) % 2).astype(np.uint8)
        x, table = sample_shards.make_stamps(rng, labels, 1.0), sample_shards.make_table(rng, labels, split, 10)
        offset = np.arange(64) - 31.5
        width = np.exp(-(offset**2) / 18), np.exp(-((offset - shift * labels[:, None]) ** 2) / 18)
        x[..., :3] = (20 * width[0][:, None] * width[1][:, None, :])[..., None] + rng.normal(size=(examples, 64, 64, 3))
        table["bx"], table["by"] = 1031.5, 1031.5
        table["mag_g"] += fainter * labels
        splits[split] = [write_shard(root, split, 0, x, table)]
    manifest = sample_shards.save_manifest(root, splits)
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


def test_of_many_shards_some_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, _ = make_readers(tmp_path)
    train.manifest.splits["train"].append(train.shards[0])
    monkeypatch.setattr(baselines, "MOST", 512)
    monkeypatch.setattr(SplitReader, "stamps", lambda self, rows: np.ones((len(rows), 64, 64, 6), np.float32))
    assert len(baselines.measure(train, 1).labels) == 512
