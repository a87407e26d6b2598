"""What the registry `azureml` holds here: Azure's curated vision models and environments, as records.

Their files, images and packages are not on this machine; what is shown says so. Source: the tables
compat/curated_*.toml.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from amlocal.compat import curated
from amlocal.emulator.http.errors import AzureError, not_found
from amlocal.emulator.store.workspace import PROVIDER

# The kinds of assets that a registry has in Azure; those without a record here are empty.
KINDS = ("models", "environments", "components", "data", "codes")
_TITLES = {
    "models": "model",
    "environments": "environment",
    "components": "component",
    "data": "data asset",
    "codes": "code asset",
}


@dataclass(frozen=True)
class Asset:
    """One version of an asset of the registry."""

    kind: str
    name: str
    version: str
    properties: dict[str, Any]

    @property
    def identity(self) -> str:
        """The id by which jobs refer to it."""
        return f"azureml://registries/{curated.REGISTRY}/{self.kind}/{self.name}/versions/{self.version}"

    def shown(self) -> dict[str, Any]:
        """The version as a client sees it."""
        return {
            "id": self.identity,
            "name": self.version,
            "type": f"{PROVIDER}/registries/{self.kind}/versions",
            "properties": self.properties,
        }


def names(kind: str) -> list[str]:
    """The names of a kind, in the order of Azure's own tables."""
    if kind == "models":
        return list(curated.models())
    return list(curated.environments()) if kind == "environments" else []


def known_versions(base_url: str, kind: str, name: str) -> list[Asset]:
    """Every version of a name, oldest first; none of an unknown name."""
    if kind == "models":
        for model in curated.models().values():
            if model.name.lower() == name.lower():
                return [_model(base_url, model, version) for version in model.versions]
    elif kind == "environments":
        found = curated.environment(name)
        if found is not None:
            return [_environment(found, version) for version in found.versions]
    return []


def versions(base_url: str, kind: str, name: str) -> list[Asset]:
    """As known_versions. Raises 404 saying what there is, for an unknown name."""
    found = known_versions(base_url, kind, name)
    if not found:
        raise _missing(kind, name)
    return found


def version(base_url: str, kind: str, name: str, wanted: str) -> Asset:
    """One version. Raises 404 naming the versions that there are."""
    found = versions(base_url, kind, name)
    for asset in found:
        if asset.version == wanted:
            return asset
    raise _missing(kind, f"{name}:{wanted}", [asset.version for asset in found])


def container(base_url: str, kind: str, name: str) -> dict[str, Any]:
    """The container of a name's versions. Raises 404."""
    found = versions(base_url, kind, name)
    newest = found[-1]
    return {
        "id": newest.identity.rpartition("/versions/")[0],
        "name": newest.name,
        "type": f"{PROVIDER}/registries/{kind}",
        "properties": {
            "latestVersion": newest.version,
            "nextVersion": str(max(int(asset.version) for asset in found) + 1),
            "isArchived": False,
            "description": newest.properties["description"],
            "tags": newest.properties["tags"],
            "properties": newest.properties["properties"],
        },
    }


def no_files(name: str) -> AzureError:
    """404 for the files of a curated model, saying where they can be had. Raises 404 for an unknown name."""
    for model in curated.models().values():
        if model.name.lower() == name.lower():
            break
    else:
        raise _missing("models", name)
    source = (
        f"https://huggingface.co/{model.model_name}"
        if "transformers" in model.flavors
        else "MMDetection's model zoo"
    )
    return not_found(
        f"The files of {model.name} are not on this machine: here registry {curated.REGISTRY} holds only its "
        f"record. Get the weights from {source} and register them with models.create_or_update.",
        code="RegistryFilesNotFound",
        target="name",
    )


def _model(base_url: str, model: curated.CuratedModel, version: str) -> Asset:
    uri = f"{base_url}/registries/{curated.REGISTRY}/models/{model.name}/versions/{version}/files"
    return Asset(
        "models",
        model.name,
        version,
        {
            "modelType": "mlflow_model",
            # An address of this server, which answers with what no_files() says.
            "modelUri": uri,
            "flavors": {flavor: {"data": {}} for flavor in model.flavors},
            "description": (
                f"{model.model_name}: pretrained, for {model.task}. Its files are not on this machine."
            ),
            "tags": {
                "task": model.task,
                "training_dataset": model.training_dataset,
                "license": model.license,
            },
            "properties": {
                "SHA": model.sha,
                "model_name": model.model_name,
                "amlocal.files": "not on this machine",
            },
            "isAnonymous": False,
            "isArchived": False,
            "provisioningState": "Succeeded",
        },
    )


def _environment(found: curated.CuratedEnvironment, version: str) -> Asset:
    return Asset(
        "environments",
        found.name,
        version,
        {
            "image": found.image or None,
            "description": found.description,
            "tags": dict(found.tags),
            "properties": {"amlocal.image": "never pulled: jobs run in an interpreter of this machine"},
            "osType": "Linux",
            "environmentType": "Curated",
            "isAnonymous": False,
            "isArchived": False,
            "provisioningState": "Succeeded",
        },
    )


def _missing(kind: str, label: str, versions: Sequence[str] = ()) -> AzureError:
    title = _TITLES[kind]
    there = f" It has version {' and '.join(versions)} here." if versions else ""
    if not versions:
        count = len(names(kind))
        there = (
            f" It holds {count} curated {kind} here."
            if count
            else f" It holds no {kind} here, only Azure's curated vision models and environments."
        )
    return not_found(f"Registry {curated.REGISTRY} has no {title} {label[:200]!r}.{there}", target="name")
