"""The whole of "why", and its join with the tables of what was injected, on small splits in one process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import AllHere
from sample_why import SMALL, make_reader, write_truth
from torch import nn

from hpc_galaxy.config import Config, load_config
from hpc_galaxy.realism.why.explain import explain, mean_scores
from hpc_galaxy.realism.why.galleries import SHOWN, choose_galleries
from hpc_galaxy.realism.why.truth import join_truth, read_truth, wanted_copies
from hpc_galaxy.shards.numpy_shards import SplitReader
from hpc_galaxy.training.data.inputs import Inputs
from hpc_galaxy.world import World

PNG = b"\x89PNG\r\n\x1a\n"
INPUTS = Inputs(SMALL.bands, SMALL.planes, 16, SMALL.planes, "standard", (1.0,) * 6, (0.0,) * 6, (1.0,) * 6)


class Faintness(nn.Module):
    """Takes a galaxy for fake that is faint in the middle in g."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        flux = images[:, 0, 6:10, 6:10].sum(dim=(1, 2))
        return torch.stack([flux, torch.zeros_like(flux)], dim=1)


def configure(root: Path, *overrides: str) -> Config:
    return load_config(None, [f"paths.report='{root / 'report'}'", f"paths.obiwan='{root / 'obiwan'}'", *overrides])


def logits_of(reader: SplitReader, slope: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Return radii of the fakes, arcsec, and logits that rise with them by `slope` for a factor of e."""
    rng = np.random.default_rng(3)
    radius = rng.lognormal(-0.7, 0.4, int(reader.labels.sum()))
    scores = rng.normal(size=len(reader)) + reader.labels
    scores[reader.labels == 1] += slope * (np.log(radius) + 0.7)
    return radius, np.stack([np.zeros(len(scores)), scores], axis=1)


def ask(root: Path, reader: SplitReader, logits: np.ndarray, *overrides: str) -> dict[str, Any]:
    found = explain(configure(root, *overrides), reader, Faintness(), INPUTS, torch.device("cpu"), logits, World())
    assert found is not None
    json.dumps(found, allow_nan=False)
    return found


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SplitReader, np.ndarray, dict[str, Any]]:
    root = tmp_path_factory.mktemp("why")
    reader = make_reader(root / "shards", fainter=0.3)
    radius, logits = logits_of(reader, slope=2.5)
    keys = write_truth(root / "obiwan", reader, radius)
    reader.table["injected"][reader.labels == 1] = keys
    return root, reader, logits, ask(root, reader, np.stack([logits, logits]))


def test_everything_is_said_and_drawn(answered: tuple[Path, SplitReader, np.ndarray, dict[str, Any]]) -> None:
    root, reader, logits, found = answered
    assert list(found) == ["stacks", "occlusion", "galleries", "sensitivity"]
    stacks, occlusion, galleries = found["stacks"], found["occlusion"], found["galleries"]
    assert [(row["part"], row["band"]) for row in stacks["rows"][:4]] == [("all", "g"), ("all", "r"), ("all", "z"), ("bright half", "g")]
    assert len(stacks["rows"]) == 9 and stacks["rows"][0]["largest_sigma"] > 5 > stacks["rows"][1]["largest_sigma"]
    assert occlusion["galaxies"] == 6 and occlusion["patch_pixels"] == 2
    assert occlusion["rows"][0]["channel"] == "all" and occlusion["rows"][1]["channel"] == "image_g"
    best = np.flatnonzero(reader.labels == 1)[np.argsort(-logits[reader.labels == 1, 1])]
    assert [each["id"] for each in galleries["most_fake"]] == [reader.table["id"][row].decode() for row in best[:SHOWN]]
    assert all(each["id"].startswith("9010-") for each in galleries["most_fooled"])
    assert galleries["most_fake"][0]["score"] > 0.9 and galleries["most_fake"][0]["mag"] == pytest.approx(reader.table["mag_g"][best[0]])
    pictures = [stacks["picture"], occlusion["picture"], *galleries["pictures"]]
    assert pictures == ["stacks.png", "occlusion.png", "most_fake.png", "most_fooled.png"]
    assert all((root / "report" / name).read_bytes().startswith(PNG) for name in pictures)


def test_the_planted_parameter_comes_out_through_the_tables(answered: tuple[Path, SplitReader, np.ndarray, dict[str, Any]]) -> None:
    found = answered[3]["sensitivity"]
    names = ["r magnitude", "g - r", "r - z", "log half-light radius", "Sersic index", "ellipticity"]
    assert [row["parameter"] for row in found["rows"]] == names
    radius = found["rows"][3]
    assert radius["scatter"] == pytest.approx(0.4 / np.log(10), rel=0.15) and radius["slope"] == pytest.approx(1.0, abs=0.25)
    assert found["sentence"].startswith("log half-light radius: changed by half its scatter (-0.") and radius["change"] == "-0.5 scatter"
    assert radius["auc_if_changed"] < found["auc"] - 0.05


def test_other_ranks_get_nothing_and_hold_nobody_up(answered: tuple[Path, SplitReader, np.ndarray, dict[str, Any]]) -> None:
    """Each rank is given what rank 0 has sent, in its order: a rank that asked for more, or for less, would hang."""
    root, reader, logits, _ = answered
    sent: list[Any] = []
    first = World(size=2, comm=Line(sent, sending=True))
    other = World(rank=1, size=2, comm=Line(sent, sending=False))
    settings = configure(root, "realism.occlusion_galaxies=2")
    model, device = Faintness(), torch.device("cpu")
    with pytest.raises(StopError):  # rank 0 alone has half of the sums only
        explain(settings, reader, model, INPUTS, device, logits, first)
    assert [kind for kind, _ in sent] == ["bcast", "gather"]
    sent[1:] = [("gather", None), ("bcast", (np.arange(2), np.ones(2, int))), ("gather", None)]
    sent += [("bcast", wanted_copies(reader.table, reader.labels)), ("gather", None)]
    assert explain(settings, reader, model, INPUTS, device, None, other) is None
    assert not sent


class StopError(Exception):
    """Rank 0 has sent enough."""


class Line(AllHere):
    """Keeps what a rank sends, up to the first gathering; or gives another rank what was kept."""

    def __init__(self, sent: list[Any], sending: bool) -> None:
        self.sent, self.sending = sent, sending

    def bcast(self, value: Any, root: int) -> Any:
        if self.sending:
            self.sent.append(("bcast", value))
            return value
        kind, value = self.sent.pop(0)
        assert kind == "bcast"
        return value

    def gather(self, value: Any, root: int) -> list[Any]:
        if self.sending:
            self.sent.append(("gather", value))
            raise StopError
        assert self.sent.pop(0)[0] == "gather"
        return []


def test_what_is_impossible_is_null_with_a_reason(tmp_path: Path) -> None:
    reader = make_reader(tmp_path / "shards", bricks=3, each=8)
    reader.table["mag_g"] = np.nan
    _, logits = logits_of(reader)
    found = ask(tmp_path, reader, logits, "realism.occlusion_galaxies=0")
    assert found["occlusion"] is None and found["occlusion_missing"] == "realism.occlusion_galaxies is 0"
    assert found["sensitivity"] is None and "holds no folder rs*" in found["sensitivity_missing"]
    assert {row["part"] for row in found["stacks"]["rows"]} == {"all"}
    assert found["galleries"]["most_fake"][0]["mag"] is None
    reader.labels[:] = 1
    alone = ask(tmp_path, reader, logits, "realism.occlusion_galaxies=0")
    assert alone["stacks_missing"] == alone["sensitivity_missing"] == "one class is missing"
    assert alone["galleries"]["pictures"] == ["most_fake.png"] and alone["galleries"]["most_fooled"] == []


def test_tables_of_another_injection_are_not_believed(answered: tuple[Path, SplitReader, np.ndarray, dict[str, Any]]) -> None:
    root, reader, _, _ = answered
    fakes = reader.table[reader.labels == 1]
    truth = read_truth(root / "obiwan", wanted_copies(reader.table, reader.labels), World())
    assert not isinstance(truth, str)
    rows = join_truth(fakes, truth)
    assert not isinstance(rows, str) and np.array_equal(truth["id"][rows], fakes["id"])
    wrong = truth.copy()
    wrong["injected"] += np.uint64(1)
    assert join_truth(fakes, wrong) == "the tables of what was injected are of another injection than these fakes"
    some = truth[: int(0.95 * len(truth))]
    few = join_truth(fakes, some)
    assert not isinstance(few, str) and (few < 0).sum() == len(truth) - len(some)
    assert join_truth(fakes, truth[:100]) == f"100 of {len(fakes)} fakes are in the tables of what was injected"
    assert join_truth(fakes, truth[:0]) == f"0 of {len(fakes)} fakes are in the tables of what was injected"


def test_truth_is_corrected_for_dust(answered: tuple[Path, SplitReader, np.ndarray, dict[str, Any]]) -> None:
    root, reader, _, _ = answered
    truth = read_truth(root / "obiwan", wanted_copies(reader.table, reader.labels), World())
    assert not isinstance(truth, str)
    # Fluxes of exp(1 + 0.5 normal) nanomaggies, dimmed to 0.9.
    assert np.median(truth["r magnitude"]) == pytest.approx(22.5 - 2.5 * np.log10(np.e / 0.9), abs=0.15)
    assert abs(np.median(truth["g - r"])) < 0.2 and 0.5 <= truth["Sersic index"].min() < truth["Sersic index"].max() <= 6


def test_scores_are_means_over_networks() -> None:
    logits = np.random.default_rng(1).normal(size=(3, 5, 2))
    assert mean_scores(logits) == pytest.approx((logits[..., 1] - logits[..., 0]).mean(axis=0))
    assert mean_scores(logits[0]) == pytest.approx(logits[0, :, 1] - logits[0, :, 0])


def test_galleries_show_the_highest_scores_of_each_class() -> None:
    chosen = choose_galleries(np.array([0, 1, 1, 0]), np.array([0.5, 0.1, 3.0, 0.7]))
    assert {name: rows.tolist() for name, rows in chosen.items()} == {"most_fake": [2, 1], "most_fooled": [3, 0]}
