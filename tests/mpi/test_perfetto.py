"""Merged traces of real ranks in the Perfetto UI, in a real Chromium: they open without an error, and say what the ranks say."""

from __future__ import annotations

import json
from collections.abc import Callable
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
    sample_shards.make_shards(root / "shards", train=EXAMPLES, valid=32, test=0)
    settings = ["train.batch_size=8", f"train.epochs={EPOCHS}", "train.backend='horovod'", "train.threads=1"]
    settings += ["trace.profiler.ranks=[0]", "trace.profiler.wait=3", "trace.profiler.active=2", "trace.horovod_timeline=true"]
    sample_shards.make_config(root, *settings).save(root / "config.toml")
    done = mpirun(RANKS, ["-m", "hpc_galaxy", "train", "-c", str(root / "config.toml"), "--trace"])
    assert done.returncode == 0, done.stderr
    return root / "run"


def processes(page: Page) -> list[str]:
    return page.column("select name from process where pid > 0 order by pid")


def seconds_of_allreduce(run: Path) -> float:
    """Return what all ranks together spent in allreduce, from what they themselves have measured."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return sum(row["allreduce_share"] * EXAMPLES * RANKS / row["images_per_second"] for row in rows)


def test_a_training(training: Path, tmp_path: Path) -> None:
    trace([training], tmp_path / "trace.json.gz", None, False, None)
    with opened(tmp_path / "trace.json.gz") as page:
        assert page.query(ERRORS) == []
        assert [name.split(" (")[0] for name in processes(page)] == ["train rank 0", "train rank 1"]
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
        counters = "select distinct name from counter_track order by name"
        assert [name.removesuffix(" value") for name in page.column(counters)] == ["images/s", "memory (MB)"]
        # Operators lie where this package's own spans say that they do.
        inside = "select count(*) from slice b where b.name = 'backward' and exists (select 1 from slice o where o.name = "
        inside += "'aten::convolution_backward' and o.ts >= b.ts - 2000000 and o.ts + o.dur <= b.ts + b.dur + 2000000)"
        assert page.column(inside)[0] >= 2
        page.picture(tmp_path / "picture.png", 0.5, 1.0)
        assert (tmp_path / "picture.png").stat().st_size > 20_000


def test_an_extraction_on_three_ranks(one_rank: Path, tmp_path: Path, mpirun: Mpirun, require: Callable[[str], None]) -> None:
    require("browser")
    command = ["-m", "hpc_galaxy", "extract", "-c", str(one_rank / "run.toml"), "--trace", "--set", f"paths.cutouts='{tmp_path}/cutouts'"]
    done = mpirun(3, command)
    assert done.returncode == 0, done.stderr
    trace([tmp_path / "cutouts"], None, None, True, None)
    with opened(tmp_path / "cutouts" / "trace" / "0001" / "trace.json.gz") as page:
        assert page.query(ERRORS) == []
        assert [name.split(" (")[0] for name in processes(page)] == [f"extract rank {rank}" for rank in range(3)]
        assert set(page.column("select distinct name from slice")) == {
            "select",
            "read",
            "decompress",
            "cut",
            "write",
            "flush",
            "wait for work",
        }
        assert set(page.column(THREADS.format("extract rank 2*"))) == {"main thread", "writer"}
        bricks = page.column("select distinct string_value from args where key = 'args.of' and string_value glob '????[pm]???'")
        assert len(bricks) == 10
