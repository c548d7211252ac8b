"""``kill -9`` at any time of a split: the next run ends with the bytes of an undisturbed one, at any number of ranks."""

from __future__ import annotations

import random
import time
from pathlib import Path

import numpy as np
import pytest
from killing import claimed, kill_all, run_undisturbed, start, wait_for_claim
from patience import patience
from sample_survey import make_sources, write_survey

from hpc_galaxy.config import load_config
from hpc_galaxy.shards.check import check
from hpc_galaxy.shards.schema import StampFormat
from hpc_galaxy.world import World

BRICKS, EACH = 24, 75
# Each directory is killed three times, when so many of 24 files are there. The last number is the ranks of the run that completes it.
KILLED = (((1, 0), (2, 8), (1, 16)), 2), (((2, 4), (1, 12), (2, 20)), 1)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3,600 cutouts, 350 MB, and the configuration that splits them."""
    root, rng, stamps = tmp_path_factory.mktemp("kill_split"), np.random.default_rng(1), StampFormat(size=64)
    survey = {}
    for number in range(BRICKS):
        name = f"{number:04d}p060"
        survey[name] = [make_sources(rng, name, label, EACH, stamps) for label in (0, 1)]
        for table in survey[name]:
            table["ra"], table["dec"] = number + rng.uniform(0, 0.1, EACH), rng.uniform(6, 6.1, EACH)
    write_survey(root, survey, stamps)
    settings = ["split.train=0.5", "split.valid=0.25", "split.test=0.25", "split.storage='float16'"]
    load_config(None, [f"paths.cutouts='{root}/cutouts'", "split.match='none'", *settings]).save(root / "run.toml")
    return root / "run.toml"


def content(out: Path) -> dict[str, bytes]:
    """Return all files under their final names."""
    return {path.name: path.read_bytes() for path in out.iterdir() if path.suffix in (".npy", ".json") and path.name[0] != "."}


def wait_for_files(out: Path, number: int) -> None:
    """Wait until so many files are there under their final names."""
    deadline = time.monotonic() + patience(60)
    while sum(path.name[0] != "." for path in out.glob("*.npy")) < number:
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.mark.slow
def test_a_killed_split_continues_to_the_same_bytes(config: Path, tmp_path: Path) -> None:
    seconds = run_undisturbed("split", config, tmp_path)
    reference = content(tmp_path / "undisturbed-1")
    assert reference == content(tmp_path / "undisturbed-2")
    assert 8 <= sum(name.startswith("x") for name in reference) <= 10  # 3,600 / 512, and a short one in each split

    rng, found = random.Random(1), []
    for number, (kills, finally_on) in enumerate(KILLED):
        out = tmp_path / f"killed-{number}"
        for ranks, moment in kills:
            before = claimed(out)
            process = start("split", config, out, ranks)
            wait_for_claim(out, before)
            wait_for_files(out, moment)
            time.sleep(seconds[ranks] / 24 * rng.uniform(0, 1))  # into the middle of the next
            kill_all(process)
            left = {name: data for name, data in content(out).items() if name.endswith(".npy")}
            assert all(reference[name] == data for name, data in left.items())  # under its final name a file is whole
            found.append(len(left))
        assert start("split", config, out, finally_on).wait(patience(120)) == 0
        assert content(out) == reference
        assert list(out.glob(".partial*")) == []
        check([out], World())
    print(f"whole files found after each kill: {found}")
    assert len({number for number in found if number < 24}) > 3  # the kills did fall into the work
