"""``hpc-galaxy run``: which stages, in which order, and where it ends when one fails."""

from __future__ import annotations

from pathlib import Path

import pytest
import sample_shards

from hpc_galaxy import chain
from hpc_galaxy.chain import STAGES, USUAL, run_chain, run_stage
from hpc_galaxy.config import Config, load_config
from hpc_galaxy.errors import ConfigError, StageError
from hpc_galaxy.shards.manifest import SPLITS
from hpc_galaxy.world import World

Called = list[tuple[str, Config, bool]]


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> Called:
    """Let stages do nothing, and ``audit`` fail; what was called, with which configuration, and whether anew."""
    calls: Called = []

    def note(name: str, config: Config, world: World, overwrite: bool) -> None:
        calls.append((name, config, overwrite))
        if name == "audit":
            raise StageError("shards", "the audit failed: centroid x", "see the lines above")

    monkeypatch.setattr(chain, "run_stage", note)
    return calls


def test_stages_run_in_their_order_with_one_configuration(called: Called, capsys: pytest.CaptureFixture[str]) -> None:
    config = Config(seed=7)
    run_chain(["survey", "inject", "extract"], config, World(), overwrite=True)
    assert called == [("survey", config, True), ("inject", config, True), ("extract", config, True)]
    headings = [line for line in capsys.readouterr().out.splitlines() if line.startswith("== ")]
    assert headings == [f"== {name}: {STAGES[name].purpose}" for name, _, _ in called]


def test_nothing_is_run_after_a_stage_that_fails(called: Called) -> None:
    with pytest.raises(StageError, match="the audit failed: centroid x"):
        run_chain([], Config(), World())
    assert [name for name, _, _ in called] == list(USUAL[:3])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["extract", "spilt"], "there is no stage 'spilt', expected some of survey, inject, extract, split, audit, train, realism"),
        (["split", "extract", "train"], "got the stages 'split extract train', expected 'extract split train'"),
        (["train", "train"], "got the stages 'train train', expected 'train'"),
    ],
)
def test_stages_that_cannot_follow_each_other_are_refused_before_the_first(called: Called, names: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as refused:
        run_chain(names, Config(), World())
    assert called == [] and refused.value.exit_code == 2


def test_every_stage_can_be_loaded_and_the_audit_is_of_the_configurations_shards(tmp_path: Path) -> None:
    assert all(callable(chain.load(stage.function)) for stage in STAGES.values())
    sample_shards.make_shards(tmp_path / "shards", **dict.fromkeys(SPLITS, 16))
    with pytest.raises(StageError, match="shards: the audit failed: "):  # they are of no real split
        run_stage("audit", load_config(None, [f"paths.shards='{tmp_path}/shards'"]), World(), False)
    assert (tmp_path / "shards" / "audit.json").exists()
