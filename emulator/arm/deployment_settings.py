"""The settings of an online deployment that have ranges: instances, requests, probes, environment variables.

Defaults and limits: Azure's "Managed online endpoint limits" and its ProbeSettings and OnlineRequestSettings.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import isodate

from amlocal.emulator.endpoints.probes import ProbeSettings
from amlocal.emulator.http.errors import AzureError, bad_request
from amlocal.emulator.jobs.fields import shown

MOST_INSTANCES = 50
_MOST_TIMEOUT_MS = 180_000
_MOST_CONCURRENT = 1000
_MOST_THRESHOLD = 10_000
_LONGEST_PROBE = 86_400.0
# A process is given each variable as one text; Linux takes 128 KiB.
_LONGEST_VARIABLE = 64 * 1024
_MOST_VARIABLES = 512


def instances(sku: Any) -> int:
    """`sku.capacity`, by default 1. Raises AzureError 400."""
    capacity = (sku or {}).get("capacity") if isinstance(sku, dict) or sku is None else False
    capacity = 1 if capacity is None else capacity
    if isinstance(capacity, bool) or not isinstance(capacity, int) or not 1 <= capacity <= MOST_INSTANCES:
        raise bad_request(
            "InvalidInstanceCount",
            f"instance_count must be a whole number from 1 to {MOST_INSTANCES}.",
            target="sku",
        )
    return capacity


def requests(given: Any) -> dict[str, int]:
    """`requestSettings`: request_timeout_ms, max_concurrent, max_queue_wait_ms. Raises AzureError 400."""
    settings = _object(given, "requestSettings")
    return {
        "request_timeout_ms": _milliseconds(settings, "requestTimeout", "request_timeout_ms", 5000, 1),
        "max_concurrent": _count(
            settings,
            "maxConcurrentRequestsPerInstance",
            "max_concurrent_requests_per_instance",
            1,
            _MOST_CONCURRENT,
            "InvalidRequestSettings",
        ),
        "max_queue_wait_ms": _milliseconds(settings, "maxQueueWait", "max_queue_wait_ms", 500, 0),
    }


def probe(given: Any, name: str) -> dict[str, Any]:
    """`livenessProbe` or `readinessProbe` as ProbeSettings.to_json(). Raises AzureError 400."""
    settings = _object(given, name)
    usual = ProbeSettings()

    def threshold(key: str, word: str, default: int) -> int:
        return _count(settings, key, f"{name}.{word}", default, _MOST_THRESHOLD, "InvalidProbeSettings")

    def seconds(key: str, default: float, least: float) -> float:
        value = _seconds(settings.get(key), default, f"{name}.{key}", "InvalidProbeSettings")
        if not least <= value <= _LONGEST_PROBE:
            raise bad_request(
                "InvalidProbeSettings",
                f"{name}.{key} is {value:g} seconds: use {least:g} to {_LONGEST_PROBE:g}.",
                target=name,
            )
        return value

    return ProbeSettings(
        initial_delay=seconds("initialDelay", usual.initial_delay, 0),
        period=seconds("period", usual.period, 1),
        timeout=seconds("timeout", usual.timeout, 1),
        success_threshold=threshold("successThreshold", "success_threshold", usual.success_threshold),
        failure_threshold=threshold("failureThreshold", "failure_threshold", usual.failure_threshold),
    ).to_json()


def variables(given: Any) -> dict[str, str]:
    """`environmentVariables`. Raises AzureError 400 for what no process can be given."""
    values = {} if given is None else given
    if not isinstance(values, dict) or not all(isinstance(value, str) for value in values.values()):
        raise _variable("`environmentVariables` must map texts to texts.")
    if len(values) > _MOST_VARIABLES:
        raise _variable(f"`environmentVariables` has more than {_MOST_VARIABLES} entries.")
    for name, value in values.items():
        if not name or "=" in name or "\0" in name:
            raise _variable(f"environment variable {shown(name)}: a name is not empty and has no '='.")
        if "\0" in value or len(name) + len(value.encode("utf-8", "replace")) > _LONGEST_VARIABLE:
            raise _variable(
                f"the value of environment variable {shown(name)} holds a NUL or is longer than "
                f"{_LONGEST_VARIABLE} bytes."
            )
    return dict(values)


def _variable(message: str) -> AzureError:
    return bad_request("InvalidRequestContent", message, target="environmentVariables")


def _object(given: Any, name: str) -> Mapping[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise bad_request("InvalidRequestContent", f"`properties.{name}` must be an object.", target=name)
    return given


def _milliseconds(settings: Mapping[str, Any], key: str, name: str, default: int, least: int) -> int:
    seconds = _seconds(settings.get(key), default / 1000, key, "InvalidRequestSettings")
    value = round(seconds * 1000)
    if not least <= value <= _MOST_TIMEOUT_MS:
        raise bad_request(
            "InvalidRequestSettings", f"{name} is {value}: use {least} to {_MOST_TIMEOUT_MS}.", target=key
        )
    return value


def _seconds(given: Any, default: float, name: str, code: str) -> float:
    if given is None:
        return default
    refused = bad_request(code, f"{name} {str(given)[:40]!r} is not a duration, as in PT10S.", target=name)
    try:
        duration = isodate.parse_duration(given)
    except (isodate.ISO8601Error, TypeError, ValueError, ArithmeticError) as error:
        raise refused from error
    if not isinstance(duration, timedelta):  # years and months have no length
        raise refused
    return duration.total_seconds()


def _count(settings: Mapping[str, Any], key: str, name: str, default: int, most: int, code: str) -> int:
    value = settings.get(key)
    value = default if value is None else value
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise bad_request(code, f"{name} must be a whole number from 1 to {most}.", target=key)
    return value
