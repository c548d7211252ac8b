"""What has to hold of every split, of whatever survey: hypothesis looks for the one of which it does not."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from sample_survey import make_sources, mark, survey_config, write_survey

from hpc_galaxy.bricks.geometry import unit_vectors
from hpc_galaxy.config import Split
from hpc_galaxy.errors import InputError
from hpc_galaxy.shards.check import check
from hpc_galaxy.shards.manifest import SPLITS
from hpc_galaxy.shards.numpy_shards import SplitReader, open_split
from hpc_galaxy.splits.groups import assign
from hpc_galaxy.splits.split import split
from hpc_galaxy.world import World

SIZE = 8  # pixels, of the stamps
PIXEL = 0.262 / 3600  # degrees
Survey = dict[str, list[np.ndarray]]

slow = settings(deadline=None, max_examples=30, derandomize=True, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


@st.composite
def surveys(draw: st.DrawFn, least: int = 3, most: int = 14, sources: int = 40) -> Survey:
    """Return bricks on a grid with random overlaps, somewhere on the sky, of random numbers of sources; some are repeats."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    count, columns = draw(st.integers(least, most)), draw(st.integers(1, 4))
    dec, ra = draw(st.floats(-80, 80)), draw(st.floats(0, 360))
    side, step = draw(st.integers(20, 400)), draw(st.floats(0.6, 1.5))
    keys = draw(st.sampled_from([0, 5, 10**9]))  # how many different galaxies were injected; 0: not known
    made: Survey = {}
    for number in range(count):
        row, column = divmod(number, columns)
        made[f"{number:04d}p000"] = [_table(rng, f"{number:04d}p000", label, draw(st.integers(0, sources))) for label in (0, 1)]
        for table in made[f"{number:04d}p000"]:
            x, y = (side * (step * place + rng.uniform(0, 1, len(table))) for place in (column, row))
            table["dec"] = np.clip(dec + y * PIXEL, -89.9, 89.9)
            table["ra"] = (ra + x * PIXEL / np.cos(np.radians(dec))) % 360
            if keys:
                table["injected"] = table["label"] * rng.integers(1, keys + 1, len(table)).astype(np.uint64)
    return made


def _table(rng: np.random.Generator, brick: str, label: int, count: int) -> np.ndarray:
    return make_sources(rng, brick, label, count)


@st.composite
def choices(draw: st.DrawFn) -> list[str]:
    """Return settings of the split."""
    train, valid = draw(st.sampled_from([(0.8, 0.1), (0.34, 0.33), (0.5, 0.0), (0.5, 0.5)]))
    chosen = [f"split.train={train}", f"split.valid={valid}", f"split.test={round(1 - train - valid, 3)}"]
    chosen += [f"split.guard_arcsec={draw(st.sampled_from([0, 4]))}", f"seed={draw(st.integers(0, 5))}"]
    chosen += [f"split.balance={draw(st.sampled_from(['true', 'false']))}"]
    if draw(st.booleans()):
        chosen += ["split.groups='tile'", "split.tile_arcmin=1"]
    return chosen


@contextmanager
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="hpc_galaxy-"))
    try:
        yield path
    finally:
        shutil.rmtree(path)


def split_or_refuse(root: Path, survey: Survey, chosen: list[str]) -> list[SplitReader] | None:
    """Split a survey; None where it is too small, which is for the numbers to say."""
    write_survey(root, survey)
    try:
        split(survey_config(root, *chosen), World())
    except InputError as refusal:
        assert "expected some of each class" in str(refusal) or "galaxies, expected real and fake" in str(refusal)
        return None
    return [open_split(root / "shards", name) for name in SPLITS]


@slow
@given(surveys(), choices())
def test_splits_share_neither_pixel_nor_group_and_hold_every_example_once(survey: Survey, chosen: list[str]) -> None:
    with folder() as root:
        readers = split_or_refuse(root, survey, chosen)
        assume(readers is not None)
        assert readers is not None
        check([root / "shards"])
        tables = [reader.table for reader in readers]
        assert_apart(tables)
        assert_once(survey, tables, readers)


def assert_apart(tables: list[np.ndarray]) -> None:
    """Stamps of `SIZE` pixels whose centres are a diagonal apart share no pixel, however they lie."""
    points = [unit_vectors(table["ra"], table["dec"]) for table in tables]
    least = np.radians(SIZE * 2**0.5 * PIXEL)
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert not set(tables[one]["group"].tolist()) & set(tables[other]["group"].tolist())
        assert not set(tables[one]["injected"].tolist()) & set(tables[other]["injected"].tolist()) - {0}
        if len(points[one]) and len(points[other]):
            distance = 2 * np.arcsin(np.linalg.norm(points[one][:, None] - points[other], axis=2) / 2)
            assert distance.min() >= least


def assert_once(survey: Survey, tables: list[np.ndarray], readers: list[SplitReader]) -> None:
    everything = np.concatenate([table for pair in survey.values() for table in pair])
    ids = np.concatenate([table["id"] for table in tables])
    assert len(np.unique(ids)) == len(ids) and set(ids.tolist()) <= set(everything["id"].tolist())
    report = readers[0].manifest.report
    assert report["sources"] == len(everything) == len(ids) + sum(report["dropped"].values())
    for reader in readers:
        x = reader.stamps(np.arange(len(reader)))
        assert (x[:, 0, 0, 0] == reader.labels).all() and (x[:, 0, 1, 0] == mark(reader.table["id"])).all()
        assert all(shard.examples == 512 for shard in reader.shards[:-1])


@slow
@given(st.lists(st.sampled_from([0, 1, 2, 255, 256, 257, 511, 512, 513, 1024]), min_size=1, max_size=3), st.booleans())
def test_any_number_of_examples(counts: list[int], balance: bool) -> None:
    rng = np.random.default_rng(0)
    survey = {f"{n:04d}p000": [_table(rng, f"{n:04d}p000", label, count) for label in (0, 1)] for n, count in enumerate(counts)}
    with folder() as root:
        everything = ["split.train=1", "split.valid=0", "split.test=0", f"split.balance={str(balance).lower()}"]
        readers = split_or_refuse(root, survey, everything)
        assert (readers is None) == (sum(counts) == 0)
        if readers is not None:
            check([root / "shards"])
            full, rest = divmod(2 * sum(counts), 512)
            assert [shard.examples for shard in readers[0].shards] == [512] * full + [rest] * (rest > 0)


@slow
@given(surveys(least=4), choices(), st.integers(1, 3))
def test_adding_bricks_moves_nobody(survey: Survey, chosen: list[str], fewer: int) -> None:
    smaller = dict(list(survey.items())[:-fewer])
    with folder() as one, folder() as other:
        before, after = split_or_refuse(one, smaller, chosen), split_or_refuse(other, survey, chosen)
        assume(before is not None and after is not None)
        assert before is not None and after is not None
        side = {identifier: number for number, reader in enumerate(after) for identifier in reader.table["id"].tolist()}
        group = {
            identifier: name
            for reader in after
            for identifier, name in zip(reader.table["id"].tolist(), reader.table["group"], strict=True)
        }
        for number, reader in enumerate(before):
            for row in reader.table:
                assert side.get(row["id"], number) == number  # a neighbour may now be too near, but nobody changes sides
                assert group.get(row["id"], row["group"]) == row["group"]


@given(st.lists(st.text("0123456789pm", min_size=1, max_size=8), unique=True, min_size=2, max_size=60), st.integers(0, 9))
def test_a_group_is_assigned_by_its_name_alone(names: list[str], seed: int) -> None:
    table = make_sources(np.random.default_rng(0), "any", 0, len(names))
    table["brick"] = [name.encode() for name in names]
    group, side = assign(table, seed, Split())
    for number in range(0, len(names), 7):
        alone_group, alone = assign(table[number : number + 1], seed, Split())
        assert (alone_group[0], alone[0]) == (group[number], side[number])
