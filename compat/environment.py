"""The environment that points an unmodified client at a local server, and the shells that can take it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from amlocal.compat import cloud

# With any of these set, DefaultAzureCredential would try to sign in to real Azure with real secrets first.
UNSET = (
    "AZURE_CLIENT_ID",
    "AZURE_CLIENT_SECRET",
    "AZURE_CLIENT_CERTIFICATE_PATH",
    "AZURE_CLIENT_CERTIFICATE_PASSWORD",
    "AZURE_CLIENT_SEND_CERTIFICATE_CHAIN",
    "AZURE_TENANT_ID",
    "AZURE_USERNAME",
    "AZURE_PASSWORD",
    "AZURE_FEDERATED_TOKEN_FILE",
    "AZURE_AUTHORITY_HOST",
    "MSI_ENDPOINT",
    "MSI_SECRET",
    "IDENTITY_SERVER_THUMBPRINT",
    "IMDS_ENDPOINT",
    "AZUREML_DEV_URL_MFE",
    "AZURE_POD_IDENTITY_AUTHORITY_HOST",
)
_LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Target:
    """The server and workspace to point at."""

    base_url: str
    bundle: Path
    identity_header: str
    mlflow_token: str
    subscription: str = cloud.SUBSCRIPTION_ID
    resource_group: str = cloud.RESOURCE_GROUP
    workspace: str = cloud.WORKSPACE


def variables(target: Target, environ: Mapping[str, str]) -> dict[str, str]:
    """What to set; `environ` is the environment it will be added to (for proxies' exceptions)."""
    values = {
        "ARM_CLOUD_METADATA_URL": cloud.metadata_url(target.base_url),
        # Preset, or the SDK silently falls back to public Azure when the server is down at its import.
        "AZUREML_CURRENT_CLOUD": cloud.CLOUD_NAME,
        "AZURE_RESOURCE_GROUP": target.resource_group,
        "AZURE_SUBSCRIPTION_ID": target.subscription,
        # Newer azure-identity: this credential and no other, so that none asks the outside world.
        "AZURE_TOKEN_CREDENTIALS": "ManagedIdentityCredential",
        "AZUREML_WORKSPACE_NAME": target.workspace,
        "IDENTITY_ENDPOINT": f"{target.base_url}/msi/token",
        "IDENTITY_HEADER": target.identity_header,
        "MLFLOW_TRACKING_TOKEN": target.mlflow_token,
        "REGISTRY_DISCOVERY_ENDPOINT_URL": f"{target.base_url}/",
        "REQUESTS_CA_BUNDLE": str(target.bundle),
        "SSL_CERT_FILE": str(target.bundle),
    }
    # Polls of `jobs.stream`, in seconds; the SDK's own 60 would hide a local job's progress.
    for name, seconds in (("MIN", "1"), ("MAX", "2")):
        key = f"AZUREML_RUN_POLLING_INTERVAL_{name}"
        values[key] = environ.get(key) or seconds
    for name in ("NO_PROXY", "no_proxy"):
        values[name] = _with_local_names(environ.get(name, ""))
    return dict(sorted(values.items()))


def applied(target: Target, environ: Mapping[str, str]) -> dict[str, str]:
    """`environ` as a client of the server should have it."""
    kept = {key: value for key, value in environ.items() if key not in UNSET}
    return {**kept, **variables(target, environ)}


def _with_local_names(current: str) -> str:
    names = [name.strip() for name in current.split(",") if name.strip()]
    return ",".join(names + [name for name in _LOCAL_NAMES if name not in names])


def _sh(values: Mapping[str, str]) -> str:
    lines = [f"export {key}={shlex.quote(value)}" for key, value in values.items()]
    return "\n".join([f"unset {' '.join(UNSET)}", *lines])


def _fish(values: Mapping[str, str]) -> str:
    def quote(value: str) -> str:
        return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"

    return "\n".join(
        [f"set -e {key}" for key in UNSET]
        + [f"set -gx {key} {quote(value)}" for key, value in values.items()]
    )


def _powershell(values: Mapping[str, str]) -> str:
    def quote(value: str) -> str:
        return "'" + value.replace("'", "''") + "'"

    return "\n".join(
        [f"Remove-Item Env:{key} -ErrorAction SilentlyContinue" for key in UNSET]
        + [f"$env:{key} = {quote(value)}" for key, value in values.items()]
    )


def _dotenv(values: Mapping[str, str]) -> str:
    def quote(value: str) -> str:
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'

    # A dotenv file cannot unset; empty is what azure-identity treats as absent.
    lines = [f"{key}=" for key in UNSET] + [f"{key}={quote(value)}" for key, value in values.items()]
    return "\n".join(lines)


def _json(values: Mapping[str, str]) -> str:
    return json.dumps({"set": dict(values), "unset": list(UNSET)}, indent=2)


FORMATS: dict[str, Callable[[Mapping[str, str]], str]] = {
    "sh": _sh,
    "fish": _fish,
    "powershell": _powershell,
    "dotenv": _dotenv,
    "json": _json,
}
