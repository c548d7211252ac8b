"""The whole configuration, read from TOML with ``--set section.key=value`` on top."""

from __future__ import annotations

import difflib
import hashlib
import itertools
import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tomli_w
from pydantic import BaseModel, Field, ValidationError
from pydantic_core import ErrorDetails

from hpc_galaxy.config.base import Section
from hpc_galaxy.config.injection import Injection
from hpc_galaxy.config.stages import Extract, Paths, Realism, Silence, Split, Survey
from hpc_galaxy.config.tracing import Trace
from hpc_galaxy.config.training import Train
from hpc_galaxy.errors import ConfigError
from hpc_galaxy.files import write_text


class Config(Section):
    """The whole configuration; `seed` is behind everything random."""

    seed: Annotated[int, Field(ge=0)] = 1
    paths: Paths = Paths()
    survey: Survey = Survey()
    injection: Injection = Injection()
    extract: Extract = Extract()
    split: Split = Split()
    train: Train = Train()
    realism: Realism = Realism()
    trace: Trace = Trace()
    watchdog: Silence = Silence()

    def fingerprint(self, *sections: str) -> str:
        """Return a short hash of the seed and the named sections: two outputs with the same one were asked for alike."""
        chosen = {name: self.model_dump(mode="json")[name] for name in ("seed", *sections)}
        return hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()[:16]

    def save(self, path: Path) -> None:
        """Write the resolved configuration as TOML, so that the run can be repeated from it alone."""
        write_text(path, tomli_w.dumps(self.model_dump(mode="json")))


def load_config(path: Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """Read a configuration.

    Parameters
    ----------
    path : Path, optional
        TOML file; without it every key has its default and paths are relative to the working directory.
    overrides : sequence of str
        ``section.key=value``; the value is TOML, or a plain string where it is not.

    Raises
    ------
    ConfigError
        The file is missing or not TOML, a key is unknown, or a value is of the wrong kind.
    """
    content = _read_toml(path) if path else {}
    overridden = {_apply(content, override) for override in overrides}
    try:
        config = Config.model_validate(_on_top(content, Config().model_dump()))
    except ValidationError as error:
        raise _explain(path, overridden, error) from None
    base = (path.parent if path else Path()).absolute()
    paths = {name: base / value for name, value in config.paths}
    return config.model_copy(update={"paths": Paths(**paths)})


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(path, "no such file", "give the path of a TOML file with -c") from None
    except OSError as error:
        raise ConfigError(path, f"cannot be read ({error.strerror})", "give the path of a TOML file with -c") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(path, f"not TOML: {error}", "mend that line") from None


def _on_top(content: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """Return `defaults` with `content` on top, table by table: one band's seeing may be set alone."""
    merged = dict(defaults)
    for name, value in content.items():
        below = defaults.get(name)
        merged[name] = _on_top(value, below) if isinstance(value, dict) and isinstance(below, dict) else value
    return merged


def _apply(content: dict[str, Any], override: str) -> str:
    """Put an override into `content` and return its key."""
    key, equals, text = (part.strip() for part in override.partition("="))
    if not equals or not key:
        raise ConfigError(f"--set {override}", "expected section.key=value", "for example --set train.epochs=8")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *sections, name = key.split(".")
    table = content
    for section in sections:
        table = table.setdefault(section, {})
        if not isinstance(table, dict):
            raise ConfigError(f"--set {override}", f"'{section}' is a value, expected a section", "see the valid keys in README.md")
    table[name] = value
    return key


def _explain(path: Path | None, overridden: set[str], error: ValidationError) -> ConfigError:
    """Turn pydantic's first complaint into one sentence."""
    complaints = error.errors()
    first, key = complaints[0], _key(complaints[0])
    where = "--set" if path is None or key in overridden else path
    if first["type"] != "extra_forbidden":
        got = "" if isinstance(first["input"], dict) else f", got {first['input']!r}"
        # Where a value may be of several kinds, there is a complaint for each.
        said = dict.fromkeys(one["msg"].removeprefix("Input ").replace("a valid tuple", "a list") for one in complaints if _key(one) == key)
        return ConfigError(where, f"'{key}': Input {', or '.join(said)}{got}", "mend this value")
    near = difflib.get_close_matches(key, _known_keys(), n=1, cutoff=0.0)[0]
    return ConfigError(where, f"unknown key '{key}', the nearest valid one is '{near}'", "rename or remove it")


def _key(complaint: ErrorDetails) -> str:
    """Return the key that a complaint is about, without the names of the kinds that its value may be of, such as ``tuple[str, ...]``."""
    parts = [str(part) for part in complaint["loc"]]
    return ".".join(itertools.takewhile(lambda part: "[" not in part, parts)) or "configuration"


def _known_keys(model: type[BaseModel] = Config, prefix: str = "") -> list[str]:
    keys: list[str] = []
    for name, info in model.model_fields.items():
        keys.append(prefix + name)
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            keys += _known_keys(info.annotation, f"{prefix}{name}.")
    return keys
