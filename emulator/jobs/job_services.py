"""Interactive services that a job asks for (JupyterLab, SSH, ...): kept and shown, but not started.

Source: `JobService` of Azure's REST API, whose `status` and `errorMessage` tell what became of one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from amlocal.emulator.http.errors import user_error
from amlocal.emulator.jobs import fields
from amlocal.emulator.jobs.fields import shown

# What the server shows of every job by itself; clients send it back.
OWN = frozenset({"tracking", "studio"})
STATUS = "NotStarted"
_TYPES = {kind.lower(): kind for kind in ("JupyterLab", "SSH", "TensorBoard", "VSCode", "Custom")}


def asked(properties: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The services of a body by name, without those that are shown of every job. Raises AzureError 400."""
    found: dict[str, Mapping[str, Any]] = {}
    for name, service in fields.mapping(properties, "services", "services").items():
        target = f"services.{name}"
        if not isinstance(service, dict):
            raise user_error(f"{target} must be an object, not {shown(service)}.", target=target)
        kind = fields.text(service, "jobServiceType", f"{target}.jobServiceType") or name
        if kind.lower() in OWN:
            continue
        if kind.lower() not in _TYPES and service.get("jobServiceType"):
            raise user_error(
                f"{target} has the type {shown(kind)}; it must be one of {', '.join(_TYPES.values())}.",
                target=f"{target}.jobServiceType",
            )
        found[name] = service
    return found


def notes(properties: Mapping[str, Any]) -> list[str]:
    """What the job's log says of them."""
    return [
        f"service {name} ({_kind(service)}) is not started: interactive services are not there yet in amlocal"
        for name, service in asked(properties).items()
    ]


def present(properties: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The services as clients see them: as they were asked for, and that they were not started."""
    message = "Interactive services are not there yet in amlocal: this one is kept, not started."
    return {
        name: {**service, "jobServiceType": _kind(service), "status": STATUS, "errorMessage": message}
        for name, service in asked(properties).items()
    }


def _kind(service: Mapping[str, Any]) -> str:
    return _TYPES.get(str(service.get("jobServiceType") or "").lower(), "Custom")
