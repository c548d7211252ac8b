"""Repeats of one injected galaxy are known by its parameters, wherever and however it was drawn."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from releases import BRICK, write_legacysim, write_obiwan

from hpc_galaxy.bricks.catalog import CATALOG_DTYPE
from hpc_galaxy.bricks.geometry import brick_wcs
from hpc_galaxy.bricks.simcat import parameter_keys, read_injected, simcat_table
from hpc_galaxy.bricks.views import injected_views
from hpc_galaxy.injection.properties import draw_galaxies, templates

PARAMETERS = {"obiwan": ("{}flux", "n", "rhalf"), "legacysim": ("flux_{}", "sersic", "shape_r")}
OTHERS = ("ra", "dec", "x", "y", "e1", "e2", "shape_e1", "shape_e2", "mw_transmission_g", "mw_transmission_r", "mw_transmission_z")
MAGS = {"g": 22.8, "r": 22.1, "z": 21.567}


def table(kind: str = "obiwan", count: int = 1, dust: float | None = 1.0, **changes: Any) -> np.ndarray:
    """Return injected galaxies of `MAGS`, n 1.3 and 0.45 arcsec; `changes` are of mag_g and so on, n, rhalf, or of any column."""
    flux, index, radius = PARAMETERS[kind]
    names = [flux.format(band) for band in MAGS] + [index, radius, *(name for name in OTHERS if dust or not name.startswith("mw"))]
    made = np.zeros(count, [("id", "i8"), *[(name, "f8") for name in names]])
    made[index], made[radius] = changes.pop("n", 1.3), changes.pop("rhalf", 0.45)
    for band, mag in MAGS.items():
        made[flux.format(band)] = 10 ** ((22.5 - np.asarray(changes.pop(f"mag_{band}", mag))) / 2.5) * (dust or 1)
        if dust:
            made[f"mw_transmission_{band}"] = dust
    for name, value in changes.items():
        made[name] = value
    return made


def keys(made: np.ndarray) -> list[int]:
    found = parameter_keys(made)
    assert (found.dtype, found.shape) == (np.dtype("<u8"), made.shape)
    return [int(key) for key in found]


def expected(*thousandths: int) -> int:
    return int.from_bytes(hashlib.sha256(struct.pack("<6q", *thousandths)).digest()[:8], "little")


@pytest.mark.parametrize("kind", PARAMETERS)
def test_a_key_is_the_hash_that_the_specification_says(kind: str) -> None:
    assert keys(table(kind)) == [expected(22800, 22100, -(2**63), 21567, 450, 1300)]


@pytest.mark.parametrize("kind", PARAMETERS)
def test_a_galaxy_that_is_turned_moved_or_dimmed_by_dust_is_the_same_galaxy(kind: str) -> None:
    (key,) = keys(table(kind))
    places = {"id": 17, "ra": 10.0, "dec": -3.0, "x": 900.0, "y": 7.0}
    shapes = {"e1": 0.3, "e2": -0.2, "shape_e1": 0.3, "shape_e2": 0.1}
    for other in (table(kind, **places), table(kind, **shapes), table(kind, dust=0.713), table(kind, dust=None)):
        assert keys(other) == [key]
    assert keys(table(kind, mag_g=22.8002, rhalf=0.4503, n=1.2996)) == [key]  # within the rounding


@pytest.mark.parametrize("change", [*({f"mag_{band}": mag + 0.001} for band, mag in MAGS.items()), {"n": 1.301}, {"rhalf": 0.451}])
def test_galaxies_that_differ_in_one_parameter_are_two(change: dict[str, float]) -> None:
    for kind in PARAMETERS:
        assert keys(table(kind, **change)) != keys(table(kind))


def test_dust_is_that_of_each_band_and_row() -> None:
    made = table(count=3)
    made["mw_transmission_r"] = [1, 0.8, 1]
    made["rflux"][1] *= 0.8
    made["rflux"][2] *= 0.8  # fainter, and no dust to explain it
    one, dimmed, fainter = keys(made)
    assert one == dimmed != fainter


def test_numbers_in_float32_and_of_other_bytes_have_the_same_keys() -> None:
    rng = np.random.default_rng(1)
    sample = {f"mag_{band}": rng.uniform(19, 24, 2000) for band in MAGS} | {"rhalf": rng.uniform(0.1, 2, 2000)}
    made = table(count=2000, dust=0.9, **sample)
    wanted = parameter_keys(made)
    assert len(set(wanted.tolist())) == 2000
    single = made.astype([(name, "f4") for name in made.dtype.names or ()])
    assert np.mean(parameter_keys(single) != wanted) < 0.002  # those at a step
    assert keys(made.astype(made.dtype.newbyteorder(">"))) == wanted.tolist()


def test_what_is_not_known_has_no_key_and_nothing_crashes() -> None:
    made = table(count=9)
    bands = ("gflux", "rflux", "zflux")
    for row, value in enumerate((0.0, -1.0, np.nan, np.inf)):
        for name in bands:
            made[name][row] = value
    for name in ("mw_transmission_g", "mw_transmission_r", "mw_transmission_z"):
        made[name][4] = 0
    made["zflux"][5] = -3
    made["n"][6] = made["rhalf"][7] = np.nan
    made["rhalf"][8] = 1e308
    found = keys(made)
    assert found[:5] == [0] * 5
    assert 0 not in found[5:]
    assert found[7] == found[8]
    assert len({*found[5:], *keys(table())}) == 4
    assert keys(table(count=0)) == []


def test_a_table_with_other_columns_has_no_keys() -> None:
    made = table(count=2)
    for absent in ("n", "rhalf"):
        assert keys(made[[name for name in made.dtype.names or () if name != absent]]) == [0, 0]
    assert keys(made[["n", "rhalf", "ra"]]) == [0, 0]
    for name, kind in (("n", "S3"), ("rhalf", "(2,)f8"), ("n", "?")):
        assert keys(np.zeros(2, [(column, kind if column == name else "f8") for column in made.dtype.names or ()])) == [0, 0]
    # Of some bands, it is known by these.
    assert keys(made[["n", "rhalf", "rflux"]]) == [expected(-(2**63), 22100, -(2**63), -(2**63), 450, 1300)] * 2


def test_i_counts_where_a_table_has_it() -> None:
    made = table("legacysim")
    with_i = np.zeros(1, [*made.dtype.descr, ("flux_i", "f8")])
    for name in made.dtype.names or ():
        with_i[name] = made[name]
    with_i["flux_i"] = 1
    assert keys(with_i) == [expected(22800, 22100, 22500, 21567, 450, 1300)]


def test_files_of_obiwan_and_legacysim_have_keys(tmp_path: Path) -> None:
    for rs in ("rs0", "more_rs0"):
        write_obiwan(tmp_path / "obiwan", rs, [3, 4, 5], [3, 5])
    one, other = (keys(read_injected(view)) for view in injected_views(tmp_path / "obiwan", BRICK))
    assert one == other
    assert len({*one, 0}) == 3
    write_legacysim(tmp_path / "sim", "file0_rs0_skip0", [1, 2], [False, False])  # without fluxes
    assert keys(read_injected(injected_views(tmp_path / "sim", BRICK)[0])) == [0, 0]


def test_the_packages_own_galaxies_recur_without_jitter_and_not_with_it() -> None:
    catalog = np.zeros(40, CATALOG_DTYPE)
    rng = np.random.default_rng(3)
    catalog["type"], catalog["sersic"], catalog["shape_r"] = [b"REX", b"EXP"] * 20, 1.0, rng.uniform(0.3, 1.5, 40)
    catalog["shape_e1"][1::2] = rng.uniform(-0.4, 0.4, 20)
    for band in MAGS:
        catalog[f"flux_{band}"], catalog[f"mw_transmission_{band}"] = rng.uniform(1, 30, 40), 0.87
    real, wcs = templates(catalog, "test"), brick_wcs(120.0, 6.0, 300)

    def drawn(seed: int, jitter: float) -> list[int]:
        fakes = draw_galaxies(np.random.default_rng(seed), real, 400, jitter, (300, 300))
        return keys(simcat_table(fakes, wcs, dict.fromkeys(MAGS, float(np.float32(0.87)))))

    first, second = drawn(1, 0.0), drawn(2, 0.0)  # two realisations: other places, other angles
    assert set(first) == set(second)
    assert len(set(first)) == 40
    assert len(set(drawn(1, 0.1))) == 400
