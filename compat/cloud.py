"""The cloud that clients are told about: one name, one resource manager on localhost.

Fields and their effects were found by trying azure-ai-ml 1.35 and azure-cli 2.91 against a local server.
"""

from __future__ import annotations

from typing import Any

CLOUD_NAME = "AmlLocal"
# azure-ai-ml makes the audience of pipeline and batch tokens from the third dot-part on: https://ml.azure.amlocal
PORTAL = "https://portal.azure.amlocal"
AML_RESOURCE = "https://ml.azure.amlocal"
# Account names carry the local address (see `account_host`), so the suffix stays Azure's own.
STORAGE_SUFFIX = "core.windows.net"
STORAGE_RESOURCE = "https://storage.azure.com"

TENANT_ID = "00000000-0000-0000-0000-000000000000"
SUBSCRIPTION_ID = "00000000-0000-0000-0000-000000000000"
RESOURCE_GROUP = "local"
WORKSPACE = "local"
LOCATION = "local"


def metadata(base_url: str) -> dict[str, Any]:
    """The record of our cloud in the metadata document; `base_url` is `https://localhost:PORT`.

    The client takes the cloud whose resourceManager is a part of ARM_CLOUD_METADATA_URL: both must agree
    to the letter. `loginEndpoint` has no port because azureml-mlflow cannot parse one.
    """
    return {
        "name": CLOUD_NAME,
        "portal": PORTAL,
        "resourceManager": base_url,
        "authentication": {
            "loginEndpoint": "https://localhost",
            "audiences": [base_url],
            "tenant": TENANT_ID,
            "identityProvider": "AAD",
        },
        "suffixes": {"storage": STORAGE_SUFFIX},
    }


def metadata_url(base_url: str) -> str:
    return f"{base_url}/metadata/endpoints?api-version=2019-05-01"


def account_host(port: int, account: str) -> str:
    """The `accountName` of a datastore such that `https://{accountName}.blob.{suffix}` reaches localhost."""
    return f"localhost:{port}/{account}"


# What code written for Azure asks tokens for; ours are signed here, so they open nothing elsewhere.
AZURE_AUDIENCES = (
    "https://management.azure.com",
    "https://management.core.windows.net",
    "https://ml.azure.com",
    STORAGE_RESOURCE,
)


def audiences(base_url: str) -> tuple[str, ...]:
    """Audiences of user tokens that our planes accept, each with and without a slash at the end."""
    return tuple(name + slash for name in (base_url, AML_RESOURCE, *AZURE_AUDIENCES) for slash in ("", "/"))
