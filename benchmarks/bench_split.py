"""Examples a second of the split, and of reading its shards: ours, 2018's way, and what copying the same bytes takes.

All sides work on the same galaxies, 300 real and 300 fake ones a brick, in stamps of 64 x 64 x 6. ``pip install -r
benchmarks/requirements.txt`` brings WebDataset; it is left out and named where it is missing.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import re
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import h5py
import numpy as np
from common import arguments, interleaved, ratio, run_ranks, say_machine, spread

from hpc_galaxy.config import Config, load_config
from hpc_galaxy.files import write_json
from hpc_galaxy.shards.cutout_file import cutout_path, write_cutouts
from hpc_galaxy.shards.layout_2018 import path_2018
from hpc_galaxy.shards.manifest import SHARD_SIZE
from hpc_galaxy.shards.numpy_shards import SplitReader, open_split
from hpc_galaxy.shards.schema import LABELS, SOURCE_DTYPE, STAMP_SHAPE
from hpc_galaxy.splits.split import split
from hpc_galaxy.training.data.batches import read_ahead
from hpc_galaxy.world import World

EACH = 300  # real galaxies a brick, and fake ones
BATCH = 256
BYTES = int(np.prod(STAMP_SHAPE)) * 4
IMAGE_NOISE, INVVAR = 0.01, 1e4  # nanomaggies, 1/nanomaggies^2


@dataclass
class Survey:
    """The galaxies that all sides repackage.

    Attributes
    ----------
    root : Path
        Holds ``cutouts`` (our layout), ``2018`` (its layout) and ``all.npy`` (one array).
    bricks, bricks_2018 : int
        How many there are, and how many of them 2018's way, slow as it is, is given.
    said : dict of str to str
        What the stage printed last, by side.
    """

    root: Path
    bricks: int
    bricks_2018: int
    said: dict[str, str] = field(default_factory=dict)

    @property
    def out(self) -> Path:
        """Where a side writes."""
        return self.root / "out"

    @property
    def reference(self) -> Path:
        """Shards of all examples, which the copies are made from and which are read."""
        return self.root / "reference"

    def names(self) -> list[str]:
        """Return the bricks' names."""
        return [f"{number:04d}p060" for number in range(self.bricks)]

    def clear(self) -> None:
        """Remove what the side before has left, and let the disk come to rest."""
        shutil.rmtree(self.out, ignore_errors=True)
        self.out.mkdir()
        os.sync()

    def x_files(self) -> list[Path]:
        """Return the files of stamps in the reference."""
        return sorted(self.reference.glob("x*.npy"))


def make_survey(survey: Survey) -> None:
    """Write the galaxies in each layout: noise, bricks a degree apart."""
    items: list[dict[str, object]] = []
    everything = np.lib.format.open_memmap(survey.root / "all.npy", "w+", "<f4", (survey.bricks * 2 * EACH, *STAMP_SHAPE))
    for number, brick in enumerate(survey.names()):
        for value, label in enumerate(sorted(LABELS)):
            images, table = stamps(number, LABELS[label]), sources(number, brick, LABELS[label])
            start = (2 * number + value) * EACH
            everything[start : start + EACH] = images
            write_cutouts(cutout_path(survey.root / "cutouts", label, brick), images, table, {"brick": brick, "label": label})
            if number < survey.bricks_2018:
                write_2018(path_2018(survey.root / "2018", label, brick), images)
        items.append({"brick": brick, **dict.fromkeys(LABELS, EACH)})
    write_json(survey.root / "cutouts" / "stage.json", {"stage": "extract", "fingerprint": "benchmark"})
    write_json(survey.root / "cutouts" / "ledger.json", {"items": items})


def write_2018(path: Path, images: np.ndarray) -> None:
    """Write a file as 2018's extraction did: a group a galaxy, and two datasets whose chunks h5py chooses."""
    path.parent.mkdir(parents=True)
    with h5py.File(path, "w") as file:
        for row, stamp in enumerate(images):
            for kind, channels in (("img", stamp[..., :3]), ("ivar", stamp[..., 3:])):
                file.create_dataset(f"{row}/{kind}", data=channels.transpose(1, 0, 2), chunks=True)


def stamps(number: int, label: int) -> np.ndarray:
    """Return the stamps of a class in a brick."""
    rng = np.random.default_rng([number, label])
    images = rng.standard_normal((EACH, *STAMP_SHAPE), np.float32)
    images *= np.repeat(np.float32([IMAGE_NOISE, INVVAR / 100]), 3)
    images[..., 3:] += np.float32(INVVAR)
    return images


def sources(number: int, brick: str, label: int) -> np.ndarray:
    """Return their source table; a fake galaxy is 0.2 mag fainter, so that there is something to match."""
    rng = np.random.default_rng([number, label, 1])
    table = np.zeros(EACH, SOURCE_DTYPE)
    table["id"] = [f"{label}-{brick}-{row}".encode() for row in range(EACH)]
    table["brick"], table["label"] = brick.encode(), label
    table["ra"], table["dec"] = number + rng.uniform(0, 0.25, EACH), rng.uniform(5.875, 6.125, EACH)
    for band in "grz":
        table[f"mag_{band}"] = rng.normal(21 + 0.2 * label, 0.8, EACH)
        table[f"psfsize_{band}"], table[f"psfdepth_{band}"] = rng.normal(1.2, 0.1, EACH), rng.normal(1000, 100, EACH)
        table[f"mw_transmission_{band}"] = 0.95
    table["shape_r"] = rng.gamma(4, 0.25, EACH)
    table["shape_e1"], table["shape_e2"] = rng.normal(0, 0.2, (2, EACH))
    table["injected"] = label * (number * EACH + np.arange(EACH) + 1)
    return table


def our_config(survey: Survey, out: Path, **settings: str) -> Config:
    """Return the configuration of the stage: everything in one split, which needs no luck with few bricks."""
    return load_config(None, [f"{key}={value}" for key, value in our_settings(survey, out, **settings).items()])


def our_settings(survey: Survey, out: Path, **settings: str) -> dict[str, str]:
    """Return what is set, by key."""
    chosen = {"match": "'none'", "train": "1.0", "valid": "0.0", "test": "0.0", **settings}
    paths = {"paths.cutouts": f"'{survey.root}/cutouts'", "paths.shards": f"'{out}'"}
    return paths | {f"split.{name}": value for name, value in chosen.items()}


def ours(survey: Survey, name: str, **settings: str) -> None:
    """Split as the command does it, flushed to disk."""
    with contextlib.redirect_stdout(io.StringIO()) as said:
        split(our_config(survey, survey.out / "shards", **settings), World(), True)
    survey.said[name] = said.getvalue()


def written(said: str) -> int:
    """Return the number of examples that the stage says it wrote."""
    found = re.search(r"([\d,]+) examples in", said)
    assert found, said
    return int(found[1].replace(",", ""))


def as_in_2018(survey: Survey) -> None:
    """Replay 2018's algorithm: brick by brick, galaxy by galaxy, both classes stacked, shuffled, and saved in pieces."""
    rng = np.random.default_rng(1)
    for brick in survey.names()[: survey.bricks_2018]:
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


def copy(survey: Survey, durable: bool = False) -> None:
    """Copy the bytes of the shards' stamps with cp: what nobody can avoid."""
    files = survey.x_files()
    subprocess.run(["cp", *map(str, files), str(survey.out)], check=True)
    for path in files if durable else ():
        with open(survey.out / path.name, "rb") as file:
            os.fsync(file.fileno())


def with_memmap(survey: Survey) -> None:
    """Take shuffled rows of one memory-mapped array and write them: what a careful script does, once it has such an array."""
    everything = np.load(survey.root / "all.npy", mmap_mode="r")
    order = np.random.default_rng(1).permutation(len(everything))
    for number, start in enumerate(range(0, len(order), SHARD_SIZE)):
        np.save(survey.out / f"xtrain_{number:06d}.npy", everything[order[start : start + SHARD_SIZE]])


def compare_split(survey: Survey, repeats: int) -> None:
    """Time the ways to split, and print the ratios."""
    total = survey.bricks * 2 * EACH
    sides: dict[str, Callable[[], object]] = {
        "cp of the stamps": partial(copy, survey),
        "cp, flushed to disk": partial(copy, survey, True),
        "ours": partial(ours, survey, "ours"),
        "ours, matched": partial(ours, survey, "ours, matched", match="'nearest'"),
        "ours, float16": partial(ours, survey, "ours, float16", storage="'float16'"),
        "2018's way": partial(as_in_2018, survey),
        "memmap, take, write": partial(with_memmap, survey),
    }
    counts = dict.fromkeys(sides, total) | {"2018's way": survey.bricks_2018 * 2 * EACH}
    sides["ours, matched"]()  # imports are paid once a job
    seconds = interleaved(sides, repeats, survey.clear)
    counts |= {name: written(said) for name, said in survey.said.items()}
    median = {name: statistics.median(values) for name, values in seconds.items()}
    rate = {name: counts[name] / median[name] for name in sides}
    print(
        f"\nsplit of {survey.bricks} bricks, {total:,} examples, {total * BYTES / 1e9:.2f} GB: seconds, median [least, most] of {repeats}"
    )
    for name, values in seconds.items():
        print(f"  {name:22} {spread(values):>24}   {counts[name]:7,} examples   {rate[name]:8,.0f}/s")
    ratio("split_vs_2018", rate["ours"] / rate["2018's way"], "20")
    ratio("split_over_copy", rate["cp of the stamps"] / rate["ours"], "<= 2")
    ratio("split_over_flushed_copy", rate["cp, flushed to disk"] / rate["ours"], "<= 2")
    ratio("split_matched_vs_unmatched", rate["ours, matched"] / rate["ours"], "1")
    for name, said in survey.said.items():
        lines = [line for line in said.splitlines() if "bytes each" in line or " examples in " in line]
        print("\n".join([f"  {name} says:", *(f"    {line}" for line in lines)]))


def batches(count: int, number: int) -> list[np.ndarray]:
    """Return `number` random batches of `count` examples."""
    rng = np.random.default_rng(7)
    return [rng.integers(0, count, BATCH) for _ in range(number)]


def load_ours(reader: SplitReader, chosen: Sequence[np.ndarray], buffers: Sequence[np.ndarray]) -> int:
    """Read batches as the training does: one ahead in a background thread, into two buffers that are used in turn."""
    return sum(len(x) for x in read_ahead(lambda item: reader.stamps(item[1], out=buffers[item[0] % 2]), enumerate(chosen)))


def load_memcpy(everything: np.ndarray, number: int, buffer: np.ndarray) -> int:
    """Copy as many examples, in their order, from memory that holds all of them: it is not in the processor's cache either."""
    for first in range(0, number * BATCH, BATCH):
        start = first % (len(everything) - BATCH)
        np.copyto(buffer, everything[start : start + BATCH])
    return number * BATCH


def write_tars(survey: Survey, shards: int) -> list[str]:
    """Write the first shards' examples as WebDataset's tar files; return their names."""
    import webdataset

    folder = survey.root / "tar"
    folder.mkdir()
    names = []
    for number, path in enumerate(survey.x_files()[:shards]):
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


def compare_loading(survey: Survey, repeats: int) -> None:
    """Time the ways to read batches, and print the ratios."""
    reader = open_split(survey.reference, "train")
    chosen = batches(len(reader), 60)
    buffers = np.zeros((2, BATCH, *STAMP_SHAPE), np.float32)
    everything = np.load(survey.root / "all.npy")
    sides: dict[str, Callable[[], int]] = {
        "memcpy": partial(load_memcpy, everything, len(chosen), buffers[0]),
        "ours": partial(load_ours, reader, chosen, buffers),
    }
    if importlib.util.find_spec("webdataset"):
        sides["WebDataset, tar"] = partial(load_webdataset, write_tars(survey, 3))
    counts = {name: run() for name, run in sides.items()}  # and the first touch of memory
    seconds = interleaved(dict(sides), repeats, lambda: None)
    rate = {name: counts[name] / statistics.median(values) for name, values in seconds.items()}
    print(f"\nreading random batches of {BATCH}: seconds, median [least, most] of {repeats}, and examples/s")
    for name, values in seconds.items():
        print(f"  {name:22} {spread(values):>24}   {counts[name]:7,} examples   {rate[name]:8,.0f}/s")
    ratio("load_vs_memcpy", rate["ours"] / rate["memcpy"], "0.8")
    if "WebDataset, tar" in rate:
        ratio("load_vs_webdataset", rate["ours"] / rate["WebDataset, tar"], "20")
    else:
        print("webdataset is not installed and was left out: pip install -r benchmarks/requirements.txt")


def scaling(survey: Survey, repeats: int) -> None:
    """Compare one rank with two; the seconds are those that the stage says it took, without the start of Python."""
    overrides = [f"--set={key}={value}" for key, value in our_settings(survey, survey.out / "shards").items()]
    seconds: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(repeats):
        for ranks, values in seconds.items():
            survey.clear()
            said = run_ranks(ranks, ["-m", "hpc_galaxy", "split", *overrides])
            values.append(float(said.split(" examples in ")[1].split(" s on ")[0]))
    print()
    for ranks, values in seconds.items():
        print(f"  {ranks} rank{'s' * (ranks > 1)}: {spread(values)} s")
    ratio("split_two_rank_scaling", statistics.median(seconds[1]) / statistics.median(seconds[2]) / 2, "0.95")


def main() -> None:
    """Make the survey, compare the sides."""
    options = arguments(__doc__)
    say_machine()
    with tempfile.TemporaryDirectory() as folder:
        survey = Survey(Path(folder), *((6, 1) if options.quick else (48, 6)))
        make_survey(survey)
        survey.clear()
        with contextlib.redirect_stdout(io.StringIO()):
            split(our_config(survey, survey.reference), World(), True)
        compare_split(survey, 3 if options.quick else 5)
        compare_loading(survey, 3 if options.quick else 7)
        scaling(survey, 1 if options.quick else 5)


if __name__ == "__main__":
    main()
