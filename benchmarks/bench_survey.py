"""What matching achieves, what inverse variances give away, and what rounded mantissas cost: on the demo's survey, but larger.

No speeds. One survey is injected and cut out once, and split with one seed after the other: how often the interval of the tabular
AUC after matching holds 0.5 is compared with what it promises.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from importlib import resources
from pathlib import Path

import h5py
import numpy as np
from common import begin

from hpc_galaxy.bench.measuring import Log
from hpc_galaxy.bricks.survey import make_survey
from hpc_galaxy.config import Config, load_config
from hpc_galaxy.cutouts.extract import extract
from hpc_galaxy.injection.inject import inject
from hpc_galaxy.shards.manifest import load_manifest
from hpc_galaxy.splits.audit.audit import audit
from hpc_galaxy.splits.split import split
from hpc_galaxy.world import World

SEED, BRICKS, SPLITS = 2, 160, 20
BITS = (9, 6)  # of a mantissa


def configure(root: Path, *settings: str) -> Config:
    """Return the demo's configuration with other settings."""
    (root / "demo.toml").write_text(resources.files("hpc_galaxy").joinpath("demo.toml").read_text())
    return load_config(root / "demo.toml", [f"seed={SEED}", *settings])


def compare_splits(log: Log, root: Path, number: int) -> None:
    """Split with so many seeds; print the tabular AUC before and after matching."""
    reports = []
    for seed in range(1, number + 1):
        config = configure(root, f"seed={seed}", f"paths.shards='splits/{seed}'")
        with contextlib.redirect_stdout(io.StringIO()):
            split(config, World(), False)
        reports.append(load_manifest(config.paths.shards).report["matching"])
    before, after = ([report[f"tabular_auc_{when}"] for report in reports] for when in ("before", "after"))
    holds = sum(low <= 0.5 <= high for low, high in (one["interval"] for one in after))
    widest, differences = max(reports[0]["columns"].items(), key=lambda item: abs(item[1]["smd_before"]))
    print(f"matched on catalog columns: {number} splits, of {reports[0]['real']:,} real and {reports[0]['fake']:,} fake")
    print(f"  largest mean difference: {widest}, {differences['smd_before']:+.3f}, after matching {differences['smd_after']:+.3f}")
    for when, found in (("before", before), ("after", after)):
        aucs = [one["auc"] for one in found]
        print(f"  tabular AUC {when} matching: mean {np.mean(aucs):.3f}, least {min(aucs):.3f}, most {max(aucs):.3f}")
    print(f"  intervals (95 %) after matching that hold 0.5: {holds} of {number}")
    log.note("matching", {"before": before, "after": after})


def judge_noise_maps(root: Path) -> None:
    """Print what an audit of the first split says of the inverse variances."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        audit(configure(root, "paths.shards='splits/1'").paths.shards)
    print("inverse variances, as the audit sees them:")
    print("\n".join(line for line in said.getvalue().splitlines() if "noise maps" in line or "noise beyond light" in line))


def compare_rounding(root: Path) -> None:
    """Cut the galaxies out with rounded mantissas; print what that costs in the worst file, and saves over all."""
    print("rounded mantissas, bitshuffle with LZ4: the worst brick's error, and all bytes over those without")
    whole = sum(path.stat().st_size for path in (root / "cutouts").rglob("*.h5"))
    for bits in BITS:
        folder = root / f"rounded{bits}"
        rounded = (f"extract.mantissa_bits={bits}", "extract.compression='bitshuffle'", f"paths.cutouts='{folder}'")
        with contextlib.redirect_stdout(io.StringIO()):
            extract(configure(root, *rounded), World(), False)
        paths = list(folder.rglob("*.h5"))
        rms, most, relative = (max(attribute(path, name) for path in paths) for name in ("rms_sigma", "max_sigma", "max_relative_invvar"))
        share = sum(path.stat().st_size for path in paths) / whole
        print(f"  {bits} bits: {rms:.4f} sigma rms, {most:.3f} at most, inverse variance {relative:.2%} at most, {share:.2f} of the bytes")


def attribute(path: Path, name: str) -> float:
    """Return what a file says of its rounding; 0 of one without stamps."""
    with h5py.File(path) as file:
        value = float(file.attrs[f"rounding_{name}"])
    return 0.0 if np.isnan(value) else value


def main() -> None:
    """Make the survey and cut the galaxies out; then answer the questions."""
    quick, log = begin(__doc__)
    bricks, number = (30, 2) if quick else (BRICKS, SPLITS)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        config = configure(root, f"survey.bricks={bricks}")
        with contextlib.redirect_stdout(io.StringIO()):
            for stage in (make_survey, inject, extract):
                stage(config, World(), False)
        print(f"the demo's survey with seed {SEED} and {bricks} bricks")
        compare_splits(log, root, number)
        judge_noise_maps(root)
        compare_rounding(root)


if __name__ == "__main__":
    main()
