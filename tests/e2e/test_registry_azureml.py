"""The registry `azureml` through the unmodified SDK: curated vision models and environments, read-only."""

from __future__ import annotations

import http.client
import json
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

# As it stands in Azure's guide to AutoML for images, with the imports that the guide leaves out.
SNIPPET = """
from azure.ai.ml import MLClient
from azure.identity import DefaultAzureCredential
credential = DefaultAzureCredential()
ml_client = MLClient(credential, registry_name="azureml")

models = ml_client.models.list()
classification_models = []
for model in models:
    model = ml_client.models.get(model.name, label="latest")
    if model.tags['task'] == 'image-classification': # choose an image task
        classification_models.append(model.name)

classification_models
print(classification_models)
"""
FOUR = [
    "google-vit-base-patch16-224",
    "microsoft-swinv2-base-patch4-window12-192-22k",
    "facebook-deit-base-patch16-224",
    "microsoft-beit-base-patch16-224-pt22k-ft22k",
]
VIT = FOUR[0]
HOME = "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/local"
PROVIDER = "/providers/Microsoft.MachineLearningServices/registries"
ASSETS = f"/mferp/managementfrontend{HOME}{PROVIDER}/azureml"


@pytest.fixture(scope="module")
def registry(client_environment: None) -> Any:
    """The unmodified MLClient on the registry."""
    from azure.ai.ml import MLClient
    from azure.identity import DefaultAzureCredential

    return MLClient(DefaultAzureCredential(), registry_name="azureml")


def ask(server: Any, path: str, **arguments: str) -> tuple[int, Any]:
    """One raw GET, with an api-version as the SDK sends it."""
    query = urlencode({"api-version": "2021-10-01-dataplanepreview", **arguments})
    return server.call("GET", f"{path}?{query}")


def error_of(caught: Any) -> tuple[int, str]:
    return caught.value.status_code, caught.value.error.code


def test_the_guides_program_prints_its_four_names(server: Any) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SNIPPET],
        env=server.environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(FOUR)


def test_models_are_exactly_the_curated_ones(registry: Any) -> None:
    from amlocal.compat import curated

    listed = [model.name for model in registry.models.list()]
    assert listed == list(curated.models()) and len(listed) == 11
    tasks = [registry.models.get(name, label="latest").tags["task"] for name in listed]
    assert [tasks.count(t) for t in ("image-classification", "object-detection", "image-segmentation")] == [
        4,
        6,
        1,
    ]


def test_a_model_and_its_versions(registry: Any) -> None:
    from azure.core.exceptions import ResourceNotFoundError

    assert [model.version for model in registry.models.list(VIT)] == ["5", "18"]
    newest = registry.models.get(VIT, label="latest")
    assert (newest.version, newest.type) == ("18", "mlflow_model")
    assert newest.id == f"azureml://registries/azureml/models/{VIT}/versions/18"
    assert newest.properties["model_name"] == "google/vit-base-patch16-224"
    assert newest.properties["SHA"] == "2ddc9d4e473d7ba52128f0df4723e478fa14fb80"
    assert set(newest.flavors) == {"python_function", "transformers"}
    assert registry.models.get(VIT, version="5").version == "5"
    with pytest.raises(ResourceNotFoundError, match="version 5 and 18") as caught:
        registry.models.get(VIT, version="6")
    assert error_of(caught) == (404, "ResourceNotFound")
    with pytest.raises(ResourceNotFoundError, match="11 curated models"):
        registry.models.get("resnet50", version="1")
    with pytest.raises(Exception, match="resnet50 does not exist in registry azureml"):
        registry.models.get("resnet50", label="latest")


def test_files_of_a_model_are_not_claimed(registry: Any, server: Any, tmp_path: Path) -> None:
    from azure.core.exceptions import HttpResponseError

    found = registry.models.get(VIT, version="18")
    assert found.properties["amlocal.files"] == "not on this machine"
    code, body = server.call("GET", found.path.removeprefix(server.base_url))
    assert (code, body["error"]["code"]) == (404, "RegistryFilesNotFound")
    with pytest.raises(HttpResponseError, match=r"huggingface\.co/google/vit-base-patch16-224") as caught:
        registry.models.download(VIT, version="18", download_path=str(tmp_path))
    assert error_of(caught) == (404, "RegistryFilesNotFound")
    assert list(tmp_path.iterdir()) == []


def test_environments(registry: Any) -> None:
    from azure.core.exceptions import ResourceNotFoundError

    from amlocal.compat import curated

    assert [e.name for e in registry.environments.list()] == list(curated.environments())
    found = registry.environments.get("sklearn-1.5", label="latest")
    assert found.id == "azureml://registries/azureml/environments/sklearn-1.5/versions/1"
    assert found.image == "mcr.microsoft.com/azureml/curated/sklearn-1.5" and found.conda_file is None
    assert [e.version for e in registry.environments.list("model-evaluation")] == ["6", "24"]
    assert registry.environments.get("model-evaluation", label="latest").version == "24"
    assert registry.environments.get("AzureML-sklearn-1.5", version="1").name == "sklearn-1.5"
    with pytest.raises(ResourceNotFoundError, match="no environment 'mine'"):
        registry.environments.get("mine", version="1")


def test_there_are_no_components_and_no_data(registry: Any) -> None:
    from azure.core.exceptions import ResourceNotFoundError

    assert list(registry.components.list()) == [] and list(registry.data.list()) == []
    with pytest.raises(ResourceNotFoundError, match="holds no components here"):
        registry.components.get("automl_image_classification")


def test_nothing_can_be_written(registry: Any, ml_client: Any, tmp_path: Path) -> None:
    from azure.ai.ml import command
    from azure.ai.ml.entities import Data, Environment, Model
    from azure.core.exceptions import HttpResponseError

    (tmp_path / "weights.bin").write_text("w")
    path = str(tmp_path)
    ml_client.models.create_or_update(Model(name="own", version="1", path=path, type="custom_model"))
    step = command(
        name="step",
        command="true",
        environment="azureml://registries/azureml/environments/sklearn-1.5/versions/1",
    )
    for write in (
        lambda: registry.models.create_or_update(Model(name="own", version="1", path=path)),
        lambda: registry.models.archive(VIT, version="18"),
        lambda: registry.models.restore(VIT),
        lambda: registry.environments.create_or_update(Environment(name="own", image="python")),
        lambda: registry.environments.archive("sklearn-1.5"),
        lambda: registry.data.create_or_update(Data(name="own", version="1", path=path, type="uri_folder")),
        lambda: registry.components.create_or_update(step.component),
        lambda: ml_client.models.share(
            "own", "1", share_with_name="own", share_with_version="1", registry_name="azureml"
        ),
        lambda: ml_client.environments.share(
            "host", "1", share_with_name="own", share_with_version="1", registry_name="azureml"
        ),
    ):
        with pytest.raises(HttpResponseError, match="Registry azureml is read-only") as caught:
            write()
        assert error_of(caught) == (403, "RegistryIsReadOnly")
    assert "own" not in [model.name for model in registry.models.list()]


def test_the_registry_itself(ml_client: Any, registry: Any) -> None:
    from azure.core.exceptions import ResourceNotFoundError

    assert [r.name for r in ml_client.registries.list()] == ["azureml"]
    assert [r.name for r in ml_client.registries.list(scope="subscription")] == ["azureml"]
    found = ml_client.registries.get("azureml")
    assert found.id == f"{HOME}{PROVIDER}/azureml" and found.replication_locations == []
    assert found.discovery_url.endswith("/registrymanagement/v1.0/registries/azureml/discovery")
    assert registry.registries.get().id == found.id
    with pytest.raises(ResourceNotFoundError, match="the only one is azureml"):
        ml_client.registries.get("other")


def test_other_groups_have_no_registry(other_client: Any, server: Any) -> None:
    from azure.core.exceptions import ResourceNotFoundError

    client = other_client("11111111-2222-3333-4444-555555555555", "team", "registryless")
    assert list(client.registries.list()) == []
    with pytest.raises(ResourceNotFoundError, match="resource group local"):
        client.registries.get("azureml")
    code, body = server.call("GET", f"/subscriptions/none/resourceGroups/none{PROVIDER}")
    assert (code, body["error"]["code"]) == (404, "ResourceGroupNotFound")


def test_registries_cannot_be_made_or_deleted(ml_client: Any) -> None:
    from azure.ai.ml.entities import Registry, RegistryRegionDetails
    from azure.core.exceptions import HttpResponseError

    made = Registry(
        name="own", location="local", replication_locations=[RegistryRegionDetails(location="local")]
    )
    with pytest.raises(HttpResponseError, match="Creating a registry is not there yet") as caught:
        ml_client.registries.begin_create(made)
    assert error_of(caught) == (501, "NotImplemented")
    with pytest.raises(HttpResponseError, match="Deleting a registry is not there yet") as caught:
        ml_client.registries.begin_delete(name="azureml")
    assert error_of(caught) == (501, "NotImplemented")
    assert [r.name for r in ml_client.registries.list()] == ["azureml"]


def test_an_unknown_registry(client_environment: None) -> None:
    from azure.ai.ml import MLClient
    from azure.core.exceptions import ResourceNotFoundError
    from azure.identity import DefaultAzureCredential

    with pytest.raises(ResourceNotFoundError, match="'azureml-meta' here; the only one is azureml"):
        MLClient(DefaultAzureCredential(), registry_name="azureml-meta")


def test_pages_and_views(server: Any) -> None:
    code, body = ask(server, f"{ASSETS}/models", **{"$top": "4"})
    names = [item["name"] for item in body["value"]]
    while "nextLink" in body:
        code, body = server.call("GET", body["nextLink"].removeprefix(server.base_url))
        assert code == 200
        names += [item["name"] for item in body["value"]]
    assert names[:4] == FOUR and len(names) == len(set(names)) == 11
    assert ask(server, f"{ASSETS}/models", listViewType="ArchivedOnly") == (200, {"value": []})
    assert ask(server, f"{ASSETS}/models", tags="task")[0] == 501
    assert ask(server, f"{ASSETS}/notebooks")[0] == 404
    assert ask(server, f"{HOME}{PROVIDER}/azureml/models/{VIT}/versions/5")[0] == 200


HOSTILE = (
    "..",
    "%2e%2e",
    "%252e%252e",
    "..%5c",
    ";",
    "%00",
    "%c0%ae",
    "$(id)",
    "%0d%0a",
    "%ff",
    "*",
    "A" * 10_000,
)


def test_hostile_names(server: Any) -> None:
    context = ssl.create_default_context(cafile=str(server.folder.tls / "ca.pem"))
    connection = http.client.HTTPSConnection("localhost", server.port, timeout=30, context=context)
    connection._validate_path = lambda path: None  # type: ignore[attr-defined]
    headers = {"Authorization": f"Bearer {server.user_token()}", "Content-Type": "application/json"}
    rules = [
        ("GET", "/registrymanagement/v1.0/registries/{}/discovery"),
        ("GET", "/registries/azureml/models/{}/versions/5/files"),
        ("GET", f"{HOME}{PROVIDER}/{{}}"),
        ("PUT", f"{HOME}{PROVIDER}/azureml/{{}}"),
        ("GET", f"{ASSETS}/{{}}"),
        ("GET", f"{ASSETS}/models/{{}}"),
        ("GET", f"{ASSETS}/models/{{}}/versions/5"),
        ("GET", f"{ASSETS}/models/{VIT}/versions/{{}}"),
        ("POST", f"{ASSETS}/datarefs/{{}}/versions/5"),
        ("PUT", f"{ASSETS}/environments/{{}}/versions/5"),
        ("POST", f"{ASSETS}/models/{VIT}/versions/5/{{}}"),
        ("GET", f"/subscriptions/{{}}/resourceGroups/local{PROVIDER}"),
    ]
    for method, rule in rules:
        for name in HOSTILE:
            path = f"{rule.format(name)}?api-version=2025-12-01"
            connection.request(method, path, b"{}" if method != "GET" else None, headers)
            answer = connection.getresponse()
            content = answer.read()
            assert 400 <= answer.status < 500, (method, rule, name[:40], answer.status, content[:200])
            error = json.loads(content)["error"]
            assert error["message"] and error["code"] != "MissingApiVersionParameter"


def test_nothing_is_told_without_a_token(server: Any) -> None:
    for path in (
        "/registrymanagement/v1.0/registries/azureml/discovery",
        f"{ASSETS}/models",
        f"{HOME}{PROVIDER}",
    ):
        assert server.call("GET", path, token="nonsense")[0] == 401
