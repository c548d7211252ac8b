"""Can the network see what it should, and nothing else? Test AUC for faithful fakes, bad fakes, and reals against reals.

Each line is one training on the demo's configuration, through all stages; ``--quick`` does two of them, on a small survey, and is
only good for trying the script.
"""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
import time
from importlib import resources
from pathlib import Path

import numpy as np
from common import begin

from hpc_galaxy.auc import auc
from hpc_galaxy.bricks.survey import make_survey
from hpc_galaxy.config import Config, load_config
from hpc_galaxy.cutouts.extract import extract
from hpc_galaxy.injection.inject import inject
from hpc_galaxy.realism.report import headline, report
from hpc_galaxy.shards.manifest import SHARD_SIZE, SPLITS, load_manifest
from hpc_galaxy.shards.numpy_shards import SplitReader, write_shard
from hpc_galaxy.splits.split import split
from hpc_galaxy.training.data.augment import mix
from hpc_galaxy.training.train import train
from hpc_galaxy.world import World

OUTPUTS = ("obiwan", "cutouts", "shards", "run", "report")
SHIFT = ("injection.defects.centroid=1.0",)
NO_NOISE = ("injection.poisson=false", "injection.update_invvar=false")
CASES = {
    "faithful fakes": (),
    "real against real": (),
    "one pixel off": SHIFT,
    "no photon noise": NO_NOISE,
    "one pixel off, no photon noise": (*SHIFT, *NO_NOISE),
}
FILTER = 2.2  # standard deviation of the Gaussian, pixels: about the seeing of a small galaxy
QUICK = ("real against real", "one pixel off")
TARGETS = {"real against real": "0.45 to 0.55", "faithful fakes": "-"}


def configure(root: Path, name: str, settings: tuple[str, ...]) -> Config:
    """Return the demo's configuration with this case's settings, and directories of its own but for the survey."""
    (root / "demo.toml").write_text(resources.files("hpc_galaxy").joinpath("demo.toml").read_text())
    folder = name.replace(" ", "_").replace(",", "")
    paths = [f"paths.{output}='{folder}/{output}'" for output in OUTPUTS]
    return load_config(root / "demo.toml", [*paths, *settings])


def relabel(directory: Path, out: Path, seed: int) -> None:
    """Make shards of the real galaxies alone, of which every other one, drawn by its id, is called fake."""
    manifest, splits = load_manifest(directory), {}
    for name in SPLITS:
        reader = SplitReader(directory, manifest, name)
        rows = np.flatnonzero(reader.labels == 0)
        stamps, table = reader.stamps(rows), reader.table[rows]
        numbers = np.array([hash_of(identity) for identity in table["id"]], np.uint64)
        order = np.argsort(mix(numbers ^ mix(np.uint64(seed))))
        table["label"][order] = np.arange(len(rows)) % 2
        starts = range(0, len(rows), SHARD_SIZE)
        splits[name] = [write_shard(out, name, n, stamps[s : s + SHARD_SIZE], table[s : s + SHARD_SIZE]) for n, s in enumerate(starts)]
    manifest.model_copy(update={"splits": splits, "fingerprint": f"{manifest.fingerprint}-relabelled-{seed}"}).save(out)


def hash_of(identity: bytes) -> int:
    """Return a number that an id always has."""
    return int.from_bytes(identity[-8:].rjust(8, b"\0"), "little")


def run(root: Path, name: str, settings: tuple[str, ...]) -> dict[str, object]:
    """Take one case through all stages; return what the report says."""
    config = configure(root, name, settings)
    for stage in (inject, extract, split):
        stage(config, World(), False)
    if name == "real against real":
        relabel(config.paths.shards, root / "relabelled", config.seed)
        config = config.model_copy(update={"paths": config.paths.model_copy(update={"shards": root / "relabelled"})})
    for stage in (train, report):
        stage(config, World(), False)
    return json.loads((config.paths.report / "report.json").read_text())


def centroid_auc(shards: Path) -> float:
    """Return the test AUC of each galaxy's centroid in x alone, weighted by a Gaussian and the inverse variance over all bands.

    A shift in x moves it, and its scatter is that of the pixels' noise: what a network finds of a shift can be compared with it.
    """
    reader = SplitReader(shards, load_manifest(shards), "test")
    stamps = reader.stamps(np.arange(len(reader))).astype(np.float64)
    size, bands = stamps.shape[1], stamps.shape[3] // 2
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    weight = np.exp(-(x**2 + y**2) / (2 * FILTER**2))
    light = (stamps[..., :bands] * stamps[..., bands:]).sum(axis=-1) * weight
    centroids = (light * x).sum(axis=(1, 2)) / np.maximum(light.sum(axis=(1, 2)), np.finfo(float).tiny)
    return auc(reader.labels, centroids)


def main() -> None:
    """Make the survey, then go through the cases."""
    quick, log = begin(__doc__)
    extra = ("survey.bricks=16", "train.epochs=2") if quick else ("train.batch_size=32",)
    with tempfile.TemporaryDirectory() as folder:
        root, found, shifted = Path(folder), {}, float("nan")
        with contextlib.redirect_stdout(io.StringIO()):
            make_survey(configure(root, "survey", extra), World(), False)
        for name in QUICK if quick else CASES:
            settings = CASES[name]
            start, said = time.perf_counter(), io.StringIO()
            with contextlib.redirect_stdout(said):
                found[name] = run(root, name, (*settings, *extra))
            print(f"{name:32}{headline(found[name])}, {time.perf_counter() - start:.0f} s", flush=True)
            if settings == SHIFT:
                shifted = centroid_auc(configure(root, name, settings).paths.shards)
    for name, numbers in found.items():
        log.ratio(f"auc_{name.replace(', ', '_').replace(' ', '_')}", float(str(numbers["auc"])), TARGETS.get(name, "0.9"))
    log.ratio("auc_one_pixel_off_centroid", shifted)


if __name__ == "__main__":
    main()
