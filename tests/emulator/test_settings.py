"""Settings: which source wins, and what a wrong value is answered with."""

from __future__ import annotations

from pathlib import Path

import pytest

from amlocal.emulator import settings
from amlocal.emulator.settings import SettingsError


def test_flags_win_over_environment_over_file_over_default(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('port = 5000\nauth = "loose"\nmax_body = 1000\n')
    environ = {"AMLOCAL_PORT": "6000", "AMLOCAL_AUTH": "strict"}
    loaded = settings.load({"data_dir": str(tmp_path), "port": 7000}, environ)
    assert (loaded.port, loaded.router_port, loaded.auth, loaded.max_body) == (7000, 7001, "strict", 1000)
    assert settings.load({"data_dir": str(tmp_path)}, environ).port == 6000
    assert settings.load({"data_dir": str(tmp_path)}, {}).port == 5000
    assert settings.load({"data_dir": str(tmp_path / "x")}, {}).port == settings.DEFAULT_PORT


@pytest.mark.parametrize(
    ("flags", "environ", "config", "message"),
    [
        ({"port": 70000}, {}, "", r"port = 70000 \(from command line\)"),
        ({}, {"AMLOCAL_PORT": "abc"}, "", r"port = 'abc' \(from environment\) is not a whole number"),
        ({}, {}, 'auth = "none"', r"auth = 'none' .*strict or loose"),
        ({}, {}, "prot = 1", "unknown setting 'prot'.*port"),
        ({}, {}, "port = ", "not valid TOML"),
        ({}, {"AMLOCAL_MIRRORS": "x"}, "", "mirrors .* is not JSON"),
        ({}, {}, 'mirrors = {"ftp://x" = "/data"}', "must begin with https://"),
        ({}, {"AMLOCAL_CACHE_MAX_GB": "much"}, "", r"cache_max_gb = 'much' .*at least 0"),
        ({}, {"AMLOCAL_TRUST_PICKLE": "ask"}, "", r"trust_pickle = 'ask' .*always or never"),
        ({}, {}, "cache_max_gb = -1", r"cache_max_gb = -1 .*at least 0"),
        ({}, {}, "cache_max_gb = inf", r"cache_max_gb = inf .*at least 0"),
        ({}, {}, "cache_max_gb = true", r"cache_max_gb = True .*at least 0"),
        ({}, {}, 'environments = {mode = "docker"}', "environments.mode = 'docker' .*host or venv"),
        ({}, {}, "environments = {strict = 1}", "environments.strict = 1 .*true or false"),
        ({}, {}, "environments = {image = 1}", "environments.image .*Known: mode, strict, interpreters"),
    ],
)
def test_a_wrong_value_is_named_with_its_source(
    tmp_path: Path, flags: dict[str, object], environ: dict[str, str], config: str, message: str
) -> None:
    (tmp_path / "config.toml").write_text(config)
    with pytest.raises(SettingsError, match=message):
        settings.load({"data_dir": str(tmp_path), **flags}, environ)


def test_room_for_decoded_images(tmp_path: Path) -> None:
    flags = {"data_dir": str(tmp_path)}
    assert settings.load(flags, {}).cache_max_gb == 10.0
    assert settings.load(flags, {"AMLOCAL_CACHE_MAX_GB": "2.5"}).cache_max_gb == 2.5
    (tmp_path / "config.toml").write_text("cache_max_gb = 0\n")
    loaded = settings.load(flags, {})
    assert loaded.cache_max_gb == 0.0 and settings.from_json(settings.to_json(loaded)) == loaded


def test_the_worker_gets_the_same_settings(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(
        'mirrors = {"https://data.example/" = "/mirror"}\n'
        "[environments]\nstrict = true\n"
        'interpreters = {"team-env" = "/opt/team/bin/python"}\n'
    )
    flags = {"data_dir": str(tmp_path), "weights_dir": str(tmp_path / "w"), "allow_paths": ["/data", "/more"]}
    loaded = settings.load(flags, {})
    assert loaded.mirrors == {"https://data.example/": Path("/mirror")}
    assert loaded.environments.interpreters == {"team-env": Path("/opt/team/bin/python")}
    assert loaded.environments.strict and loaded.environments.mode == "host"
    assert loaded.allow_paths == (Path("/data"), Path("/more"))
    assert settings.from_json(settings.to_json(loaded)) == loaded
