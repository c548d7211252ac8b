"""Weights as safetensors, and what is scored with them; no MPI."""

from __future__ import annotations

import json
import math
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sample_shards
import torch
from safetensors.torch import safe_open, save_file

from hpc_galaxy.errors import FormatError, InputError
from hpc_galaxy.shards.cutout_file import write_cutouts
from hpc_galaxy.shards.numpy_shards import open_split
from hpc_galaxy.shards.schema import DEFAULT, StampFormat
from hpc_galaxy.training.predict import predict
from hpc_galaxy.training.score import ROUND, ROW, Block, rounds
from hpc_galaxy.training.scores import BLOCK
from hpc_galaxy.training.sources import Source
from hpc_galaxy.training.train import train
from hpc_galaxy.training.weights import KEY, load_weights, restore_model, save_weights
from hpc_galaxy.world import World


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short training that sees signal-to-noise beside the image."""
    root = tmp_path_factory.mktemp("weights")
    sample_shards.make_shards(root / "shards", train=64, valid=70, test=150)
    train(sample_shards.make_config(root, "train.epochs=1", "train.data.inputs=['image', 'snr']"), World(), False)
    return root


@pytest.fixture
def path(root: Path, tmp_path: Path) -> Path:
    """A copy of its weights."""
    (tmp_path / "weights.safetensors").write_bytes((root / "run" / "weights.safetensors").read_bytes())
    return tmp_path / "weights.safetensors"


def test_all_that_is_needed_is_inside(path: Path, root: Path) -> None:
    weights = load_weights(path)
    about = weights.about
    assert (about.model, about.epoch, about.seed, about.config["train"]["data"]["inputs"]) == ("cnn2018", 1, 1, ["image", "snr"])
    assert weights.inputs.channels == ("image_g", "image_r", "image_z", "snr_g", "snr_r", "snr_z")
    assert about.shards == json.loads((root / "run" / "DONE").read_text())["shards"]
    save_weights(path, weights.state, about)
    again = load_weights(path)
    assert again.about == about and all(torch.equal(tensor, again.state[name]) for name, tensor in weights.state.items())
    assert not restore_model(again).training


def test_damaged_or_foreign_weights_are_refused(path: Path) -> None:
    content = path.read_bytes()
    for spoiled, message in {
        content[: len(content) // 2]: "not a readable file of weights",
        b"": "not a readable file of weights",
        struct.pack("<Q", 2**62) + content[8:]: "not a readable file of weights",
        content[:-7] + bytes([content[-7] ^ 1]) + content[-6:]: "its content has checksum",
        content.replace(b'\\"seed\\":1', b'\\"seed\\":2'): "its content has checksum",
        content.replace(b'\\"version\\":1', b'\\"version\\":9'): "its metadata: 'version': Input should be 1, got '9'",
    }.items():
        assert spoiled != content
        path.write_bytes(spoiled)
        with pytest.raises(FormatError, match=message):
            load_weights(path)
    path.unlink()
    with pytest.raises(FormatError, match="not a readable file of weights"):
        load_weights(path)
    save_file({"a": torch.zeros(3)}, path)
    with pytest.raises(FormatError, match="it was not written by this package"):
        load_weights(path)
    save_file({"a": torch.zeros(3)}, path, {KEY: "{}"})
    with pytest.raises(FormatError, match="its metadata: 'model': Field required"):
        load_weights(path)


def forge(path: Path, **changes: Any) -> None:
    """Change what a file says of its weights; a key with two underscores is below ``inputs``."""
    with safe_open(path, "pt") as file:
        metadata, state = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    about = json.loads(metadata[KEY])
    for key, value in changes.items():
        (about["inputs"] if key.startswith("__") else about)[key.removeprefix("__")] = value
    save_file(state, path, metadata | {KEY: json.dumps(about)})


def test_what_the_metadata_say_is_not_believed(path: Path) -> None:
    content = path.read_bytes()
    for changes, message in [
        ({"model": "cnn2030"}, "'model': Input should be 'cnn2018', 'resnet' or 'dummy'"),
        ({"__size": None}, "'inputs.size': Input should be a valid integer"),
        ({"__size": 10**12}, "'inputs': stamps of 1000000000000 pixels, expected 1 to 4096"),
        ({"__kind": "log"}, "'inputs': kind 'log', expected 'arcsinh' or 'standard'"),
        ({"__inputs": ["image", "noise"]}, r"'inputs': inputs \['image', 'noise'\] of planes"),
        ({"__planes": ["image"]}, r"'inputs': inputs \['image', 'snr'\] of planes \['image'\]"),
        ({"__bands": []}, "'inputs': inputs .* in bands"),
        ({"__mean": [0.0] * 5}, r"'inputs': \[6, 5, 6\] numbers to normalise 6 channels"),
        ({"__scale": [0.0] * 6}, "'inputs': numbers to normalise with that are not finite, or not positive"),
        ({"__mean": [math.inf] * 6}, "'inputs.*"),
        ({"__std": [-1.0] * 6}, "'inputs': numbers to normalise with that are not finite, or not positive"),
    ]:
        path.write_bytes(content)
        forge(path, **changes)
        with pytest.raises(FormatError, match=f"its metadata: {message}"):
            load_weights(path)
    header = b'{"__metadata__":{"hpc_galaxy":' + b"[" * 100_000
    number, surrogate = b'{"__metadata__":{"hpc_galaxy":5}}', b'{"__metadata__":{"hpc_galaxy":"\\ud800"}}'
    for hostile in (b"[" * 100_000, b"\xff\xfe{}", header, number, surrogate):
        path.write_bytes(struct.pack("<Q", len(hostile)) + hostile)
        with pytest.raises(FormatError, match="not a readable file of weights"):
            load_weights(path)


def test_a_file_cannot_make_a_network_larger_than_its_weights(path: Path) -> None:
    weights = load_weights(path)
    large = replace(weights.inputs, size=4096)
    save_weights(path, weights.state, weights.about.model_copy(update={"inputs": large}))
    with pytest.raises(FormatError, match=r"does not hold a 'cnn2018' \(size mismatch for layers.10.weight"):
        restore_model(load_weights(path))  # 3.6 GB otherwise
    half = {name: tensor.half() for name, tensor in weights.state.items()}
    save_weights(path, half, weights.about)
    read, random = load_weights(path), torch.get_rng_state()
    again = restore_model(read).state_dict()
    assert torch.equal(torch.get_rng_state(), random)  # no first weights were drawn
    assert all(again[name].dtype == torch.float32 and torch.equal(again[name], half[name].float()) for name in half)


def test_weights_of_another_network_are_refused(path: Path) -> None:
    weights = load_weights(path)
    save_weights(path, {"layers.0.weight": torch.zeros(3)}, weights.about)
    with pytest.raises(FormatError, match="does not hold a 'cnn2018'"):
        restore_model(load_weights(path))


def test_shards_and_cutouts_get_the_scores_of_a_plain_forward_pass(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    predict(root / "run", [root / "shards"], tmp_path / "scores.csv", World(), "test")
    out = capsys.readouterr().out
    assert "predict: 150 images in " in out and "; AUC " in out and "of 150 with labels" in out
    lines = (tmp_path / "scores.csv").read_text().splitlines()
    reader, weights = open_split(root / "shards", "test"), load_weights(root / "run" / "weights.safetensors")
    stamps = reader.stamps(np.arange(150))
    seen = np.empty((150, 64, 64, 6), np.float32)
    weights.inputs.apply(stamps, seen)
    with torch.inference_mode():
        expected = torch.softmax(restore_model(weights)(torch.from_numpy(seen).permute(0, 3, 1, 2)), 1)[:, 1].numpy()
    rows = [line.split(",") for line in lines[1:]]
    assert lines[0] == "id,brick,label,score"
    assert [row[0] for row in rows] == [identity.decode() for identity in reader.table["id"]]
    assert np.allclose([float(row[3]) for row in rows], expected, atol=1e-6)

    sources = reader.table[list(DEFAULT.source_dtype.names)].astype(DEFAULT.source_dtype)
    write_cutouts(tmp_path / "cutouts" / "real" / "a.h5", stamps, sources, {})
    predict(root / "run" / "weights.safetensors", [tmp_path / "cutouts"], tmp_path / "scores.npy", World())
    table = np.load(tmp_path / "scores.npy", allow_pickle=False)
    assert table.dtype == ROW
    assert [f"{value:.9g}" for value in table["score"].tolist()] == [row[3] for row in rows]  # to the bit


def test_what_cannot_be_scored(root: Path, tmp_path: Path) -> None:
    for paths, out, split, message in [
        ([tmp_path / "nothing"], "a.csv", None, "no manifest.json, no .h5 file"),
        ([root / "shards"], "a.csv", "tset", "'tset', expected one of train, valid, test"),
        ([root / "shards"], "a.fits", None, "has the ending '.fits', expected .csv or .npy"),
    ]:
        with pytest.raises(InputError, match=message):
            predict(root / "run", paths, tmp_path / out, World(), split)
    small = StampFormat(("r",), ("image", "invvar"), 16)
    write_cutouts(tmp_path / "small.h5", np.ones((3, *small.shape), np.float32), np.zeros(3, small.source_dtype), {}, small)
    with pytest.raises(FormatError, match=r"has stamps \(16, 16, 2\) of image_r, invvar_r; the network was trained on \(64, 64, 6\)"):
        predict(root / "run", [tmp_path / "small.h5"], tmp_path / "a.csv", World())
    sample_shards.make_shards(tmp_path / "shards", train=0, valid=0, test=9)
    pixels = np.load(tmp_path / "shards" / "xtest_000000.npy", mmap_mode="r+")
    pixels[7, 3, 4, 5] = np.inf
    del pixels
    with pytest.raises(FormatError, match=r"row 7 \(id test-7\) has pixels that are not finite"):
        predict(root / "run", [tmp_path / "shards"], tmp_path / "a.csv", World())
    assert not list(tmp_path.glob(".partial*")) and not (tmp_path / "a.csv").exists()


def test_every_block_is_in_one_round() -> None:
    sources = [Source(Path(), "train", count, DEFAULT) for count in (0, 1, BLOCK, 3 * BLOCK + 5, 10_000)]
    for size in (1, 3):
        found = list(rounds(sources, World(size=size)))
        assert max(map(len, found)) == min(ROUND * size, sum(map(len, found)))
        flat = [block for part in found for block in part]
        rows = {number: [0] * source.count for number, source in enumerate(sources)}
        for block in flat:
            assert isinstance(block, Block) and 0 < block.stop - block.start <= BLOCK
            for row in range(block.start, block.stop):
                rows[block.source][row] += 1
        assert all(set(counts) <= {1} for counts in rows.values())
