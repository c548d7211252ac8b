"""What real and fake galaxies are matched on."""

from __future__ import annotations

import numpy as np
import pytest

from hpc_galaxy.config import Split
from hpc_galaxy.errors import ConfigError, InputError
from hpc_galaxy.shards.schema import DEFAULT, StampFormat
from hpc_galaxy.splits.columns import expand_columns, features, require_measured


def test_names_of_all_bands() -> None:
    assert expand_columns(["mag", "shape_r", "ellipticity", "psfsize_r", "depth"], DEFAULT) == [
        *("mag_g", "mag_r", "mag_z", "shape_r", "ellipticity", "psfsize_r"),
        *("depth_g", "depth_r", "depth_z"),
    ]
    four = StampFormat(bands=("g", "r", "i", "z"))
    assert expand_columns(["depth", "mag_i"], four) == ["depth_g", "depth_r", "depth_i", "depth_z", "mag_i"]
    assert expand_columns(["mag_r", "mag", "mag_r"], DEFAULT) == ["mag_r", "mag_g", "mag_z"], "a column more than once"


def test_every_valid_name_has_values() -> None:
    defaults = expand_columns(Split().match_columns, DEFAULT)
    assert len(defaults) == 11
    everything = [name for name in DEFAULT.source_dtype.names or () if DEFAULT.source_dtype[name].kind == "f"]
    table = np.ones(3, DEFAULT.source_dtype)
    assert np.isfinite(features(table, [*everything, *defaults])).all()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["mags"], "'mags' is no column to match on, the nearest valid one is 'mag'; choose among mag, flux,"),
        (["label"], "'label' is no column to match on"),
        (["injected"], "'injected' is no column to match on"),
        (["depth_i"], "'depth_i' is no column to match on, the nearest valid one is 'depth_z'"),
        ([], "is empty, expected names of columns; name some, or set split.match = 'none'"),
    ],
)
def test_names_that_are_refused(names: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=r"split\.match_columns: ") as error:
        expand_columns(names, DEFAULT)
    assert message in str(error.value)


def test_values() -> None:
    table = np.zeros(3, DEFAULT.source_dtype)
    table["mag_g"] = [20.5, np.nan, np.inf]
    table["shape_e1"], table["shape_e2"] = [0.3, 0, -0.3], [-0.4, 0, 0]
    # 5 sigma of 1/psfdepth = 0.01 nanomaggies^2 are 0.5 nanomaggies, of magnitude 22.5 + 0.7526.
    table["psfdepth_r"] = [100, 0, -1]
    got = features(table, ["depth_r", "mag_g", "ellipticity"])
    assert got.dtype == np.float32 and got.shape == (3, 3)
    expected = [[23.252575, 20.5, 0.5], [np.nan, np.nan, 0], [np.nan, np.nan, 0.3]]
    np.testing.assert_allclose(got, np.array(expected, np.float32), rtol=1e-6)
    assert features(table[:0], ["mag_g", "depth_z"]).shape == (0, 2)


def test_what_was_never_measured() -> None:
    labels = np.array([0, 0, 1, 1])
    values = np.array([[1, 2], [1, np.nan], [1, np.nan], [np.nan, np.nan]], np.float32)
    with pytest.raises(InputError) as error:
        require_measured(values, labels, ["mag_g", "mag_r"])
    assert str(error.value) == (
        "cutouts: none of 2 fake sources has a value of mag_r, which split.match_columns asks for; "
        "set split.match = 'none', or leave these columns out of split.match_columns"
    )
    require_measured(values[:, :1], labels, ["mag_g"])
    require_measured(values[:0], labels[:0], ["mag_g", "mag_r"])
