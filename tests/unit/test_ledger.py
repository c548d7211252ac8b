"""The promise and the receipt of a stage."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hpc_galaxy.config import Config
from hpc_galaxy.errors import InputError, OutputError, StaleOutputError
from hpc_galaxy.ledger import Ledger, fingerprint, read_ledger, require_complete
from hpc_galaxy.world import World


def claim(directory: Path, stage: str = "survey", stamp: str = "a", overwrite: bool = False) -> Ledger:
    """Begin a stage in `directory`, as if it was then interrupted."""
    ledger = Ledger(directory, stage, stamp)
    with ledger.claim(Config(), World(), overwrite, ["*.dat"]):
        return ledger


def test_a_stage_is_complete_from_its_receipt_on(tmp_path: Path) -> None:
    require_complete(tmp_path, "survey")  # a data release: no stage made it
    ledger = claim(tmp_path)
    with pytest.raises(InputError, match="did not finish here"):
        require_complete(tmp_path, "survey")
    ledger.close(World(), [{"brick": "b"}, {"brick": "a"}])
    assert read_ledger(tmp_path, "survey") == [{"brick": "a"}, {"brick": "b"}]


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_earlier_receipt_does_not_vouch_for_a_new_run(tmp_path: Path, overwrite: bool) -> None:
    claim(tmp_path).close(World(), [])
    claim(tmp_path, overwrite=overwrite)
    with pytest.raises(InputError, match="did not finish here"):
        require_complete(tmp_path, "survey")


def test_outputs_of_another_configuration_stay_until_overwritten(tmp_path: Path) -> None:
    claim(tmp_path)
    claim(tmp_path, stamp="b")  # nothing has been made yet: no harm done
    (tmp_path / "x.dat").write_text("made with b")
    claim(tmp_path, stamp="b")
    with pytest.raises(StaleOutputError, match="another configuration or from other inputs"):
        claim(tmp_path, stamp="c")
    assert (tmp_path / "x.dat").exists()
    claim(tmp_path, stamp="c", overwrite=True)
    assert not (tmp_path / "x.dat").exists()


def test_what_a_job_killed_at_its_very_beginning_has_left_is_removed(tmp_path: Path) -> None:
    claim(tmp_path)
    for name in ("stage.json", "config.toml"):
        (tmp_path / f".partial-4711-{name}").write_text("half")
    claim(tmp_path)
    assert not list(tmp_path.glob(".partial*"))


def test_a_directory_belongs_to_one_stage(tmp_path: Path) -> None:
    claim(tmp_path)
    with pytest.raises(StaleOutputError, match="holds outputs of 'survey', expected 'inject'"):
        claim(tmp_path, stage="inject", overwrite=True)


def test_a_fingerprint_knows_the_inputs(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    claim(one, stamp="a")
    claim(other, stamp="a")
    assert fingerprint(Config(), "split", one) == fingerprint(Config(), "split", other)  # the same content elsewhere
    claim(other, stamp="b")
    assert fingerprint(Config(), "split", one) != fingerprint(Config(), "split", other)
    assert fingerprint(Config(), "split", tmp_path / "dr5") != fingerprint(Config(), "split", tmp_path / "dr9")
    assert fingerprint(Config(seed=2), "split", one) != fingerprint(Config(), "split", one)


def test_a_second_job_in_the_same_directory_is_refused_and_told_who_works_there(tmp_path: Path) -> None:
    first = Ledger(tmp_path, "extract", "a").claim(Config(), World(), False, ["*.dat"])
    refusal = pytest.raises(OutputError, match=rf"another job is writing here \(process {os.getpid()} on .*, since 20")
    with first, refusal:
        claim(tmp_path, stage="extract")
    claim(tmp_path, stage="extract")  # the first has ended


def test_the_lock_of_a_killed_job_is_gone_with_it(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys; from pathlib import Path; from hpc_galaxy.files import lock\n"
        "with lock(Path(sys.argv[1])): os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", program, str(tmp_path / ".lock")], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert (tmp_path / ".lock").read_text().startswith("process")
    claim(tmp_path)


def test_without_locks_the_stage_runs_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_locks(*arguments: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", no_locks)
    claim(tmp_path)
    assert "this file system has no locks; do not start a second job here" in capsys.readouterr().err


def test_a_directory_that_cannot_be_locked_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"file/.lock: cannot be written \(File exists\)"):
        claim(tmp_path / "file")
