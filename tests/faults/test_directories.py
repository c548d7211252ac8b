"""Directories that vanish, fill up, run out of quota, may only be read, or are another job's: in the middle of a stage."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sample_shards
from sample_survey import content, survey

from hpc_galaxy import files
from hpc_galaxy.bricks import survey as survey_stage
from hpc_galaxy.bricks.survey import make_survey
from hpc_galaxy.config import Config, load_config
from hpc_galaxy.cutouts import brick as extract_stage
from hpc_galaxy.cutouts.extract import extract
from hpc_galaxy.errors import HpcGalaxyError, InputError, OutputError, StageError
from hpc_galaxy.files import lock
from hpc_galaxy.injection.inject import inject
from hpc_galaxy.ledger import LOCK, read_ledger
from hpc_galaxy.realism.report import report
from hpc_galaxy.shards.check import check
from hpc_galaxy.splits import outputs as split_stage
from hpc_galaxy.splits import repackage
from hpc_galaxy.splits.audit.audit import audit
from hpc_galaxy.splits.split import split
from hpc_galaxy.training.checkpoint import Checkpoints
from hpc_galaxy.training.predict import predict
from hpc_galaxy.training.train import train
from hpc_galaxy.world import World

Stage = Callable[[Config, World, bool], None]
BRICKS = 3
WRITTEN = (".h5", ".npy", ".fits", ".fz", ".gz", ".pt", ".png")
# A stage, where it writes, and the function in whose second call something happens.
STAGES: dict[str, tuple[Stage, str, Any, str]] = {
    "survey": (make_survey, "survey", survey_stage, "measure"),
    "extract": (extract, "cutouts", extract_stage, "create_stamps"),
    "split": (split, "shards", split_stage, "write_shard"),
    "train": (train, "run", Checkpoints, "save"),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What stages read: a survey of three bricks, cutouts, shards."""
    root = tmp_path_factory.mktemp("made")
    make_survey(configure(root, root), World())
    survey(root / "small", 8, 6)
    sample_shards.make_shards(root / "shards", train=32, valid=16, test=40, size=32)
    return root


def configure(inputs: Path, outputs: Path, stage: str = "") -> Config:
    """Return a configuration in which `stage` reads from `inputs` and writes to `outputs`."""
    paths = {name: inputs / name for name in ("survey", "obiwan", "shards", "run", "report")}
    paths |= {"cutouts": inputs / "small" / "cutouts"}
    written = {"inject": "obiwan", "realism": "report"}.get(stage) or (STAGES[stage][1] if stage in STAGES else "")
    if written:
        paths[written] = outputs / "out"
    settings = ["survey.npix=256", f"survey.bricks={BRICKS}", "survey.galaxies_per_arcmin2=10.0", "injection.per_brick=5"]
    settings += ["extract.classes=['real']", "extract.real_from='survey'", "extract.selection='all'"]
    settings += ["split.match='none'", "split.train=0.5", "split.valid=0.25", "split.test=0.25"]
    settings += ["train.epochs=1", "train.batch_size=16", "train.threads=1", "train.backend='serial'", "train.saving.every_steps=1"]
    return load_config(None, [*[f"paths.{name}='{path}'" for name, path in paths.items()], *settings])


def happens(monkeypatch: pytest.MonkeyPatch, stage: str, what: Callable[[], object], call: int = 2) -> None:
    """Let something happen before the second item of a stage is written."""
    _, _, owner, name = STAGES[stage]
    real, count = getattr(owner, name), 0

    def work(*arguments: Any, **options: Any) -> Any:
        nonlocal count
        count += 1
        if count == call:
            what()
        return real(*arguments, **options)

    monkeypatch.setattr(owner, name, work)


def files_below(root: Path) -> dict[str, bytes]:
    """Return what a stage has made, apart from what says when."""
    timely = ("metrics.jsonl", "DONE", "learning_curve.png", "config.toml", ".lock")
    found = [path for path in root.rglob("*") if path.is_file() and path.name not in timely and "tensorboard" not in path.parts]
    return {str(path.relative_to(root)): path.read_bytes() for path in found if path.suffix not in (".pt", ".safetensors")}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("again", [False, True], ids=["removed", "removed, and another job works there"])
def test_an_output_directory_that_vanishes_is_noticed(
    stage: str, again: bool, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writing makes the directory anew, without what was written before: nothing there may look complete."""
    config, out = configure(made, tmp_path, stage), tmp_path / "out"

    def vanish() -> None:
        out.rename(tmp_path / "gone")
        if again:  # whose marker and lock lie there now
            (out / "checkpoints").mkdir(parents=True)
            (out / LOCK).write_text("process 1 on another node")

    with monkeypatch.context() as patch:
        patch.setattr(repackage, "WRITERS", 1)  # or else the first shard might still be on its way when the second is begun
        happens(patch, stage, vanish)
        with pytest.raises(OutputError, match=r"out: was removed or replaced while this job was writing there; unless another job"):
            STAGES[stage][0](config, World(), False)
    assert not (out / "ledger.json").exists() and not (out / "DONE").exists()
    if not again and stage in ("extract", "split"):
        shutil.rmtree(out)
        STAGES[stage][0](config, World(), False)
        STAGES[stage][0](undisturbed := configure(made, tmp_path / "undisturbed", stage), World(), False)
        other = getattr(undisturbed.paths, STAGES[stage][1])
        assert files_below(out) == files_below(other)


def test_inputs_that_vanish_cost_the_bricks_that_need_them(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(made / "survey", tmp_path / "survey")
    config = configure(tmp_path, tmp_path, "extract")
    with monkeypatch.context() as patch:
        happens(patch, "extract", lambda: (tmp_path / "survey").rename(tmp_path / "away"))
        with pytest.raises(StageError, match=f"{BRICKS - 1} of {BRICKS} bricks failed"):
            extract(config, World())
    assert all("no such file" in entry["error"] for entry in read_ledger(config.paths.cutouts, "extract") if "error" in entry)
    (tmp_path / "away").rename(tmp_path / "survey")
    extract(config, World())
    check([config.paths.cutouts], World())


def test_cutouts_that_vanish_end_the_split_and_it_continues(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = survey(tmp_path, 8, 300, "split.storage='float16'")
    split(config, World())
    before = content(tmp_path)
    shutil.rmtree(config.paths.shards)
    away = tmp_path / "away"
    with monkeypatch.context() as patch:
        happens(patch, "split", lambda: config.paths.cutouts.rename(away))
        with pytest.raises(HpcGalaxyError, match=r"cutouts.*(no such|cannot be)"):
            split(config, World())
            split(config, World())  # where all had been read already
    away.rename(config.paths.cutouts)
    split(config, World())
    assert content(tmp_path) == before


@pytest.mark.parametrize("stage", STAGES)
def test_a_directory_that_may_no_longer_be_written_is_named(
    stage: str, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read_only: Callable[[Path], None]
) -> None:
    config, out = configure(made, tmp_path, stage), tmp_path / "out"
    with monkeypatch.context() as patch:
        happens(patch, stage, lambda: read_only(out))
        with pytest.raises(HpcGalaxyError, match=r"Read-only file system|bricks failed"):
            STAGES[stage][0](config, World(), False)
    assert (not (out / "ledger.json").exists() and not (out / "DONE").exists()) or stage == "extract"


@pytest.fixture
def read_only() -> Iterator[Callable[[Path], None]]:
    """``read_only(path)`` puts the directory itself over it, to be read only: what administrators do with a full file system."""
    if os.geteuid():
        pytest.skip("mounting needs root")
    mounted: list[Path] = []

    def mount(path: Path) -> None:
        subprocess.run(["mount", "--bind", str(path), str(path)], check=True)
        mounted.append(path)
        subprocess.run(["mount", "-o", "remount,bind,ro", str(path)], check=True)

    yield mount
    for path in mounted:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def all_stages(inputs: Path, out: Path) -> dict[str, Callable[[], None]]:
    """Return every verb that writes, each into ``out/VERB/out``."""
    verbs: dict[str, Stage] = {verb: stage[0] for verb, stage in STAGES.items()} | {"inject": inject, "realism": report}
    made = {verb: configure(inputs, out / verb, verb) for verb in verbs}
    return {verb: lambda verb=verb: verbs[verb](made[verb], World(), False) for verb in verbs} | {
        "predict": lambda: predict(inputs / "run", [inputs / "shards"], out / "predict" / "out" / "scores.npy", World()),
        "audit": lambda: audit(shutil.copytree(inputs / "small" / "shards", out / "audit" / "out"), World(), 1),
    }


@pytest.fixture(scope="module")
def complete(made: Path) -> Path:
    """The inputs of every verb, with a trained network."""
    train(configure(made, made), World(), False)
    split(survey(made / "small", 8, 6), World())
    return made


def test_no_quota_is_one_line_in_every_verb(complete: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Network file systems say so when a file is flushed. Nothing is left under its final name, and the same command goes on."""
    verbs = all_stages(complete, tmp_path)
    real = os.fsync

    def full(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if path.is_relative_to(tmp_path) and not path.name.endswith((".toml", "stage.json")):
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
        real(descriptor)

    monkeypatch.setattr(files.os, "fsync", full)
    for verb, work in verbs.items():
        with pytest.raises(
            HpcGalaxyError, match=rf"cannot be written \(Disk quota exceeded\)|{BRICKS} of {BRICKS} bricks failed"
        ) as failure:
            work()
        assert failure.value.exit_code == 1
        out = tmp_path / verb / "out"
        assert [path for path in out.rglob("*") if path.suffix in WRITTEN] == [] or verb == "audit", verb
        assert not list(out.rglob(".partial*")) and not (out / "DONE").exists(), verb
    monkeypatch.undo()
    for verb in ("inject", "predict"):
        verbs[verb]()
    assert (tmp_path / "predict" / "out" / "scores.npy").exists()


def test_a_full_disk_in_the_middle_of_every_stage_before_training(complete: Path, tmp_path: Path) -> None:
    """A real one, of half a megabyte."""
    if os.geteuid():
        pytest.skip("mounting a small file system needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(disk)], check=True)
    try:
        for verb, work in all_stages(complete, disk).items():
            if verb in ("survey", "inject", "extract", "train"):
                with pytest.raises(HpcGalaxyError, match=r"No space left on device|bricks failed"):
                    work()
                assert (not list(disk.rglob(".partial*.fz")) and not list(disk.rglob("ledger.json"))) or verb == "extract"
                shutil.rmtree(disk / verb)
        with pytest.raises(OutputError, match=r"needs \d\.\d\d GB, the file system has 0\.00 GB free|No space left"):
            split(survey(tmp_path, 8, 300, f"paths.shards='{disk}/shards'"), World())
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_second_job_in_the_directory_of_any_stage_is_refused(complete: Path, tmp_path: Path) -> None:
    for verb, work in all_stages(complete, tmp_path).items():
        if verb in ("predict", "audit"):  # which write one file, whole
            continue
        with lock(tmp_path / verb / "out" / LOCK):
            with pytest.raises(OutputError, match=rf"out: another job is writing here \(process {os.getpid()} on .*wait for its end"):
                work()
            assert [path.name for path in (tmp_path / verb / "out").iterdir()] == [LOCK], verb


def test_directories_that_are_missing_are_named(tmp_path: Path) -> None:
    for verb, work in all_stages(tmp_path / "nothing", tmp_path).items():
        if verb not in ("survey", "audit"):
            with pytest.raises((InputError, HpcGalaxyError), match=r"nothing"):
                work()


def test_a_damaged_brick_ends_the_injection_and_it_continues(made: Path, tmp_path: Path) -> None:
    """What was made before the damaged brick stays, and is not made again."""
    shutil.copytree(made / "survey", tmp_path / "survey")
    config = configure(tmp_path, tmp_path, "inject")
    damaged = sorted((tmp_path / "survey").rglob("*image-r*"))[-1]
    content = damaged.read_bytes()
    damaged.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=rf"{damaged.name}: not a readable FITS file"):
        inject(config, World())
    kept = {path: path.stat().st_mtime_ns for path in config.paths.obiwan.rglob("*.fits")}
    assert kept and not (config.paths.obiwan / "ledger.json").exists()
    damaged.write_bytes(content)
    inject(config, World())
    assert len(read_ledger(config.paths.obiwan, "inject")) == BRICKS
    assert all(path.stat().st_mtime_ns == modified for path, modified in kept.items())
