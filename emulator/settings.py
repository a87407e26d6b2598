"""The settings of one server: flags win over AMLOCAL_* variables, those over config.toml."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, cast

DEFAULT_PORT = 4265
CONFIG_FILE = "config.toml"


class SettingsError(ValueError):
    """A setting has a value that cannot be used; the message names it and where it came from."""


@dataclass(frozen=True)
class Settings:
    """What a server was told. Paths are absolute; `max_body` is in bytes."""

    data_dir: Path
    port: int = DEFAULT_PORT
    router_port: int = 0
    auth: Literal["strict", "loose"] = "strict"
    weights_dir: Path | None = None
    missing_weights: Literal["error", "random"] = "error"
    max_body: int = 4 * 1024**3

    @property
    def base_url(self) -> str:
        return f"https://localhost:{self.port}"

    @property
    def router_url(self) -> str:
        return f"https://localhost:{self.router_port}"


def to_json(settings: Settings) -> str:
    """Settings as text for the worker's command line; they hold no secret."""
    return json.dumps(
        {key: str(value) if isinstance(value, Path) else value for key, value in vars(settings).items()}
    )


def from_json(text: str) -> Settings:
    """What `to_json` wrote."""
    values = json.loads(text)
    for key in ("data_dir", "weights_dir"):
        values[key] = Path(values[key]) if values[key] else None
    return Settings(**values)


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


_CHOICES = {"auth": ("strict", "loose"), "missing_weights": ("error", "random")}


def _convert(key: str, value: Any, source: str) -> Any:
    if key in _CHOICES:
        if value not in _CHOICES[key]:
            allowed = " or ".join(_CHOICES[key])
            raise SettingsError(f"{key} = {value!r} (from {source}): use {allowed}.")
        return cast(str, value)
    if key == "weights_dir":
        return Path(str(value)).expanduser().absolute()
    try:
        number = int(value)
    except (TypeError, ValueError) as error:
        raise SettingsError(f"{key} = {value!r} (from {source}) is not a whole number.") from error
    if key.endswith("port") and not 1 <= number <= 65534:
        raise SettingsError(f"{key} = {number} (from {source}): use a port from 1 to 65534.")
    return number
