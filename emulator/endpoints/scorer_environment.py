"""What a scorer finds in its environment beside the user's own variables.

- The endpoint's managed identity, so that a script signs in and calls the workspace as it would in Azure
  ("Access Azure resources from an online endpoint with a managed identity"): by azure-identity, or by asking
  MSI_ENDPOINT with MSI_SECRET itself. Here an identity may do what the user may.
- Its share of the processors, where a deployment has several instances: each of them would use all.
"""

from __future__ import annotations

from collections.abc import Mapping

from amlocal.compat import environment
from amlocal.emulator import secrets
from amlocal.emulator.store.folder import DataFolder
from amlocal.emulator.store.workspace import Workspace

# What the number of threads is read from: by OpenMP's libraries, and by our own image models.
THREADS = ("OMP_NUM_THREADS", "AMLOCAL_SCORING_THREADS")
# A person's, not an identity's: it is good for 30 days, and a scorer may live longer.
_NOT_GIVEN = ("MLFLOW_TRACKING_TOKEN",)


def identity(
    folder: DataFolder, base_url: str, workspace: Workspace, environ: Mapping[str, str]
) -> dict[str, str]:
    """The variables by which SDKs sign in to this server and find the workspace, added to `environ`."""
    target = environment.Target(
        base_url=base_url,
        bundle=folder.tls / "bundle.pem",
        identity_header=secrets.identity_header(folder),
        mlflow_token="",
        subscription=workspace.subscription,
        resource_group=workspace.resource_group,
        workspace=workspace.name,
    )
    values = environment.variables(target, environ)
    values["MSI_ENDPOINT"], values["MSI_SECRET"] = values["IDENTITY_ENDPOINT"], values["IDENTITY_HEADER"]
    return {name: value for name, value in values.items() if name not in _NOT_GIVEN}


def threads(cpus: int, instances: int, *environments: Mapping[str, str]) -> dict[str, str]:
    """How many threads each of several instances has; nothing where one of `environments` says it."""
    if instances < 2 or any(name in environ for environ in environments for name in THREADS):
        return {}
    return dict.fromkeys(THREADS, str(max(1, cpus // instances)))
