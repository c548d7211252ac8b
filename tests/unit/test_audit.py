"""The audit finds each leak that is planted, by the line that is meant for it, and passes what has none."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sample_audit import Toy, write_spoilt

from hpc_galaxy.errors import FormatError, InputError, StageError
from hpc_galaxy.realism.clustered import ClusteredAuc
from hpc_galaxy.realism.gate import find_leaks, read_checks
from hpc_galaxy.realism.verdict import ALIKE, REFUSED, TOLD_APART, judge
from hpc_galaxy.shards.rounding import round_mantissas
from hpc_galaxy.shards.schema import LABELS
from hpc_galaxy.splits.audit import examples as examples_module
from hpc_galaxy.splits.audit.audit import NAME, audit

IMPRINT = 0.03

# Some leaks show in more than one way: rounding moves noise maps that are smooth, bad pixels are in all planes.
NOISE_LINES = ("noise maps", "noise beyond light")
ALSO = {
    "noise beyond light": NOISE_LINES,
    "bits in use": NOISE_LINES,
    "no data": ("light without data", *NOISE_LINES),
    "light without data": ("no data", *NOISE_LINES),
}


def run(directory: Path, spoil: Callable[[Toy], object] = lambda toy: None, **how: float) -> dict[str, tuple[str, str]]:
    """Return the result of each check, and what it found."""
    write_spoilt(directory, spoil, **how)
    try:
        audit(directory)
        failed = False
    except StageError:
        failed = True
    content = json.loads((directory / NAME).read_text())
    assert (content["result"] == "fail") == failed
    return {check["name"]: (check["result"], check["found"]) for check in content["checks"]}


def not_passed(found: dict[str, tuple[str, str]]) -> dict[str, str]:
    return {name: result for name, (result, _) in found.items() if result != "pass"}


def put_apart(toy: Toy, arcsec: float) -> None:
    """Move a stamp of train and one of test to where there is nothing else, so far from each other."""
    train, test = np.flatnonzero(toy.side == 0)[3], np.flatnonzero(toy.side == 2)[5]
    toy.table["ra"][[train, test]], toy.table["dec"][test] = 5.0, -1.0
    toy.table["dec"][train] = -1.0 - arcsec / 3600


def overlap(toy: Toy) -> None:
    put_apart(toy, 9.4)


def spread_a_group(toy: Toy) -> None:
    toy.table["group"][np.flatnonzero(toy.side == 2)[0]] = toy.table["group"][toy.side == 0][0]


def inject_again(toy: Toy) -> None:
    train, valid = (next(row for row in toy.fake if toy.side[row] == side) for side in (0, 1))
    toy.table["injected"][valid] = toy.table["injected"][train]


def repeat_an_id(toy: Toy) -> None:
    toy.table["id"][7] = toy.table["id"][6]


def repeat_pixels(toy: Toy) -> None:
    toy.x[np.flatnonzero(toy.side == 1)[0]] = toy.x[np.flatnonzero(toy.side == 0)[0]]


def imprint(toy: Toy) -> None:
    toy.x[toy.fake, 13:19, 13:19, 3:] *= 1 - IMPRINT


def count_no_photons(toy: Toy) -> None:
    """The fakes' inverse variances do not know of their light, as the real ones' do."""
    toy.x[toy.fake, ..., 3:] = np.median(toy.x[toy.fake, ..., 3:], axis=(1, 2), keepdims=True)


def deepen_fakes(toy: Toy) -> None:
    toy.x[toy.fake, ..., 3:] *= 2


def round_fakes(toy: Toy) -> None:
    toy.x[toy.fake] = round_mantissas(toy.x[toy.fake], 9)


def round_images_of_some_fakes(toy: Toy) -> None:
    some = toy.fake[::3]
    images = np.ascontiguousarray(toy.x[some][..., :3])
    toy.x[some, ..., :3] = round_mantissas(images, 20)


def round_noise_maps_of_fakes(toy: Toy) -> None:
    toy.x[toy.fake, ..., 3:] = round_mantissas(np.ascontiguousarray(toy.x[toy.fake][..., 3:]), 16)


def name_other_compression(toy: Toy) -> None:
    toy.provenance["fake"]["compression"] = ["bitshuffle"]


def break_pixels(toy: Toy) -> None:
    toy.x[4, 3, 2, 1] = np.nan


def put_fakes_on_edges(toy: Toy) -> None:
    toy.table["edge"][toy.fake[::3]] = True


def blank_real_centres(toy: Toy) -> None:
    real = np.flatnonzero(toy.table["label"] == LABELS["real"])[::8]
    toy.x[real, 16, 16, 3:] = 0


def light_on_bad_pixels(toy: Toy) -> None:
    toy.x[toy.fake, 0, 0, 3:] = 0


def unmatch(toy: Toy) -> None:
    toy.report["matching"] = {"columns": {}, "tabular_auc_after": {"auc": 0.6, "interval": [0.55, 0.65]}}


def assert_no_verdict(directory: Path, check: str) -> None:
    """Scores that would tell nothing apart, or everything, get no verdict on such shards, and the check is named."""
    leaks = find_leaks(directory / NAME)
    for scores, p_value in ((ClusteredAuc(0.5, 0.004, 0.004, 50), 0.5), (ClusteredAuc(0.9, 0.01, 0.01, 50), 1e-4)):
        assert judge(scores, p_value, None, []).kind in (ALIKE, TOLD_APART)
        verdict = judge(scores, p_value, None, leaks, "at all magnitudes")
        assert verdict.kind == REFUSED and verdict.margin is None
        assert verdict.sentence.startswith("no verdict: the audit failed: ") and check in verdict.sentence
    assert check in {each["name"] for each in read_checks(directory / NAME) if each["result"] == "fail"}


def test_faithful_shards_pass_every_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = run(tmp_path, seed=2)
    assert not_passed(found) == {}
    assert len(found) == 18
    assert find_leaks(tmp_path / NAME) == []
    assert [(check["name"], check["result"], check["found"]) for check in read_checks(tmp_path / NAME)] == [
        (name, *rest) for name, rest in found.items()
    ]
    text = capsys.readouterr().out
    for name, (_, numbers) in found.items():
        assert any(line.split()[0] == "pass" and name in line and numbers in line for line in text.splitlines()), name
    assert "audit: 18 pass, 0 warn, 0 fail" in text


@pytest.mark.parametrize(
    ("spoil", "expected", "number"),
    [
        (overlap, "shared pixels", "2 stamps within 12.2 arcsec of one in another split, nearest 9.4"),
        (spread_a_group, "shared groups", "1 of 30 sky groups in two splits"),
        (inject_again, "injected galaxies", "1 of 359 injected galaxies in two splits"),
        (repeat_an_id, "duplicate ids", "1 ids occur more than once, 0 of them in two splits"),
        (repeat_pixels, "duplicate pixels", "2 stamps are not the only ones with their pixels, 1 such in two splits"),
        (imprint, "noise beyond light", "a classifier on them alone has AUC 0.9"),
        (count_no_photons, "noise beyond light", "a classifier on them alone has AUC 1.000"),
        (deepen_fakes, "noise beyond light", "a classifier on them alone has AUC 0."),
        (round_fakes, "bits in use", "of 23 bits of mantissa: real 23, fake 9"),
        (round_images_of_some_fakes, "bits in use", "real 23, fake 23; all of a stamp's: real 100.00 %, fake 66.67 %"),
        (round_noise_maps_of_fakes, "bits in use", "real 23, fake 16 to 23; all of a stamp's: real 100.00 %, fake 100.00 %"),
        (name_other_compression, "provenance", "5 of 6 attributes agree; compression: real none, fake bitshuffle"),
        (break_pixels, "no numbers", "pixels that are no numbers: real 1, fake 0"),
        (put_fakes_on_edges, "edges", "stamps over the edge: real "),
        (blank_real_centres, "no data", "near the centre: real 14.72 %, fake 2.78 %"),
        (light_on_bad_pixels, "light without data", "real 0.00 %, fake "),
        (unmatch, "matching", "tabular AUC 0.600 [0.550, 0.650]"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_planted_leak_fails_by_its_own_line_and_blocks_the_verdict(
    tmp_path: Path, spoil: Callable[[Toy], object], expected: str, number: str
) -> None:
    found = run(tmp_path, spoil, seed=2)
    result, numbers = found[expected]
    assert result == "fail"
    assert number in numbers
    assert set(not_passed(found)) <= {expected, *ALSO.get(expected, ())}
    assert_no_verdict(tmp_path, expected)


def test_an_offset_of_one_pixel_fails_along_its_axis_alone(tmp_path: Path) -> None:
    found = run(tmp_path, seed=2, offset=1.0)
    # Photons of the galaxies are in the noise maps, which are off as well, as far as the light is.
    assert not_passed(found) == {"centroid x": "fail", "noise maps": "warn"}


def test_an_offset_is_found_down_to_a_tenth_of_a_pixel(tmp_path: Path) -> None:
    assert run(tmp_path, seed=2, offset=0.1)["centroid x"][0] == "fail"
    assert_no_verdict(tmp_path, "centroid x")


def warn_cases() -> dict[str, tuple[Callable[[Toy], object], str]]:
    def forget_positions(toy: Toy) -> None:
        toy.table["ra"] = toy.table["dec"] = np.nan

    def forget_injected(toy: Toy) -> None:
        toy.table["injected"] = 0

    def blank_stamp(toy: Toy) -> None:
        toy.x[1] = 0

    def other_coadds(toy: Toy) -> None:
        toy.table["rs"][toy.table["label"] == LABELS["real"]] = b""

    def say_nothing(toy: Toy) -> None:
        toy.provenance = {label: {} for label in LABELS}

    def other_releases(toy: Toy) -> None:
        toy.provenance["real"]["release"] = ["[9010]", "[9011]"]

    def mixture(toy: Toy) -> None:
        for label in LABELS:
            toy.provenance[label]["mantissa_bits"] = [9, 23]

    def no_match(toy: Toy) -> None:
        del toy.report["matching"]

    def nearly_matched(toy: Toy) -> None:
        toy.report["matching"] = {"columns": {"mag_g": {"smd_after": -0.2}}, "tabular_auc_after": {"auc": 0.5, "interval": [0.48, 0.52]}}

    return {
        "shared pixels": (forget_positions, "720 without position"),
        "injected galaxies": (forget_injected, "360 fakes not known"),
        "duplicate pixels": (blank_stamp, "1 are 0 everywhere"),
        "coadds": (other_coadds, "real 100 %, fake 0 %"),
        "provenance": (say_nothing, "the manifest names none"),
        "provenance ": (other_releases, "release: real [9010], [9011], fake [9010]"),
        "provenance  ": (mixture, "several values of mantissa_bits in both"),
        "matching": (no_match, "not matched"),
        "matching ": (nearly_matched, "largest mean difference 0.20"),
    }


@pytest.mark.parametrize(("name", "case"), warn_cases().items())
def test_what_is_not_known_or_only_odd_is_a_warning(tmp_path: Path, name: str, case: tuple[Callable[[Toy], object], str]) -> None:
    found = run(tmp_path, case[0], seed=2)
    assert not_passed(found) == {name.strip(): "warn"}
    assert case[1] in found[name.strip()][1]


def test_a_promised_guard_that_was_not_kept_is_a_warning(tmp_path: Path) -> None:
    def near(toy: Toy) -> None:
        put_apart(toy, 14.1)
        toy.report["groups"] = {"kind": "tile", "guard_arcsec": 10.0}

    found = run(tmp_path, near, seed=2)
    assert not_passed(found) == {"shared pixels": "warn"}
    assert "0 stamps within 12.2 arcsec of one in another split, nearest 14.1" in found["shared pixels"][1]


def test_more_than_a_few_repeated_stamps_fail_on_one_side_as_well(tmp_path: Path) -> None:
    def repeat(toy: Toy) -> None:
        toy.x[2] = toy.x[0]

    found = run(tmp_path, repeat, seed=2)
    assert not_passed(found) == {"duplicate pixels": "fail"}
    assert_no_verdict(tmp_path, "duplicate pixels")
    assert "0 such in two splits" in found["duplicate pixels"][1]


def test_each_failure_is_explained_and_named_in_the_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_spoilt(tmp_path, repeat_an_id, seed=2)
    with pytest.raises(StageError, match="the audit failed: duplicate ids"):
        audit(tmp_path)
    text = capsys.readouterr().out
    assert "FAIL  duplicate ids" in text
    assert "fail: duplicate ids: each galaxy has to be there once; first: id-6 (train); run 'hpc-galaxy split --overwrite'" in text
    assert "audit: 17 pass, 0 warn, 1 fail" in text


def test_the_same_shards_give_the_same_report(tmp_path: Path) -> None:
    write_spoilt(tmp_path, seed=2)
    audit(tmp_path)
    first = (tmp_path / NAME).read_bytes()
    audit(tmp_path)
    assert (tmp_path / NAME).read_bytes() == first


def test_a_sample_stands_for_a_large_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examples_module, "SAMPLE", 400)
    found = run(tmp_path, seed=2, offset=1.0)
    assert found["centroid x"][0] == "fail"
    measured = json.loads((tmp_path / NAME).read_text())["measured"]
    assert 340 < measured < 460


def test_images_alone_and_one_class_alone_do_not_break_it(tmp_path: Path) -> None:
    def keep_real(toy: Toy) -> None:
        toy.table["label"] = LABELS["real"]

    found = run(tmp_path, keep_real, seed=2)
    for name in ("centroid x", "bits in use", *NOISE_LINES):
        assert found[name][0] == "warn"


def test_no_shards_and_damaged_shards_are_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="run 'hpc-galaxy split' first"):
        audit(tmp_path)
    write_spoilt(tmp_path, seed=2)
    (tmp_path / "xvalid_000000.npy").write_bytes(b"nothing")
    with pytest.raises(FormatError, match="xvalid_000000"):
        audit(tmp_path)
