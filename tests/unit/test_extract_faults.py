"""A bad brick costs only itself: one line in the ledger says what is wrong with which file, and a rerun does the rest."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fitsio
import numpy as np
import pytest
from patience import patience

from hpc_galaxy.bricks.images import read_plane, write_plane
from hpc_galaxy.bricks.layout import coadd_path, tractor_path
from hpc_galaxy.bricks.survey import make_survey
from hpc_galaxy.bricks.views import list_bricks
from hpc_galaxy.config import Config, load_config
from hpc_galaxy.cutouts.extract import extract
from hpc_galaxy.errors import OutputError, StageError
from hpc_galaxy.files import sha256
from hpc_galaxy.shards.check import check
from hpc_galaxy.shards.cutout_file import cutout_path
from hpc_galaxy.world import World

NOBODY = 65534
NPIX = 320


@pytest.fixture(scope="module")
def survey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eleven healthy bricks."""
    root = tmp_path_factory.mktemp("faults") / "survey"
    make_survey(load_config(None, [f"paths.survey='{root}'", "survey.bricks=11", f"survey.npix={NPIX}", "seed=4"]), World())
    return root


@pytest.fixture
def config(survey: Path) -> Iterator[Config]:
    """A copy of the survey that any user may read, to be broken."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        root.chmod(0o755)
        shutil.copytree(survey, root / "survey")
        settings = ["extract.classes=['real']", "extract.real_from='survey'", "extract.selection='galaxies'"]
        yield load_config(None, [f"paths.survey='{root}/survey'", f"paths.cutouts='{root}/cutouts'", *settings])


Break = Callable[[Path, str], None]


def missing_coadd(root: Path, brick: str) -> None:
    coadd_path(root, brick, "image", "z").unlink()


def empty_catalog(root: Path, brick: str) -> None:
    tractor_path(root, brick).write_bytes(b"")


def corrupt_tile(root: Path, brick: str) -> None:
    """Make a Rice stream meaningless in its middle, in a file without a checksum that would say so."""
    path = coadd_path(root, brick, "image", "r")
    content = bytearray(path.read_bytes().replace(b"DATASUM ", b"NOTHING "))
    content[len(content) // 2 : len(content) // 2 + 64] = b"\0" * 64
    path.write_bytes(content)


def flipped_bit(root: Path, brick: str) -> None:
    path = coadd_path(root, brick, "image", "z")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def truncated_coadd(root: Path, brick: str) -> None:
    path = coadd_path(root, brick, "invvar", "g")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def truncated_catalog(root: Path, brick: str) -> None:
    path = tractor_path(root, brick)
    path.write_bytes(path.read_bytes()[: path.stat().st_size - 4000])


def wrong_shape(root: Path, brick: str) -> None:
    write_plane(root, brick, "invvar", "r", np.ones((NPIX, NPIX - 20), np.float32), [])


def not_a_number(root: Path, brick: str) -> None:
    pixels = np.array(read_plane(coadd_path(root, brick, "image", "g")).pixels)
    pixels[NPIX // 2 - 40 : NPIX // 2 + 40] = np.nan
    write_plane(root, brick, "image", "g", pixels, [])


def no_permission(root: Path, brick: str) -> None:
    coadd_path(root, brick, "invvar", "z").chmod(0)


def closed_folder(root: Path, brick: str) -> None:
    coadd_path(root, brick, "image", "g").parent.chmod(0)


# What breaks a brick, the file that the ledger has to name, and a part of the reason.
FAULTS: list[tuple[Break, str, str]] = [
    (missing_coadd, "legacysurvey-{}-image-z.fits.fz", "no such file"),
    (empty_catalog, "tractor-{}.fits", "not a readable FITS table"),
    (corrupt_tile, "legacysurvey-{}-image-r.fits.fz", "tile"),
    (flipped_bit, "legacysurvey-{}-image-z.fits.fz", "checksum"),
    (truncated_coadd, "legacysurvey-{}-invvar-g.fits.fz", "it ends after"),
    (truncated_catalog, "tractor-{}.fits", "FITS table"),
    (wrong_shape, "legacysurvey-{}-invvar-r.fits.fz", f"has shape ({NPIX}, {NPIX - 20}), expected ({NPIX}, {NPIX})"),
    (not_a_number, "legacysurvey-{}-image-g.fits.fz", "pixels in the stamps that are no numbers"),
    (no_permission, "legacysurvey-{}-invvar-z.fits.fz", "Permission denied"),
    (closed_folder, "legacysurvey-{}-image-g.fits.fz", "Permission denied"),
]


@contextmanager
def ordinary_user(config: Config) -> Iterator[None]:
    """Root may read everything: be nobody for a while."""
    if os.geteuid() != 0:
        yield
        return
    for path in [config.paths.survey.parent, *config.paths.survey.parent.rglob("*")]:
        os.chown(path, NOBODY, NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def ledger(config: Config) -> list[dict[str, Any]]:
    return json.loads((config.paths.cutouts / "ledger.json").read_text())["items"]


def outputs(config: Config) -> dict[str, int]:
    return {path.stem: path.stat().st_mtime_ns for path in config.paths.cutouts.rglob("*.h5")}


def test_every_fault_is_one_line_and_the_rerun_does_just_the_rest(survey: Path, config: Config) -> None:
    bricks = list_bricks(config.paths.survey)
    broken = dict(zip(bricks, FAULTS, strict=False))
    for brick, (fault, _, _) in broken.items():
        fault(config.paths.survey, brick)
    with ordinary_user(config), pytest.raises(StageError, match="10 of 11 bricks failed") as failure:
        extract(config, World())
    assert failure.value.exit_code != 0
    entries = {entry["brick"]: entry for entry in ledger(config)}
    assert sorted(entries) == bricks
    for brick, (_, file, reason) in broken.items():
        assert set(entries[brick]) == {"brick", "file", "error"}
        assert Path(entries[brick]["file"]).name == file.format(brick)
        assert reason in entries[brick]["error"]
    before = outputs(config)
    assert list(before) == [bricks[-1]]
    assert entries[bricks[-1]]["real"] > 5
    assert not list(config.paths.cutouts.rglob(".partial*"))

    shutil.copytree(survey, config.paths.survey, dirs_exist_ok=True, copy_function=replace)
    extract(config, World())
    after = outputs(config)
    assert sorted(after) == bricks
    assert after[bricks[-1]] == before[bricks[-1]]  # not made again
    assert all(entry["real"] > 5 for entry in ledger(config))
    check([config.paths.cutouts], World())


def replace(source: str, target: str) -> None:
    """Put back what was broken, and leave the rest (and its dates) alone."""
    there = Path(target)
    if not there.exists() or not os.access(there, os.R_OK) or there.read_bytes() != Path(source).read_bytes():
        there.unlink(missing_ok=True)
        shutil.copy2(source, target)


def test_a_brick_whose_inputs_changed_is_cut_again(config: Config) -> None:
    extract(config, World())
    before = outputs(config)
    one, two, three, four = list_bricks(config.paths.survey)[:4]
    made = cutout_path(config.paths.cutouts, "real", one).stat().st_mtime
    os.utime(coadd_path(config.paths.survey, one, "invvar", "z"), (made + 5, made + 5))  # newer
    path = tractor_path(config.paths.survey, two)  # of another size, but as old
    old = path.stat().st_mtime
    table = fitsio.read(str(path))
    fitsio.write(str(path), table[:-20], clobber=True)
    os.utime(path, (old, old))
    content = bytearray(cutout_path(config.paths.cutouts, "real", three).read_bytes())
    cutout_path(config.paths.cutouts, "real", three).write_bytes(content[:-5000])  # our own file is damaged
    cutout_path(config.paths.cutouts, "real", four).unlink()
    extract(config, World())
    after = outputs(config)
    assert {brick for brick in before if before[brick] != after[brick]} == {one, two, three, four}


def test_a_full_disk_is_one_line_a_brick_and_leaves_nothing(config: Config) -> None:
    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    config.save(config.paths.survey.parent / "run.toml")
    command = [sys.executable, "-m", "hpc_galaxy", "extract", "-c", str(config.paths.survey.parent / "run.toml")]
    full = subprocess.run(command, capture_output=True, text=True, preexec_fn=small_files, check=False, timeout=patience(120))
    assert full.returncode == 1
    assert "11 of 11 bricks failed" in full.stderr
    assert "Traceback" not in full.stderr
    for entry in ledger(config):
        assert Path(entry["file"]) == cutout_path(config.paths.cutouts, "real", entry["brick"])
        assert "cannot be written" in entry["error"]
    assert not [path for path in config.paths.cutouts.rglob("*") if path.suffix == ".h5"]
    again = subprocess.run(command, capture_output=True, text=True, check=False, timeout=patience(120))
    assert again.returncode == 0, again.stderr
    assert len(outputs(config)) == 11


def test_an_output_directory_without_permission_is_one_error(config: Config) -> None:
    config.paths.cutouts.mkdir()
    config.paths.cutouts.chmod(0o555)
    with ordinary_user(config), pytest.raises(OutputError, match=r"cutouts.*cannot be written \(Permission denied\)"):
        extract(config, World())


def test_a_disk_that_fails_costs_its_brick_alone(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    one = list_bricks(config.paths.survey)[0]

    def failing(path: Path) -> str:
        if one in path.name:
            raise OSError(errno.EIO, "Input/output error", str(path))
        return sha256(path)

    monkeypatch.setattr("hpc_galaxy.cutouts.brick.sha256", failing)
    with pytest.raises(StageError, match="1 of 11 bricks failed"):
        extract(config, World())
    (failed,) = (entry for entry in ledger(config) if "error" in entry)
    assert failed["brick"] == one
    assert Path(failed["file"]) == tractor_path(config.paths.survey, one)
    assert "Input/output error" in failed["error"]
    assert len(outputs(config)) == 10
