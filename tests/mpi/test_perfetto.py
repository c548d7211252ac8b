"""The merged trace of a training's and an extraction's ranks in the Perfetto UI, in a real Chromium: it opens, and says what they say."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import sample_shards
from perfetto import ERRORS, Page, opened

from hpc_galaxy.tracing.show import trace

Mpirun = Callable[..., CompletedProcess[str]]
EXAMPLES, EPOCHS, RANKS = 160, 2, 2
THREADS = "select thread.name from thread join process using (upid) where process.name glob '{}' order by thread.name"


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory, mpirun: Mpirun, require: Callable[[str], None]) -> Path:
    """A training on two ranks through Horovod, with all that can be recorded; its output directory."""
    require("browser")
    require("horovod")
    root = tmp_path_factory.mktemp("perfetto")
    sample_shards.make_shards(root / "shards", train=EXAMPLES, valid=32, test=0, size=32)
    settings = ["train.batch_size=8", f"train.epochs={EPOCHS}", "train.backend='horovod'", "train.threads=1"]
    settings += ["trace.profiler.ranks=[0]", "trace.profiler.wait=3", "trace.profiler.active=2", "trace.horovod_timeline=true"]
    sample_shards.make_config(root, *settings).save(root / "config.toml")
    done = mpirun(RANKS, ["-m", "hpc_galaxy", "train", "-c", str(root / "config.toml"), "--trace"])
    assert done.returncode == 0, done.stderr
    return root / "run"


@pytest.fixture(scope="module")
def extraction(one_rank: Path, training: Path, mpirun: Mpirun) -> Path:
    """An extraction on three ranks, after the training; its output directory."""
    cutouts = training.with_name("cutouts")
    done = mpirun(3, ["-m", "hpc_galaxy", "extract", "-c", str(one_rank / "run.toml"), "--trace", "--set", f"paths.cutouts='{cutouts}'"])
    assert done.returncode == 0, done.stderr
    return cutouts


@pytest.fixture(scope="module")
def page(training: Path, extraction: Path) -> Iterator[Page]:
    """Both, merged and opened."""
    merged = training.with_name("trace.json.gz")
    trace([training, extraction], merged, None, True, None)
    with opened(merged) as page:
        yield page


def processes(page: Page, stage: str) -> list[str]:
    names = page.column(f"select name from process where name glob '{stage} rank*' order by pid")
    return [name.split(" (")[0] for name in names]


def seconds_of_allreduce(run: Path) -> float:
    """Return what all ranks together spent in allreduce, from what they themselves have measured."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return sum(row["allreduce_share"] * EXAMPLES * RANKS / row["images_per_second"] for row in rows)


def test_it_opens_without_an_error(page: Page) -> None:
    assert page.query(ERRORS) == []
    assert page.column("select count(*) from process where pid > 0") == [RANKS + 3]


def test_a_training(page: Page, training: Path, tmp_path: Path) -> None:
    assert processes(page, "train") == ["train rank 0", "train rank 1"]
    common = ["communication", "main thread", "reader", "steps"]
    assert page.column(THREADS.format("train rank 1*")) == common
    first = page.column(THREADS.format("train rank 0*"))
    assert set(common) < set(first) and "Horovod: allreduce.gradients" in first and any("operators" in name for name in first)
    (total,) = page.column("select sum(dur) / 1e9 from slice where name = 'allreduce' and category = 'communication'")
    expected = seconds_of_allreduce(training)
    print(f"allreduce: {total:.4f} s in the trace, {expected:.4f} s by the ranks' own metrics")
    assert total == pytest.approx(expected, rel=0.02)
    steps = EXAMPLES // 16 * EPOCHS
    assert page.column("select count(*) from slice where name = 'step'") == [RANKS * steps]
    # An arrow a step and rank, each from a backward pass to a message.
    ends = "select s1.name || ' to ' || s2.name from flow join slice s1 on slice_out = s1.id join slice s2 on slice_in = s2.id"
    assert page.column(f"{ends} where s2.name = 'allreduce'") == ["backward to allreduce"] * (RANKS * steps)
    assert page.column("select count(*) from slice where name glob 'aten::*convolution*'")[0] > 0
    counters = "select distinct track.name from process_counter_track track join process using (upid) "
    counters += "where process.name glob 'train*' order by track.name"
    assert [name.removesuffix(" value") for name in page.column(counters)] == ["images/s", "memory (MB)"]
    # Operators lie where this package's own spans say that they do.
    inside = "select count(*) from slice b where b.name = 'backward' and exists (select 1 from slice o where o.name = "
    inside += "'aten::convolution_backward' and o.ts >= b.ts - 2000000 and o.ts + o.dur <= b.ts + b.dur + 2000000)"
    assert page.column(inside)[0] >= 2
    page.picture(tmp_path / "picture.png", 0.5, 1.0)
    assert (tmp_path / "picture.png").stat().st_size > 20_000


def test_an_extraction_on_three_ranks(page: Page) -> None:
    assert processes(page, "extract") == [f"extract rank {rank}" for rank in range(3)]
    of_ranks = "join thread_track track on track_id = track.id join thread using (utid) join process using (upid)"
    names = page.column(f"select distinct slice.name from slice {of_ranks} where process.name glob 'extract*'")
    assert {*names} == {"select", "read", "decompress", "cut", "write", "flush", "wait for work"}
    assert {*page.column(THREADS.format("extract rank 2*"))} == {"main thread", "writer"}
    bricks = page.column("select distinct string_value from args where key = 'args.of' and string_value glob '????[pm]???'")
    assert len(bricks) == 10
