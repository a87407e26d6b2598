"""The settings of one server: flags win over AMLOCAL_* variables, those over config.toml."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

DEFAULT_PORT = 4265
CONFIG_FILE = "config.toml"


class SettingsError(ValueError):
    """A setting has a value that cannot be used; the message names it and where it came from."""


@dataclass(frozen=True)
class EnvironmentSettings:
    """How jobs' environments are met. `interpreters`: an environment's name to the Python that stands for it.

    `mode` host runs jobs in amlocal's interpreter, venv builds one for every conda file's pip part.
    `strict` refuses a job whose environment asks for versions that the interpreter does not have.
    """

    mode: Literal["host", "venv"] = "host"
    strict: bool = False
    interpreters: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class Caps:
    """The most that an AutoML job may have of each, whatever it asks for; None: no cap.

    For tests of jobs written for other machines. `trials` of a job, `images` of each of its data sets (more
    where there are more classes), `epochs` of a trial, `image_size` in pixels.
    """

    trials: int | None = None
    images: int | None = None
    epochs: int | None = None
    image_size: int | None = None


@dataclass(frozen=True)
class Settings:
    """What a server was told. Paths are absolute; `max_body` is in bytes.

    Folders below `allow_paths` may be mounted as datastores. `mirrors`: URL prefix to the folder with a copy
    of what is behind it. `cache_max_gb` is the most that the decoded images of all jobs together may take on
    disk, in 10^9 bytes; images beyond it are decoded whenever they are needed. `trust_pickle` never refuses
    deployments of models whose files can run code when they are loaded. `caps` make AutoML jobs smaller than
    they ask to be. `warm_start` auto keeps one process with PyTorch imported, of which trials are forks
    (Linux). A trial that makes no progress for `trial_stall_minutes` is ended; 0 lets it hang.
    """

    data_dir: Path
    port: int = DEFAULT_PORT
    router_port: int = 0
    auth: Literal["strict", "loose"] = "strict"
    weights_dir: Path | None = None
    missing_weights: Literal["error", "random"] = "error"
    trust_pickle: Literal["always", "never"] = "always"
    max_body: int = 4 * 1024**3
    cache_max_gb: float = 10.0
    warm_start: Literal["auto", "never"] = "auto"
    trial_stall_minutes: float = 30.0
    allow_paths: tuple[Path, ...] = ()
    mirrors: Mapping[str, Path] = field(default_factory=dict)
    environments: EnvironmentSettings = field(default_factory=EnvironmentSettings)
    caps: Caps = field(default_factory=Caps)

    @property
    def base_url(self) -> str:
        return f"https://localhost:{self.port}"

    @property
    def router_url(self) -> str:
        return f"https://localhost:{self.router_port}"


def to_json(settings: Settings) -> str:
    """Settings as text for the worker's command line; they hold no secret."""
    return json.dumps(asdict(settings), default=str)


def from_json(text: str) -> Settings:
    """What `to_json` wrote."""
    values = json.loads(text)
    data_dir = Path(values.pop("data_dir"))
    return Settings(data_dir=data_dir, **{key: _convert(key, value, "json") for key, value in values.items()})


def default_data_dir() -> Path:
    """The platform's folder for a user's data (https://pypi.org/project/platformdirs/)."""
    import platformdirs

    return Path(platformdirs.user_data_dir("amlocal", appauthor=False))


def load(flags: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """Settings from flags, environment, the data folder's config.toml and defaults.

    Raises SettingsError naming the setting, its value and its source.
    """
    given = {key: value for key, value in (flags or {}).items() if value is not None}
    environment = os.environ if environ is None else environ
    data_dir = Path(given.pop("data_dir", None) or environment.get("AMLOCAL_DATA_DIR") or default_data_dir())
    data_dir = data_dir.expanduser().absolute()
    values: dict[str, Any] = {}
    for source, raw in (
        (str(data_dir / CONFIG_FILE), _read_config(data_dir / CONFIG_FILE)),
        ("environment", _read_environment(environment)),
        ("command line", given),
    ):
        for key, value in raw.items():
            values[key] = _convert(key, value, source)
    values.setdefault("port", DEFAULT_PORT)
    if not values.get("router_port"):
        values["router_port"] = values["port"] + 1
    return Settings(data_dir=data_dir, **values)


def _names() -> set[str]:
    return {field.name for field in fields(Settings)} - {"data_dir"}


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not valid TOML: {error}. Mend or remove the file.") from error
    unknown = sorted(set(raw) - _names())
    if unknown:
        known = ", ".join(sorted(_names()))
        raise SettingsError(f"{path}: unknown setting {unknown[0]!r}. Known settings: {known}.")
    return raw


def _read_environment(environ: Mapping[str, str]) -> dict[str, str]:
    return {
        name: environ[f"AMLOCAL_{name.upper()}"]
        for name in _names()
        if environ.get(f"AMLOCAL_{name.upper()}")
    }


_CHOICES = {
    "auth": ("strict", "loose"),
    "missing_weights": ("error", "random"),
    "trust_pickle": ("always", "never"),
    "warm_start": ("auto", "never"),
}
_MODES = ("host", "venv")
_LEAST = {"trials": 1, "images": 1, "epochs": 1, "image_size": 32}
# 2**31 - 1: what a whole number of Azure's REST model (int32) can be at most.
_MOST = 2**31 - 1


def _convert(key: str, value: Any, source: str) -> Any:
    if key in _CHOICES:
        return _one_of(key, value, _CHOICES[key], source)
    if key == "weights_dir":
        return None if value is None else _path(value)
    if key == "allow_paths":
        parts = value.split(os.pathsep) if isinstance(value, str) else value
        return tuple(_path(part) for part in parts if part)
    if key == "mirrors":
        return {_url(prefix, source): _path(folder) for prefix, folder in _table(key, value, source).items()}
    if key == "environments":
        return _environments(value, source)
    if key == "caps":
        return _caps(value, source)
    if key in ("cache_max_gb", "trial_stall_minutes"):
        return _size(key, value, source)
    try:
        number = int(value)
    except (TypeError, ValueError) as error:
        raise SettingsError(f"{key} = {value!r} (from {source}) is not a whole number.") from error
    if key.endswith("port") and not 1 <= number <= 65534:
        raise SettingsError(f"{key} = {number} (from {source}): use a port from 1 to 65534.")
    return number


def _size(key: str, value: Any, source: str) -> float:
    try:
        number = float("nan") if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = float("nan")
    if not 0 <= number < float("inf"):
        raise SettingsError(f"{key} = {value!r} (from {source}): use a number of at least 0.")
    return number


def _path(value: Any) -> Path:
    return Path(str(value)).expanduser().absolute()


def _one_of(key: str, value: Any, allowed: tuple[str, ...], source: str) -> Any:
    if value not in allowed:
        raise SettingsError(f"{key} = {value!r} (from {source}): use {' or '.join(allowed)}.")
    return value


def _table(key: str, value: Any, source: str) -> dict[str, Any]:
    """A table; in the environment it is written as JSON."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise SettingsError(f"{key} (from {source}) is not JSON: {error}.") from error
    if not isinstance(value, dict):
        raise SettingsError(f"{key} = {value!r} (from {source}) must be a table.")
    return value


def _url(prefix: str, source: str) -> str:
    if not prefix.startswith(("https://", "http://")):
        raise SettingsError(f"mirrors.{prefix!r} (from {source}) must begin with https:// or http://.")
    return prefix


def _environments(value: Any, source: str) -> EnvironmentSettings:
    table = _table("environments", value, source)
    unknown = sorted(set(table) - {"mode", "strict", "interpreters"})
    if unknown:
        raise SettingsError(
            f"environments.{unknown[0]} (from {source}) is unknown. Known: mode, strict, interpreters."
        )
    strict = table.get("strict", False)
    if not isinstance(strict, bool):
        raise SettingsError(f"environments.strict = {strict!r} (from {source}): use true or false.")
    interpreters = _table("environments.interpreters", table.get("interpreters", {}), source)
    return EnvironmentSettings(
        mode=_one_of("environments.mode", table.get("mode", "host"), _MODES, source),
        strict=strict,
        interpreters={name: _path(python) for name, python in interpreters.items()},
    )


def _caps(value: Any, source: str) -> Caps:
    table = {key: cap for key, cap in _table("caps", value, source).items() if cap is not None}
    unknown = sorted(set(table) - set(_LEAST))
    if unknown:
        raise SettingsError(f"caps.{unknown[0]} (from {source}) is unknown. Known: {', '.join(_LEAST)}.")
    for key, cap in table.items():
        if isinstance(cap, bool) or not isinstance(cap, int) or not _LEAST[key] <= cap <= _MOST:
            raise SettingsError(
                f"caps.{key} = {cap!r} (from {source}): use a whole number of at least {_LEAST[key]}."
            )
    return Caps(**table)
