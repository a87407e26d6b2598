"""The registry `azureml`: found by its discovery address, read as any registry, never written.

Source of the addresses: azure-ai-ml 1.35 (`registrymanagement` for discovery, `mferp/managementfrontend`
before the paths of Resource Manager for a registry's assets).
"""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, jsonify, request

from amlocal.compat import cloud, curated
from amlocal.emulator.arm import registry_assets
from amlocal.emulator.arm.models import MODELS
from amlocal.emulator.arm.resource import check_name, check_version
from amlocal.emulator.http import paging, versions
from amlocal.emulator.http.errors import AzureError, not_found, not_there_yet
from amlocal.emulator.services import Services
from amlocal.emulator.store.workspace import PROVIDER

_GROUP = "/subscriptions/<subscription>/resourceGroups/<group>"
_REGISTRIES = f"/providers/{PROVIDER}/registries"
_DATA_PLANE = "/mferp/managementfrontend"
_FILTERS = ("tags", "$tags", "tag", "properties", "$properties")
_ALL = ["GET", "PUT", "POST", "PATCH", "DELETE"]


def create_blueprint(services: Services) -> Blueprint:
    """Discovery, the registry as a resource, and its assets on both planes."""
    blueprint = Blueprint("registries", __name__)
    routes = _Routes(services)
    one = f"{_GROUP}{_REGISTRIES}/<registry>"
    for rule, name, function, methods in (
        ("/registrymanagement/v1.0/registries/<registry>/discovery", "discovery", routes.discovery, ["GET"]),
        (f"/subscriptions/<subscription>{_REGISTRIES}", "of_subscription", routes.registries, ["GET"]),
        (f"{_GROUP}{_REGISTRIES}", "of_group", routes.registries, ["GET"]),
        (one, "registry", routes.registry, _ALL),
        ("/registries/<registry>/models/<name>/versions/<version>/files", "files", routes.files, ["GET"]),
    ):
        blueprint.add_url_rule(rule, name, function, methods=methods)
    for number, plane in enumerate(("", _DATA_PLANE)):
        for depth, rest in enumerate(("", "/<name>", "/<name>/versions", "/<name>/versions/<version>")):
            blueprint.add_url_rule(
                f"{plane}{one}/<kind>{rest}", f"assets_{number}_{depth}", routes.assets, methods=_ALL
            )
        blueprint.add_url_rule(
            f"{plane}{one}/<kind>/<name>/versions/<version>/<path:rest>",
            f"assets_{number}_below",
            routes.below,
            methods=_ALL,
        )
    return blueprint


class _Routes:
    def __init__(self, services: Services) -> None:
        self.services = services

    def discovery(self, registry: str) -> Response:
        """Where a client finds the registry. Raises 404 for another one."""
        self.asked()
        self.known(registry)
        return jsonify(
            {
                "registryName": curated.REGISTRY,
                "tenantId": cloud.TENANT_ID,
                # Clients of the asset service make `https://{primaryRegion}.api.azureml.ms` of it: this keeps
                # them on this machine.
                "primaryRegion": f"localhost:{self.services.settings.port}/{cloud.LOCATION}",
                "regions": [cloud.LOCATION],
                "subscriptionId": cloud.SUBSCRIPTION_ID,
                "resourceGroup": cloud.RESOURCE_GROUP,
                # Clients put the path behind it without a slash.
                "primaryRegionResourceProviderUri": f"{self.services.settings.base_url}/",
            }
        )

    def registries(self, subscription: str, group: str | None = None) -> Response:
        """The registries of a group or subscription: the one, at home, else none."""
        self.asked()
        here = {
            (w.subscription.lower(), None if group is None else w.resource_group.lower())
            for w in self.services.workspaces.all()
        }
        wanted = (subscription.lower(), None if group is None else group.lower())
        at_home = _at_home(subscription, group)
        if not at_home and wanted not in here:
            what = "SubscriptionNotFound" if group is None else "ResourceGroupNotFound"
            raise not_found(
                f"{subscription[:80]}/{(group or '')[:100]} is not known to this server.", code=what
            )
        return jsonify({"value": [self.shown()] if at_home else []})

    def registry(self, subscription: str, group: str, registry: str) -> Response:
        """One registry; there is no other and none can be made."""
        if request.method == "GET":
            self.at_home(subscription, group, registry)
            return jsonify(self.shown())
        self.asked()
        verb = {"PUT": "Creating", "PATCH": "Changing", "DELETE": "Deleting"}.get(request.method, "Acting on")
        raise not_there_yet(f"{verb} a registry")

    def assets(
        self, subscription: str, group: str, registry: str, kind: str, name: str = "", version: str = ""
    ) -> Response:
        """Lists, containers and versions of one kind of asset."""
        self.at_home(subscription, group, registry)
        _check(kind, name, version)
        if request.method == "POST" and kind == "datarefs" and version:
            raise registry_assets.no_files(name)
        _read_only(kind)
        base = self.services.settings.base_url
        if version:
            return jsonify(registry_assets.version(base, kind, name, version).shown())
        if name and not request.path.endswith("/versions"):
            return jsonify(registry_assets.container(base, kind, name))
        items: list[dict[str, Any]]
        if name:
            # Of an unknown name there are no versions: clients tell that themselves.
            items = [asset.shown() for asset in registry_assets.known_versions(base, kind, name)]
        else:
            items = [registry_assets.container(base, kind, each) for each in registry_assets.names(kind)]
        return self.page(items)

    def below(
        self, subscription: str, group: str, registry: str, kind: str, name: str, **rest: str
    ) -> Response:
        """What Azure has below a version: nothing of it can be asked of this registry."""
        self.at_home(subscription, group, registry)
        _check(kind, name, rest["version"])
        _read_only(kind)
        raise not_found(f"There is nothing at {request.method} {request.path[:300]}.")

    def files(self, registry: str, name: str, version: str) -> Response:
        """The address in a curated model's `modelUri`."""
        self.services.auth.require_user()
        self.known(registry)
        _check("models", name, version)
        raise registry_assets.no_files(name)

    def page(self, items: list[dict[str, Any]]) -> Response:
        for parameter in _FILTERS:
            if request.args.get(parameter):
                raise not_there_yet(f"Filtering a registry's assets by {parameter}")
        if paging.list_view() == "ArchivedOnly":
            items = []
        if request.args.get("$orderBy", "").lower().endswith("desc"):
            items = items[::-1]
        skip, top = paging.window()
        return jsonify(paging.page(self.services.settings.base_url, items[skip : skip + top + 1], skip, top))

    def shown(self) -> dict[str, Any]:
        base = self.services.settings.base_url
        return {
            "id": (
                f"/subscriptions/{cloud.SUBSCRIPTION_ID}/resourceGroups/{cloud.RESOURCE_GROUP}"
                f"{_REGISTRIES}/{curated.REGISTRY}"
            ),
            "name": curated.REGISTRY,
            "type": f"{PROVIDER}/registries",
            "location": cloud.LOCATION,
            "tags": {},
            "properties": {
                "discoveryUrl": f"{base}/registrymanagement/v1.0/registries/{curated.REGISTRY}/discovery",
                "publicNetworkAccess": "Disabled",
                "regionDetails": [],
            },
        }

    def asked(self) -> None:
        self.services.auth.require_user()
        versions.check()

    def known(self, registry: str) -> None:
        """Raises 404 for every registry but the one."""
        if registry.lower() != curated.REGISTRY:
            raise not_found(
                f"There is no registry {registry[:100]!r} here; the only one is {curated.REGISTRY}.",
                code="RegistryNotFound",
                target="registry",
            )

    def at_home(self, subscription: str, group: str, registry: str) -> None:
        """Raises 404 for another registry, or where the one is not."""
        self.asked()
        self.known(registry)
        if not _at_home(subscription, group):
            raise not_found(
                f"Registry {curated.REGISTRY} is in resource group {cloud.RESOURCE_GROUP} of subscription "
                f"{cloud.SUBSCRIPTION_ID}, not in {group[:100]!r} of {subscription[:80]!r}.",
                target="registry",
            )


def _at_home(subscription: str, group: str | None) -> bool:
    return subscription.lower() == cloud.SUBSCRIPTION_ID and (
        group is None or group.lower() == cloud.RESOURCE_GROUP.lower()
    )


def _check(kind: str, name: str, version: str) -> None:
    if name:
        check_name(MODELS, name)
    if version:
        check_version(version)
    if len(kind) > 60 or not kind.isascii() or not kind.isalpha():
        raise not_found(f"There is no kind of asset {kind[:60]!r} in a registry.")


def _read_only(kind: str) -> None:
    """Raises 403 for a write, 404 for a kind of asset that no registry has."""
    if request.method != "GET":
        raise AzureError(
            403,
            "RegistryIsReadOnly",
            f"Registry {curated.REGISTRY} is read-only. Create assets in a workspace instead.",
            target="registry",
        )
    if kind not in registry_assets.KINDS:
        raise not_found(
            f"There is no kind of asset {kind!r} in a registry; there are {', '.join(registry_assets.KINDS)}."
        )
