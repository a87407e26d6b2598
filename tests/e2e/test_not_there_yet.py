"""What amlocal does not have yet, refused by name on the very calls that the unmodified SDK makes for it.

`REFUSED` gives each refused operation of MLClient: the call,
        and words of the message. The codes: parity.toml.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from amlocal.compat import parity

LOCAL = ("127.0.0.1", "::1", "localhost", None, "0.0.0.0", "")
CODES = {claim.operation: claim.code for claim in parity.load().of("sdk") if claim.state == parity.REFUSED}


@pytest.fixture
def outside(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Every address beyond this machine that is asked for or connected to; none may be."""
    seen: list[str] = []
    connect, look_up = socket.socket.connect, socket.getaddrinfo

    def watched_connect(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in LOCAL:
            seen.append(str(address))
            raise OSError("refused by the test")
        connect(self, address)

    def watched_look_up(host: Any, *rest: Any, **named: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        if name not in LOCAL:
            seen.append(str(name))
            raise socket.gaierror("refused by the test")
        return look_up(host, *rest, **named)

    monkeypatch.setattr(socket.socket, "connect", watched_connect)
    monkeypatch.setattr(socket, "getaddrinfo", watched_look_up)
    yield seen
    assert seen == []


def whole(answer: Any) -> Any:
    """The end of a call: polled to its result, or listed to its last item."""
    if hasattr(answer, "result"):
        return answer.result()
    return list(answer) if isinstance(answer, Iterator) or hasattr(answer, "by_page") else answer


def schedule(folder: Path) -> Any:
    from azure.ai.ml import command, dsl
    from azure.ai.ml.entities import CronTrigger, JobSchedule

    @dsl.pipeline(compute="cpu-cluster")
    def steps() -> None:
        command(command="true", environment="azureml:host:1", compute="cpu-cluster")()

    return JobSchedule(name="nightly", trigger=CronTrigger(expression="0 3 * * *"), create_job=steps())


def batch_endpoint(folder: Path) -> Any:
    from azure.ai.ml.entities import BatchEndpoint

    return BatchEndpoint(name="many-rows")


def batch_deployment(folder: Path) -> Any:
    from azure.ai.ml.entities import ModelBatchDeployment

    return ModelBatchDeployment(
        name="blue",
        endpoint_name="many-rows",
        model="azureml:a-model:1",
        compute="azureml:cpu-cluster",
    )


def serverless(folder: Path) -> Any:
    from azure.ai.ml.entities import ServerlessEndpoint

    return ServerlessEndpoint(name="chat", model_id="azureml://registries/azureml/models/a-model")


def subscription(folder: Path) -> Any:
    from azure.ai.ml.entities import MarketplaceSubscription

    return MarketplaceSubscription(name="chat", model_id="azureml://registries/azureml/models/a-model")


def capability_host(folder: Path) -> Any:
    from azure.ai.ml.entities import CapabilityHost

    return CapabilityHost(name="agents")


def rule(folder: Path) -> Any:
    from azure.ai.ml.entities import FqdnDestination

    return FqdnDestination(name="pypi", destination="pypi.org")


def entity(folder: Path) -> Any:
    from azure.ai.ml.entities import DataColumn, DataColumnType, FeatureStoreEntity

    return FeatureStoreEntity(
        name="account", version="1", index_columns=[DataColumn(name="id", type=DataColumnType.STRING)]
    )


def feature_set(folder: Path) -> Any:
    from azure.ai.ml.entities import FeatureSet, FeatureSetSpecification

    (folder / "FeatureSetSpec.yaml").write_text(
        "source:\n  type: parquet\n  path: data\n  timestamp_column:\n    name: at\n"
        "features:\n  - name: total\n    type: float\nindex_columns:\n  - name: id\n    type: string\n"
    )
    return FeatureSet(
        name="totals",
        version="1",
        entities=["azureml:account:1"],
        specification=FeatureSetSpecification(path=str(folder)),
    )


def feature_store(name: str) -> Any:
    from azure.ai.ml.entities import FeatureStore

    return FeatureStore(name=name)


def template(folder: Path) -> Any:
    from azure.ai.ml.entities import DeploymentTemplate

    return DeploymentTemplate(name="small", version="1", environment="azureml:host:1")


def embeddings() -> Any:
    from azure.ai.ml.entities._indexes import ModelConfiguration

    return ModelConfiguration(
        api_base=None,
        api_key=None,
        api_version=None,
        connection_name="openai",
        connection_type=None,
        model_name="text-embedding-ada-002",
        deployment_name=None,
        model_kwargs={},
    )


def data_import(folder: Path) -> Any:
    from azure.ai.ml.data_transfer import Database
    from azure.ai.ml.entities import DataImport

    return DataImport(
        name="rows",
        source=Database(connection="azureml:a-database", query="select 1"),
        path="azureml://datastores/workspaceblobstore/paths/rows",
    )


def package(folder: Path) -> Any:
    from azure.ai.ml.entities import AzureMLOnlineInferencingServer, ModelPackage

    return ModelPackage(target_environment="packed", inferencing_server=AzureMLOnlineInferencingServer())


def registry(folder: Path) -> Any:
    from azure.ai.ml.entities import Registry

    return Registry(name="team", location="local", replication_locations=[])


def in_registry() -> Any:
    """A client on the registry azureml."""
    from azure.ai.ml import MLClient
    from azure.identity import DefaultAzureCredential

    return MLClient(DefaultAzureCredential(), registry_name="azureml")


def openai(client: Any) -> Any:
    """The deployments behind a connection, which is made first."""
    from azure.ai.ml.entities import ApiKeyConfiguration, WorkspaceConnection

    client.connections.create_or_update(
        WorkspaceConnection(
            name="openai",
            type="azure_open_ai",
            target="https://localhost/openai",
            credentials=ApiKeyConfiguration(key="a-key"),
            metadata={"ApiVersion": "1", "ApiType": "azure"},
        )
    )
    return client.azure_openai_deployments.list("openai")


SHARED: dict[str, Any] = {"share_with_name": "b", "share_with_version": "1", "registry_name": "azureml"}
BATCH, NETWORKS, SERVERLESS = "Batch endpoints", "Managed networks", "Serverless endpoints"
SETS, ENTITIES, TEMPLATES = "Feature sets", "Feature store entities", "Deployment templates"
MARKET, HOSTS, SCHEDULES = "Marketplace subscriptions", "Capability hosts", "Schedules"

REFUSED: dict[str, tuple[Callable[[Any, Path], Any], str]] = {
    "azure_openai_deployments.list": (lambda c, f: openai(c), "Azure OpenAI deployments"),
    "batch_deployments.begin_create_or_update": (
        lambda c, f: c.batch_deployments.begin_create_or_update(batch_deployment(f)), BATCH),
    "batch_deployments.begin_delete": (
        lambda c, f: c.batch_deployments.begin_delete("blue", "many-rows"), BATCH),
    "batch_deployments.get": (lambda c, f: c.batch_deployments.get("blue", "many-rows"), BATCH),
    "batch_deployments.list": (lambda c, f: c.batch_deployments.list("many-rows"), BATCH),
    "batch_deployments.list_jobs": (lambda c, f: c.batch_deployments.list_jobs("many-rows"), BATCH),
    "batch_endpoints.begin_create_or_update": (
        lambda c, f: c.batch_endpoints.begin_create_or_update(batch_endpoint(f)), BATCH),
    "batch_endpoints.begin_delete": (lambda c, f: c.batch_endpoints.begin_delete("many-rows"), BATCH),
    "batch_endpoints.get": (lambda c, f: c.batch_endpoints.get("many-rows"), BATCH),
    "batch_endpoints.invoke": (lambda c, f: c.batch_endpoints.invoke("many-rows"), BATCH),
    "batch_endpoints.list": (lambda c, f: c.batch_endpoints.list(), BATCH),
    "batch_endpoints.list_jobs": (lambda c, f: c.batch_endpoints.list_jobs("many-rows"), BATCH),
    "capability_hosts.begin_create_or_update": (
        lambda c, f: c.capability_hosts.begin_create_or_update(capability_host(f)),
        "Invalid workspace kind: default"),
    "capability_hosts.begin_delete": (lambda c, f: c.capability_hosts.begin_delete("agents"), HOSTS),
    "capability_hosts.get": (lambda c, f: c.capability_hosts.get("agents"), HOSTS),
    "data.import_data": (lambda c, f: c.data.import_data(data_import(f)), "Pipeline jobs"),
    "data.list_materialization_status": (
        lambda c, f: c.data.list_materialization_status("rows"), "asset_name"),
    "data.share": (lambda c, f: c.data.share("a", "1", **SHARED), "read-only"),
    "deployment_templates.create_or_update": (
        lambda c, f: in_registry().deployment_templates.create_or_update(template(f)), TEMPLATES),
    "deployment_templates.delete": (
        lambda c, f: in_registry().deployment_templates.delete("small", "1"), TEMPLATES),
    "deployment_templates.list": (lambda c, f: in_registry().deployment_templates.list(), TEMPLATES),
    "environments.share": (lambda c, f: c.environments.share("a", "1", **SHARED), "read-only"),
    "feature_sets.archive": (lambda c, f: c.feature_sets.archive("totals", "1"), SETS),
    "feature_sets.begin_backfill": (
        lambda c, f: c.feature_sets.begin_backfill(name="totals", version="1"), SETS),
    "feature_sets.begin_create_or_update": (
        lambda c, f: c.feature_sets.begin_create_or_update(feature_set(f)), SETS),
    "feature_sets.get": (lambda c, f: c.feature_sets.get("totals", "1"), SETS),
    "feature_sets.get_feature": (
        lambda c, f: c.feature_sets.get_feature("totals", "1", feature_name="total"), SETS),
    "feature_sets.list": (lambda c, f: c.feature_sets.list(), SETS),
    "feature_sets.list_features": (lambda c, f: c.feature_sets.list_features("totals", "1"), SETS),
    "feature_sets.restore": (lambda c, f: c.feature_sets.restore("totals", "1"), SETS),
    "feature_store_entities.archive": (
        lambda c, f: c.feature_store_entities.archive("account", "1"), ENTITIES),
    "feature_store_entities.begin_create_or_update": (
        lambda c, f: c.feature_store_entities.begin_create_or_update(entity(f)), ENTITIES),
    "feature_store_entities.get": (lambda c, f: c.feature_store_entities.get("account", "1"), ENTITIES),
    "feature_store_entities.list": (lambda c, f: c.feature_store_entities.list(), ENTITIES),
    "feature_store_entities.restore": (
        lambda c, f: c.feature_store_entities.restore("account", "1"), ENTITIES),
    "feature_stores.begin_create": (
        lambda c, f: c.feature_stores.begin_create(feature_store("features")), "A feature store"),
    "feature_stores.begin_provision_network": (
        lambda c, f: c.feature_stores.begin_provision_network(feature_store_name="local"), NETWORKS),
    "feature_stores.begin_delete": (
        lambda c, f: c.feature_stores.begin_delete("local"), "local is not a feature store"),
    "feature_stores.begin_update": (
        lambda c, f: c.feature_stores.begin_update(feature_store("local")), "local is not a feature store"),
    "indexes.build_index": (
        lambda c, f: c.indexes.build_index(
            name="texts", embeddings_model_config=embeddings(), input_source="azureml:a:1"),
        "llm_rag_crack_and_chunk"),
    "marketplace_subscriptions.begin_create_or_update": (
        lambda c, f: c.marketplace_subscriptions.begin_create_or_update(subscription(f)), MARKET),
    "marketplace_subscriptions.begin_delete": (
        lambda c, f: c.marketplace_subscriptions.begin_delete("chat"), MARKET),
    "marketplace_subscriptions.get": (lambda c, f: c.marketplace_subscriptions.get("chat"), MARKET),
    "marketplace_subscriptions.list": (lambda c, f: c.marketplace_subscriptions.list(), MARKET),
    "models.package": (lambda c, f: c.models.package("a", "1", package(f)), "Packaging"),
    "models.share": (lambda c, f: c.models.share("a", "1", **SHARED), "read-only"),
    "registries.begin_create": (lambda c, f: c.registries.begin_create(registry(f)), "Creating a registry"),
    "registries.begin_delete": (lambda c, f: c.registries.begin_delete(name="team"), "Deleting a registry"),
    "schedules.begin_create_or_update": (
        lambda c, f: c.schedules.begin_create_or_update(schedule(f)), SCHEDULES),
    "schedules.begin_delete": (lambda c, f: c.schedules.begin_delete("nightly"), SCHEDULES),
    "schedules.begin_disable": (lambda c, f: c.schedules.begin_disable("nightly"), SCHEDULES),
    "schedules.begin_enable": (lambda c, f: c.schedules.begin_enable("nightly"), SCHEDULES),
    "schedules.get": (lambda c, f: c.schedules.get("nightly"), SCHEDULES),
    "schedules.list": (lambda c, f: c.schedules.list(), SCHEDULES),
    "schedules.trigger": (lambda c, f: c.schedules.trigger("nightly"), SCHEDULES),
    "serverless_endpoints.begin_create_or_update": (
        lambda c, f: c.serverless_endpoints.begin_create_or_update(serverless(f)), SERVERLESS),
    "serverless_endpoints.begin_delete": (
        lambda c, f: c.serverless_endpoints.begin_delete("chat"), SERVERLESS),
    "serverless_endpoints.begin_regenerate_keys": (
        lambda c, f: c.serverless_endpoints.begin_regenerate_keys("chat"), SERVERLESS),
    "serverless_endpoints.get": (lambda c, f: c.serverless_endpoints.get("chat"), SERVERLESS),
    "serverless_endpoints.get_keys": (lambda c, f: c.serverless_endpoints.get_keys("chat"), SERVERLESS),
    "serverless_endpoints.list": (lambda c, f: c.serverless_endpoints.list(), SERVERLESS),
    "workspaces.begin_provision_network": (
        lambda c, f: c.workspaces.begin_provision_network(workspace_name="local"), NETWORKS),
    "workspace_outbound_rules.begin_create": (
        lambda c, f: c.workspace_outbound_rules.begin_create("local", rule(f)), NETWORKS),
    "workspace_outbound_rules.begin_remove": (
        lambda c, f: c.workspace_outbound_rules.begin_remove("local", "pypi"), NETWORKS),
    "workspace_outbound_rules.begin_update": (
        lambda c, f: c.workspace_outbound_rules.begin_update("local", rule(f)), NETWORKS),
    "workspace_outbound_rules.get": (lambda c, f: c.workspace_outbound_rules.get("local", "pypi"), NETWORKS),
    "workspace_outbound_rules.list": (lambda c, f: c.workspace_outbound_rules.list("local"), NETWORKS),
}  # fmt: skip

# The SDK makes an empty answer or a "not found" of whatever it is told; it must not look elsewhere for it.
QUIET: dict[str, Callable[[Any], Any]] = {
    "deployment_templates.archive": lambda c: in_registry().deployment_templates.archive("small", "1"),
    "deployment_templates.get": lambda c: in_registry().deployment_templates.get("small", "1"),
    "deployment_templates.restore": lambda c: in_registry().deployment_templates.restore("small", "1"),
    "feature_sets.list_materialization_operations": (
        lambda c: c.feature_sets.list_materialization_operations("totals", "1")
    ),
    "feature_stores.get": lambda c: c.feature_stores.get("local"),
    "feature_stores.list": lambda c: c.feature_stores.list(),
}


@pytest.mark.parametrize("operation", REFUSED)
def test_refused(ml_client: Any, tmp_path: Path, outside: list[str], operation: str) -> None:
    call, words = REFUSED[operation]
    with pytest.raises(Exception) as caught:
        whole(call(ml_client, tmp_path))
    error = caught.value
    answered = getattr(error, "error", None)
    assert (answered.code if answered is not None else type(error).__name__) == CODES[operation]
    assert words in str(error)


@pytest.mark.parametrize("operation", QUIET)
def test_quiet(ml_client: Any, outside: list[str], operation: str) -> None:
    from azure.core.exceptions import ResourceNotFoundError

    try:
        answer = whole(QUIET[operation](ml_client))
    except ResourceNotFoundError as error:
        assert "small:1 not found" in str(error)
    else:
        assert answer in (None, [])
