"""The cuts: each by itself, chosen by name, tuned, masked, and written by the user."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hpc_galaxy.bricks.catalog import catalog_dtype
from hpc_galaxy.bricks.maskbits import MASKBITS
from hpc_galaxy.config import Extract, load_config
from hpc_galaxy.cutouts.selection import CUTS, SELECTIONS, apply_cuts, cuts, needs, require_valid
from hpc_galaxy.errors import ConfigError

ELG, GALAXIES, ALL = (Extract(selection=name) for name in ("elg", "galaxies", "all"))


def galaxy_like(bands: tuple[str, ...] = ("g", "r", "z"), **columns: float | bytes) -> np.ndarray:
    """Return one catalog row in the middle of the parameter space, with some columns changed."""
    row = np.zeros(1, catalog_dtype(bands))
    row["brick_primary"], row["type"], row["shape_r"] = True, b"EXP", 0.5
    for band, mag in {"g": 22.5, "r": 22.1, "i": 21.7, "z": 21.4}.items():
        if band in bands:
            row[f"flux_{band}"], row[f"flux_ivar_{band}"] = flux(mag), 100
            row[f"mw_transmission_{band}"], row[f"nobs_{band}"], row[f"psfsize_{band}"] = 1, 1, 1.2
    for name, value in columns.items():
        row[name] = value
    return row


def flux(mag: float) -> float:
    return 10 ** ((22.5 - mag) / 2.5)


def removed_by(row: np.ndarray, settings: Extract) -> list[str]:
    """Return the cuts that a row fails."""
    return [name for name, keep in cuts(row, settings).items() if not keep.all()]


def changed(**settings: Any) -> Extract:
    return Extract(**{"selection": "all", **settings})


def test_a_typical_galaxy_passes_every_cut() -> None:
    assert removed_by(galaxy_like(), Extract(selection=tuple(CUTS), maskbits=("BRIGHT",), allmask=("g", "r", "z"))) == []
    assert list(cuts(galaxy_like(), ELG)) == list(SELECTIONS["elg"])
    assert cuts(galaxy_like(), ALL) == {}


@pytest.mark.parametrize(
    ("columns", "failed"),
    [
        ({"brick_primary": False}, ["primary"]),
        ({"type": b"PSF"}, ["not_star"]),
        ({"type": b"DUP"}, ["not_duplicate"]),
        ({"type": b"DEV"}, ["not_comp_or_dev"]),
        ({"type": b"COMP"}, ["not_comp_or_dev"]),
        ({"nobs_z": 0}, ["observed"]),
        ({"flux_g": -0.1}, ["fluxes_measured", "elg_colors", "faint_limit", "bright_limit"]),
        ({"flux_ivar_r": 0}, ["fluxes_measured"]),
        ({"mw_transmission_r": 0}, ["elg_colors", "faint_limit", "bright_limit"]),
        ({"flux_g": flux(24.6), "flux_r": flux(24.0), "flux_z": flux(23.4)}, ["faint_limit"]),
        ({"flux_g": flux(20.6), "flux_r": flux(20.2), "flux_z": flux(19.5)}, ["bright_limit"]),
        ({"shape_r": 2.1}, ["half_light_radius"]),
        ({"shape_r": 0.13}, ["half_light_radius"]),
        ({"flux_g": flux(23.9)}, ["elg_colors"]),
    ],
)
def test_each_cut_of_the_parameter_space(columns: dict[str, float | bytes], failed: list[str]) -> None:
    assert removed_by(galaxy_like(**columns), ELG) == failed


def test_magnitudes_are_corrected_for_dust() -> None:
    faint = galaxy_like(flux_g=flux(24.6), flux_r=flux(24.2), flux_z=flux(23.5))
    assert removed_by(faint, ELG) == ["faint_limit"]
    for band in "grz":
        faint[f"mw_transmission_{band}"] = 0.5
    assert removed_by(faint, ELG) == []


def test_sloped_cuts_are_widened_by_half_a_magnitude_perpendicular() -> None:
    # On the first line, g-r = 1.15 (r-z) - 0.15, the point (r-z, g-r) = (0.6, 0.54); the normal points up and left.
    normal = np.array([-1.15, 1.0]) / np.hypot(1, 1.15)
    for distance, margin, kept in ((0.49, 0.5, True), (0.51, 0.5, False), (0.51, 0.6, True), (0.01, 0.0, False)):
        rz, gr = np.array([0.6, 0.54]) + distance * normal
        row = galaxy_like(flux_g=flux(22.0 + gr), flux_r=flux(22.0), flux_z=flux(22.0 - rz))
        assert cuts(row, Extract(elg={"margin": margin}))["elg_colors"].item() is kept


def test_the_radius_of_a_point_is_half_its_psf() -> None:
    only = changed(selection=("half_light_radius",))
    point = galaxy_like(type=b"PSF", shape_r=0)
    assert removed_by(point, only) == []  # mean FWHM 1.2, half of it 0.6
    assert removed_by(point, changed(selection=("half_light_radius",), elg={"radius": (0.61, 2)})) == ["half_light_radius"]
    assert removed_by(galaxy_like(shape_r=0), only) == ["half_light_radius"]


def test_cuts_are_chosen_and_tuned_by_the_configuration() -> None:
    assert list(cuts(galaxy_like(), changed(selection=("faint_limit", "primary")))) == ["faint_limit", "primary"]
    assert removed_by(galaxy_like(), Extract(elg={"faint": {"g": 24.5, "r": 22.0, "z": 23.0}})) == ["faint_limit"]
    assert removed_by(galaxy_like(), Extract(elg={"bright": {"g": 22.6, "r": 20.0, "z": 20.0}})) == ["bright_limit"]
    assert removed_by(galaxy_like(nobs_r=2), Extract(nobs=2)) == ["observed"]
    overrides = ['extract.selection=["primary"]', 'extract.where.small="shape_r < 0.4"', "extract.elg.margin=0.2"]
    settings = load_config(None, overrides).extract
    assert removed_by(galaxy_like(), settings) == ["small"]
    assert settings.elg.margin == 0.2


def test_every_band_of_the_stamps_has_to_be_observed() -> None:
    bands = ("g", "r", "i", "z")
    settings = Extract(bands=bands)
    assert removed_by(galaxy_like(bands), settings) == []
    assert removed_by(galaxy_like(bands, nobs_i=0), settings) == ["observed"]
    assert removed_by(galaxy_like(bands, flux_i=0), settings) == ["fluxes_measured"]


def test_masks_remove_sources_on_bad_pixels() -> None:
    assert MASKBITS.index("MEDIUM") == 11
    assert MASKBITS.index("SUB_BLOB") == 16
    row = galaxy_like(maskbits=(1 << 11) | (1 << 16))
    for bits, failed in ((("BRIGHT", "GALAXY"), []), (("MEDIUM",), ["maskbits"]), (("16",), ["maskbits"]), (("sub_blob",), ["maskbits"])):
        assert removed_by(row, changed(maskbits=bits)) == failed
    assert removed_by(galaxy_like(maskbits=-(1 << 31)), changed(maskbits=("31",))) == ["maskbits"]
    row = galaxy_like(allmask_r=64)
    assert removed_by(row, changed(allmask=("g", "z"))) == []
    assert removed_by(row, changed(allmask=("g", "r"))) == ["allmask"]
    assert list(cuts(row, Extract(selection="galaxies", maskbits=("BRIGHT",), allmask=("g",), where={"mine": "shape_r > 0"}))) == [
        *SELECTIONS["galaxies"],
        "maskbits",
        "allmask",
        "mine",
    ]


def test_conditions_of_the_user_see_columns_and_magnitudes() -> None:
    for text, failed in (
        ("mag_r < 22", ["mine"]),
        ("mag_g - mag_r < 0.5 and type in ['EXP', 'REX']", []),
        ("flux_r * sqrt(flux_ivar_r) > 5 and nobs_g >= 1", []),
        ("mag_i < 22", ["mine"]),
    ):
        row = galaxy_like(("g", "r", "i", "z"), mw_transmission_i=1.5)
        assert removed_by(row, changed(bands=("g", "r", "i", "z"), where={"mine": text})) == failed


def test_a_source_without_a_magnitude_fails_conditions_on_it_silently() -> None:
    row = galaxy_like(flux_r=-1, mw_transmission_g=0)
    assert removed_by(row, changed(where={"a": "mag_r < 99", "b": "mag_r != 3", "c": "mag_g > 0", "d": "not (mag_r < 99)"})) == [
        "a",
        "b",
        "c",
    ]


def test_columns_beyond_the_common_table_are_asked_for() -> None:
    where = {"a": "fitbits == 0 and mag_w1 < 20 and mag_g < 25", "b": "dered_mag_r < 3 or fitbits > 1"}
    assert needs(changed(where=where)) == ("dered_mag_r", "fitbits", "flux_w1", "mw_transmission_w1")
    assert needs(changed(where={"a": "mag_r < 22 and sersic > 1 and abs(bx) > 3"})) == ()
    row = np.zeros(1, [("flux_w1", "f4"), ("mw_transmission_w1", "f4"), ("fitbits", "i4")])
    row["flux_w1"], row["mw_transmission_w1"] = flux(19), 1
    assert removed_by(row, changed(where={"a": "fitbits == 0 and mag_w1 < 19.1", "b": "mag_w1 < 18.9"})) == ["b"]


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        (
            {"selection": ("primary", "not_a_star")},
            "extract.selection: unknown cut 'not_a_star', the nearest is 'not_star'; choose of primary",
        ),
        ({"maskbits": ("BRIHGT",)}, "extract.maskbits: unknown bit 'BRIHGT', the nearest is 'BRIGHT'"),
        ({"maskbits": ("32",)}, "unknown bit '32'"),
        ({"maskbits": ("-1",)}, "unknown bit '-1'"),
        ({"where": {"x": "mag_r.real < 3"}}, r"extract\.where\.x: >>>mag_r\.real<<< < 3"),
        ({"where": {"x": "type < 3"}}, r"extract\.where\.x: .* compares a string with a number"),
        ({"where": {"primary": "mag_r < 3"}}, r"extract\.where\.primary: is the name of a cut"),
        ({"selection": "elg", "bands": ("g", "r")}, "the catalog has no column 'mag_z', the nearest is 'mag_r'; check extract.bands"),
        ({"allmask": ("i",)}, "no column 'allmask_i'"),
        ({"bands": ("g", "g")}, r"extract\.bands: is \['g', 'g'\], expected one or more, each once"),
        ({"layout": "2018", "size": 32}, r"extract\.size: is 32, expected 64 in the layout '2018'"),
        ({"planes": ()}, r"extract\.planes: is \[\]"),
    ],
)
def test_mistakes_are_found_before_the_first_brick(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        require_valid(changed(**settings))
    require_valid(changed(where={"a": "fitbits == 0", "b": "mag_w1 < 3"}))


def test_a_misspelt_column_is_named_with_its_neighbour() -> None:
    with pytest.raises(ConfigError, match="the catalog has no column 'tpye', the nearest is 'type'"):
        cuts(galaxy_like(), changed(where={"x": "tpye == 'EXP'"}))
    with pytest.raises(ConfigError, match="the catalog has no column 'mag_i', the nearest is 'mag_"):
        cuts(galaxy_like(), changed(where={"x": "mag_i < 3"}))


def test_cut_flow_counts_every_source_once() -> None:
    rows = np.concatenate([galaxy_like(), galaxy_like(type=b"PSF", brick_primary=False), galaxy_like(type=b"PSF")])
    keep, flow = apply_cuts(rows, cuts(rows, GALAXIES))
    assert keep.tolist() == [True, False, False]
    assert flow == {"primary": 1, "not_star": 1, "not_duplicate": 0, "observed": 0}
