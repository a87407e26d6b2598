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
    ],
)
def test_a_wrong_value_is_named_with_its_source(
    tmp_path: Path, flags: dict[str, object], environ: dict[str, str], config: str, message: str
) -> None:
    (tmp_path / "config.toml").write_text(config)
    with pytest.raises(SettingsError, match=message):
        settings.load({"data_dir": str(tmp_path), **flags}, environ)


def test_the_worker_gets_the_same_settings(tmp_path: Path) -> None:
    loaded = settings.load({"data_dir": str(tmp_path), "weights_dir": str(tmp_path / "w")}, {})
    assert settings.from_json(settings.to_json(loaded)) == loaded
