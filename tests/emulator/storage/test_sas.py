from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from urllib.parse import parse_qs

import pytest

from amlocal.emulator.http.errors import AzureError
from amlocal.emulator.storage.sas import SasKey

ACCOUNT, OTHER = "aml0123456789ab", "amlba9876543210"
NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)


def key(now: datetime = NOW, secret: bytes = b"k" * 32) -> SasKey:
    return SasKey(secret, clock=lambda: now)


def refusal(key: SasKey, *arguments: str | None) -> str:
    with pytest.raises(AzureError) as caught:
        key.verify(*arguments)
    assert caught.value.status == 403
    return caught.value.code


def test_fields_and_grant():
    query = key().sign(ACCOUNT, "box", "lr", NOW + timedelta(hours=1))
    fields = parse_qs(query, strict_parsing=True)
    assert {name: fields[name] for name in ("sr", "sp", "se", "spr")} == {
        "sr": ["c"],
        "sp": ["rl"],
        "se": ["2026-05-01T13:00:00Z"],
        "spr": ["https"],
    }
    assert key().verify(query, ACCOUNT, "box", "a/b", "r") == "rl"
    assert key().verify(query, ACCOUNT, "box", None, "l") == "rl"
    assert key().verify(query + "&comp=list&restype=container", ACCOUNT, "box", None, "xl") == "rl"
    assert refusal(key(), query, ACCOUNT, "box", "a", "w") == "AuthorizationPermissionMismatch"


def test_expiry_is_to_the_second():
    query = key().sign(ACCOUNT, "box", "r", NOW + timedelta(hours=1))
    assert key(NOW + timedelta(minutes=59, seconds=59)).verify(query, ACCOUNT, "box", "b", "r")
    assert refusal(key(NOW + timedelta(hours=1)), query, ACCOUNT, "box", "b", "r") == "AuthenticationFailed"


def test_a_time_in_another_zone_is_the_same_time():
    east = (NOW + timedelta(hours=1)).astimezone(timezone(timedelta(hours=5)))
    assert key().sign(ACCOUNT, "box", "r", east) == key().sign(ACCOUNT, "box", "r", NOW + timedelta(hours=1))


def test_no_other_resource_and_no_other_key():
    container = key().sign(ACCOUNT, "box", "racwdl", NOW + timedelta(hours=1))
    blob = key().sign(ACCOUNT, "box", "racwdl", NOW + timedelta(hours=1), "a/b")
    assert key().verify(blob, ACCOUNT, "box", "a/b", "d") == "racwdl"
    for query, account, box, name in [
        (container, OTHER, "box", "a/b"),
        (container, ACCOUNT, "box2", "a/b"),
        (blob, ACCOUNT, "box", "a"),
        (blob, ACCOUNT, "box", "a/b/c"),
        (blob, ACCOUNT, "box", None),
        (blob.replace("sr=b", "sr=c"), ACCOUNT, "box", "other"),
        (container.replace("sr=c", "sr=b"), ACCOUNT, "box", "a/b"),
    ]:
        assert refusal(key(), query, account, box, name, "r") == "AuthenticationFailed"
    assert refusal(key(secret=b"j" * 32), container, ACCOUNT, "box", "b", "r") == "AuthenticationFailed"


def test_every_field_is_signed_and_needed():
    query = key().sign(ACCOUNT, "box", "r", NOW + timedelta(hours=1))
    fields = dict(part.split("=", 1) for part in query.split("&"))
    for name in fields:
        without = "&".join(f"{key_}={value}" for key_, value in fields.items() if key_ != name)
        assert refusal(key(), without, ACCOUNT, "box", "b", "r") == "AuthenticationFailed"
        assert refusal(key(), f"{without}&{name}=x", ACCOUNT, "box", "b", "r") == "AuthenticationFailed"
        assert (
            refusal(key(), f"{query}&{name}={fields[name]}", ACCOUNT, "box", "b", "r")
            == "AuthenticationFailed"
        )
    for hostile in ("", "sig", "sig=%ff%00", "a&" * 200, "sig=\ud800"):
        assert refusal(key(), hostile, ACCOUNT, "box", "b", "r") == "AuthenticationFailed"


def test_what_is_not_signed():
    later = NOW + timedelta(hours=1)
    for permissions in ("", "x", "rq"):
        with pytest.raises(ValueError, match="permissions"):
            key().sign(ACCOUNT, "box", permissions, later)
    with pytest.raises(ValueError, match="time zone"):
        key().sign(ACCOUNT, "box", "r", later.replace(tzinfo=None))
    with pytest.raises(ValueError, match="at least 32"):
        SasKey(b"short")
    for account, box, blob in (("x", "box", None), (ACCOUNT, "..", None), (ACCOUNT, "box", "../x")):
        with pytest.raises(AzureError):
            key().sign(account, box, "r", later, blob)
