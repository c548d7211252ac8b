"""Examples a second of the split, and of reading its shards: ours, 2018's way, and what copying the same bytes takes.

All sides work on the same galaxies, 300 real and 300 fake ones a brick, in stamps of 64 x 64 x 6. ``pip install -r
benchmarks/requirements.txt`` brings WebDataset; it is left out and named where it is missing.
"""

from __future__ import annotations

import importlib.util
import os
import re
import statistics
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from unittest.mock import patch

import h5py
import numpy as np
from common import begin

from hpc_galaxy.bench.measuring import Log, interleaved, spread
from hpc_galaxy.bench.suite.galaxies import BYTES, EACH, Galaxies, stamps
from hpc_galaxy.bench.suite.split import BATCH, BUFFERS, batches, copy, load, memcpy, ours
from hpc_galaxy.launch import said_by_ranks
from hpc_galaxy.shards.layout_2018 import path_2018
from hpc_galaxy.shards.manifest import SHARD_SIZE
from hpc_galaxy.shards.numpy_shards import open_split
from hpc_galaxy.shards.schema import LABELS, STAMP_SHAPE
from hpc_galaxy.splits import repackage

SHOWN = ("ours", "ours, matched", "ours, float16")  # sides whose own words are printed


@dataclass(frozen=True)
class Survey(Galaxies):
    """The galaxies in the other sides' layouts as well: ``2018`` (its layout) and ``all.npy`` (one array).

    Attributes
    ----------
    bricks_2018 : int
        How many of the bricks 2018's way, slow as it is, is given.
    said : dict of str to str
        What the stage printed last, by side.
    cpu : dict of str to list of (float, float)
        Processor time of each repeat of a side of ours, in the program and in the system, seconds.
    """

    bricks_2018: int
    said: dict[str, str] = field(default_factory=dict)
    cpu: dict[str, list[tuple[float, float]]] = field(default_factory=dict)

    def write(self) -> None:
        """Write the galaxies in each layout."""
        super().write()
        everything = np.lib.format.open_memmap(self.root / "all.npy", "w+", "<f4", (self.count, *STAMP_SHAPE))
        for number, brick in enumerate(self.names):
            for value, label in enumerate(sorted(LABELS)):
                images, start = stamps(number, LABELS[label]), (2 * number + value) * EACH
                everything[start : start + EACH] = images
                if number < self.bricks_2018:
                    write_2018(path_2018(self.root / "2018", label, brick), images)


def write_2018(path: Path, images: np.ndarray) -> None:
    """Write a file as 2018's extraction did: a group a galaxy, and two datasets whose chunks h5py chooses."""
    path.parent.mkdir(parents=True)
    with h5py.File(path, "w") as file:
        for row, stamp in enumerate(images):
            for kind, channels in (("img", stamp[..., :3]), ("ivar", stamp[..., 3:])):
                file.create_dataset(f"{row}/{kind}", data=channels.transpose(1, 0, 2), chunks=True)


def written(said: str) -> int:
    """Return the number of examples that the stage says it wrote."""
    found = re.search(r"([\d,]+) examples in", said)
    assert found, said
    return int(found[1].replace(",", ""))


def as_in_2018(survey: Survey) -> None:
    """Replay 2018's algorithm: brick by brick, galaxy by galaxy, both classes stacked, shuffled, and saved in pieces."""
    rng = np.random.default_rng(1)
    for brick in survey.names[: survey.bricks_2018]:
        parts = [np.array(list(galaxies_of_2018(path_2018(survey.root / "2018", label, brick)))) for label in ("real", "fake")]
        x, y = np.vstack(parts), np.concatenate([np.full(len(part), value) for value, part in enumerate(parts)])
        order = rng.permutation(len(x))
        x, y = x[order], y[order]
        folder = survey.out / brick
        folder.mkdir()
        for number, start in enumerate(range(0, len(x), SHARD_SIZE), 1):
            np.save(folder / f"xtrain_{number}.npy", x[start : start + SHARD_SIZE])
            np.save(folder / f"ytrain_{number}.npy", y[start : start + SHARD_SIZE])


def galaxies_of_2018(path: Path) -> Iterator[np.ndarray]:
    """Yield each galaxy's image and inverse variance in one array."""
    with h5py.File(path, "r") as file:
        for name in file:
            yield np.stack([file[f"{name}/img"][...], file[f"{name}/ivar"][...]], axis=-1).reshape(STAMP_SHAPE)


def with_memmap(survey: Survey) -> None:
    """Take shuffled rows of one memory-mapped array and write them: what a careful script does, once it has such an array."""
    everything = np.load(survey.root / "all.npy", mmap_mode="r")
    order = np.random.default_rng(1).permutation(len(everything))
    for number, start in enumerate(range(0, len(order), SHARD_SIZE)):
        np.save(survey.out / f"xtrain_{number:06d}.npy", everything[order[start : start + SHARD_SIZE]])


def split_and_note(survey: Survey, name: str, **settings: str) -> None:
    """Split as the command does it, and keep what it says and its processor time."""
    before = os.times()
    survey.said[name] = ours(survey, survey.out / "shards", **settings)
    after = os.times()
    survey.cpu.setdefault(name, []).append((after.user - before.user, after.system - before.system))


def split_not_flushed(survey: Survey, name: str) -> None:
    """Split without waiting for the disk: what we promise to survive a power failure may then not."""
    with patch.object(os, "fsync", lambda _: None):
        split_and_note(survey, name)


def split_with_one_writer(survey: Survey, name: str) -> None:
    """Split with one thread that writes, instead of several."""
    with patch.object(repackage, "WRITERS", 1):
        split_and_note(survey, name)


def compare_split(log: Log, survey: Survey, repeats: int) -> None:
    """Time the ways to split, and print the ratios."""
    total = survey.count
    sides: dict[str, Callable[[], object]] = {
        "copy of the stamps": partial(copy, survey, False),
        "copy, flushed to disk": partial(copy, survey),
        "ours": partial(split_and_note, survey, "ours"),
        "ours, not flushed": partial(split_not_flushed, survey, "ours, not flushed"),
        "ours, one writing thread": partial(split_with_one_writer, survey, "ours, one writing thread"),
        "ours, matched": partial(split_and_note, survey, "ours, matched", match="'nearest'"),
        "ours, float16": partial(split_and_note, survey, "ours, float16", storage="'float16'"),
        "2018's way": partial(as_in_2018, survey),
        "memmap, take, write": partial(with_memmap, survey),
    }
    counts = dict.fromkeys(sides, total) | {"2018's way": survey.bricks_2018 * 2 * EACH}
    sides["ours, matched"]()  # imports are paid once a job
    seconds = interleaved(sides, repeats, survey.clear)
    counts |= {name: written(said) for name, said in survey.said.items()}
    print(f"\nsplit of {survey.bricks} bricks, {total:,} examples, {total * BYTES / 1e9:.2f} GB: median [least, most] of {repeats}")
    rate = {name: one.rate for name, one in log.table("split", "examples", seconds, counts).items()}
    print(f"  microseconds an example: {'; '.join(f'{name} {1e6 / value:.0f}' for name, value in rate.items())}")
    user, system = (1e6 * statistics.median(values) / total for values in zip(*survey.cpu["ours"], strict=True))
    print(f"  ours, microseconds of processor an example: {user:.0f} in the program, {system:.0f} in the system")
    log.ratio("split_vs_2018", rate["ours"] / rate["2018's way"], "20")
    log.ratio("split_over_copy", rate["copy of the stamps"] / rate["ours"], "<= 2")
    log.ratio("split_over_flushed_copy", rate["copy, flushed to disk"] / rate["ours"], "<= 2")
    log.ratio("split_not_flushed_over_copy", rate["copy of the stamps"] / rate["ours, not flushed"])
    log.ratio("split_vs_one_writing_thread", rate["ours"] / rate["ours, one writing thread"])
    log.ratio("split_matched_vs_unmatched", rate["ours, matched"] / rate["ours"], "1")
    for name, said in ((name, said) for name, said in survey.said.items() if name in SHOWN):
        lines = [line for line in said.splitlines() if "bytes each" in line or " examples in " in line]
        print("\n".join([f"  {name} says:", *(f"    {line}" for line in lines)]))


def write_tars(survey: Survey, shards: int) -> list[str]:
    """Write the first shards' examples as WebDataset's tar files; return their names."""
    import webdataset

    folder = survey.root / "tar"
    folder.mkdir()
    names = []
    for number, path in enumerate(survey.x_files[:shards]):
        names.append(str(folder / f"{number:06d}.tar"))
        with webdataset.TarWriter(names[-1]) as tar:
            for row, stamp in enumerate(np.load(path, mmap_mode="r")):
                tar.write({"__key__": f"{number:06d}{row:04d}", "x.npy": np.array(stamp), "y.cls": row % 2})
    return names


def load_webdataset(names: list[str]) -> int:
    """Read tar files as WebDataset's manual does, in their order: a shuffle would only be slower."""
    import webdataset

    dataset = webdataset.WebDataset(names, shardshuffle=False).decode().to_tuple("x.npy", "y.cls").batched(BATCH)
    return sum(len(x) for x, _ in dataset)


def compare_loading(log: Log, survey: Survey, repeats: int) -> None:
    """Time the ways to read batches, and print the ratios."""
    reader = open_split(survey.reference, "train")
    chosen = batches(len(reader), 60)
    buffers = np.zeros((BUFFERS, BATCH, *STAMP_SHAPE), np.float32)
    everything = np.load(survey.root / "all.npy")
    sides: dict[str, Callable[[], int]] = {
        "memcpy": partial(memcpy, everything, len(chosen), buffers[0]),
        "ours": partial(load, reader, chosen, buffers),
    }
    if importlib.util.find_spec("webdataset"):
        sides["WebDataset, tar"] = partial(load_webdataset, write_tars(survey, 3))
    counts = {name: run() for name, run in sides.items()}  # and the first touch of memory
    seconds = interleaved(dict(sides), repeats, lambda: None)
    print(f"\nreading random batches of {BATCH}: median [least, most] of {repeats}")
    rate = {name: one.rate for name, one in log.table("load", "examples", seconds, counts).items()}
    log.ratio("load_vs_memcpy", rate["ours"] / rate["memcpy"], "0.8")
    if "WebDataset, tar" in rate:
        log.ratio("load_vs_webdataset", rate["ours"] / rate["WebDataset, tar"], "20")
    else:
        print("webdataset is not installed and was left out: pip install -r benchmarks/requirements.txt")


def scaling(log: Log, survey: Survey, repeats: int) -> None:
    """Compare one rank with two; the seconds are those that the stage says it took, without the start of Python."""
    overrides = [f"--set={setting}" for setting in survey.settings(survey.out / "shards")]
    seconds: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(repeats):
        for ranks, values in seconds.items():
            survey.clear()
            said = said_by_ranks(ranks, ["-m", "hpc_galaxy", "split", *overrides])
            values.append(float(said.split(" examples in ")[1].split(" s on ")[0]))
    print()
    for ranks, values in seconds.items():
        print(f"  {ranks} rank{'s' * (ranks > 1)}: {spread(values)} s")
    log.ratio("split_two_rank_scaling", statistics.median(seconds[1]) / statistics.median(seconds[2]) / 2, "0.95")


def main() -> None:
    """Make the survey, compare the sides."""
    quick, log = begin(__doc__)
    with tempfile.TemporaryDirectory() as folder:
        survey = Survey(Path(folder), *((6, 1) if quick else (48, 6)))
        survey.write()
        survey.clear()
        ours(survey, survey.reference)
        compare_split(log, survey, 3 if quick else 5)
        compare_loading(log, survey, 3 if quick else 7)
        scaling(log, survey, 1 if quick else 5)


if __name__ == "__main__":
    main()
