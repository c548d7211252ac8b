"""The configuration: every mistake is one sentence that names the key and what to do."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from pydantic import ValidationError

from hpc_galaxy.config import Config, load_config
from hpc_galaxy.errors import ConfigError


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "run.toml"
    path.write_text(text)
    return path


def test_defaults_are_relative_to_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_config().paths.shards == tmp_path / "shards"


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, '[paths]\nshards = "a/b"\nrun = "/scratch/run"\n')
    config = load_config(path)

    assert config.paths.shards == tmp_path / "a" / "b"
    assert config.paths.run == Path("/scratch/run")


@pytest.mark.parametrize(
    ("text", "key", "nearest"),
    [
        ("[train]\nepoch = 3\n", "train.epoch", "train.epochs"),
        ("[trian]\nepochs = 3\n", "trian", "train"),
        ("sed = 3\n", "sed", "seed"),
        ("[survey.seeing]\ng = 1.0\nr = 1.0\nz = 1.0\ni = 1.0\n", "survey.seeing.i", "survey.seeing"),
    ],
)
def test_an_unknown_key_names_the_nearest_valid_one(tmp_path: Path, text: str, key: str, nearest: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(written(tmp_path, text))

    assert f"run.toml: unknown key '{key}', the nearest valid one is '{nearest}" in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('[train]\nepochs = "many"\n', "'train.epochs': .*integer.*, got 'many'"),
        ("[train]\nepochs = 0\n", "'train.epochs': .*greater than or equal to 1, got 0"),
        ("[train.optimizer]\nlearning_rate = nan\n", "'train.optimizer.learning_rate'"),
        ('[train]\nbackend = "nccl"\n', "'train.backend': .*'horovod'.*, got 'nccl'"),
        ("train = 3\n", "'train': .*got 3"),
        (
            '[extract]\nselection = "elgs"\n',
            "'extract.selection': Input should be 'elg', 'galaxies' or 'all', or should be a list, got 'elgs'",
        ),
        ("[split]\ntrain = 0.5\n", r"'split': .*train \+ valid \+ test is 0.7, expected 1"),
        ('[extract]\nclasses = ["rael"]\n', r"'extract.classes.0': .*got 'rael'"),
    ],
)
def test_a_wrong_value_is_named(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        load_config(written(tmp_path, text))


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no\.toml: no such file; give the path of a TOML file with -c"):
        load_config(tmp_path / "no.toml")


def test_a_directory_instead_of_a_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path)


@pytest.mark.parametrize("content", [b"[train\n", b"seed = 1\nseed = 2\n", b"a = '\xff'\n"])
def test_what_is_not_toml(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "run.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"run\.toml: not TOML: "):
        load_config(path)


def test_toml_is_utf8_whatever_the_locale(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_bytes('[paths]\nrun = "Zürich"\n'.encode())
    assert load_config(path).paths.run == tmp_path / "Zürich"


def test_overrides_win_over_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, "seed = 3\n[train]\nepochs = 2\nbatch_size = 4\n")
    config = load_config(
        path, ["train.epochs=8", "train.backend=ddp", "split.balance=false", "seed = 5", "survey.seeing.g=2", "paths.run=/a/b"]
    )

    assert (config.seed, config.train.epochs, config.train.batch_size, config.train.backend) == (5, 8, 4, "ddp")
    assert config.split.balance is False
    assert config.survey.seeing["g"] == 2.0
    assert config.paths.run == Path("/a/b")


def test_a_table_may_be_set_in_part(tmp_path: Path) -> None:
    seeing = load_config(written(tmp_path, "[survey.seeing]\ng = 2.0\n")).survey.seeing
    assert (seeing.g, seeing.r) == (2.0, Config().survey.seeing.r)


def test_a_wrong_override_is_not_blamed_on_the_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--set: unknown key 'train\.epoch'"):
        load_config(written(tmp_path, "seed = 3\n"), ["train.epoch = 3"])


def test_the_last_of_two_overrides_wins() -> None:
    assert load_config(overrides=["train.epochs=8", "train.epochs=9"]).train.epochs == 9


def test_a_list_as_override() -> None:
    assert load_config(overrides=['extract.classes=["fake"]']).extract.classes == ("fake",)


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("train.epochs", "--set train.epochs: expected section.key=value"),
        ("seed.epochs=3", "--set seed.epochs=3: 'seed' is a value, expected a section"),
        ("train.epoch=3", "--set: unknown key 'train.epoch', the nearest valid one is 'train.epochs'"),
        ("=3", "--set =3: expected section.key=value"),
        ("train.epochs=many", "--set: 'train.epochs': .*integer.*, got 'many'"),
    ],
)
def test_wrong_overrides(override: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        load_config(overrides=["seed=1", override])


def test_a_saved_configuration_reloads_to_the_same(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, "seed = 3\n"), ["train.epochs=8", "realism.percentiles=[50, 1]"])
    config.save(tmp_path / "elsewhere" / "config.toml")

    again = load_config(tmp_path / "elsewhere" / "config.toml")
    assert again == config
    assert again.fingerprint("train", "survey") == config.fingerprint("train", "survey")


def test_the_fingerprint_depends_on_seed_and_named_sections_only() -> None:
    plain, other = Config(), load_config(overrides=["train.epochs=8"])

    assert plain.fingerprint("survey") == other.fingerprint("survey")
    assert plain.fingerprint("train") != other.fingerprint("train")
    assert plain.fingerprint("survey") != load_config(overrides=["seed=2"]).fingerprint("survey")
    assert len(plain.fingerprint("survey")) == 16


def test_a_configuration_is_read_only() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Config().train.epochs = 3


def test_errors_survive_pickling_between_ranks() -> None:
    error = pickle.loads(pickle.dumps(ConfigError("a", "b", "c")))  # noqa: S301
    assert (type(error), str(error), error.exit_code) == (ConfigError, "a: b; c", 2)
