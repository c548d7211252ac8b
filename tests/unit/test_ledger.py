"""The promise and the receipt of a stage."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpc_galaxy.config import Config
from hpc_galaxy.errors import InputError, StaleOutputError
from hpc_galaxy.ledger import Ledger, fingerprint, read_ledger, require_complete
from hpc_galaxy.world import World


def claim(directory: Path, stage: str = "survey", stamp: str = "a", overwrite: bool = False) -> Ledger:
    ledger = Ledger(directory, stage, stamp)
    ledger.open(Config(), World(), overwrite, ["*.dat"])
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
