"""Environments through the unmodified SDK: versions, curated names, and the Python that their jobs run in."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from environment_desk import IMAGE, conda, log_of, put
from job_desk import ended


def test_versions_fields_and_archive(ml_client: Any, tmp_path: Path) -> None:
    from azure.ai.ml.constants import ListViewType
    from azure.ai.ml.entities import Environment
    from azure.core.exceptions import HttpResponseError, ResourceNotFoundError

    file = conda(tmp_path, "python=3.11", {"pip": ["pyyaml"]})
    route = {"port": 5001, "path": "/score"}

    def make(**more: Any) -> Any:
        given = {"image": IMAGE, "conda_file": str(file), **more}
        return ml_client.environments.create_or_update(Environment(name="versioned", **given))

    first = make(
        description="the first",
        tags={"team": "a"},
        properties={"p": "1"},
        os_type="Linux",
        inference_config={"liveness_route": route, "readiness_route": route, "scoring_route": route},
    )
    assert first.version == "1"
    kept = ml_client.environments.get("versioned", version="1")
    assert (kept.description, kept.tags, kept.properties["p"], kept.image, kept.os_type) == (
        "the first", {"team": "a"}, "1", IMAGE, "Linux",
    )  # fmt: skip
    assert kept.conda_file["dependencies"] == ["python=3.11", {"pip": ["pyyaml"]}]
    assert kept.inference_config["scoringRoute"] == route
    # The same content again is no new version; another image is.
    assert make(tags={"team": "b"}).version == "1"
    assert make(image="other:2").version == "2"
    assert ml_client.environments.get("versioned", label="latest").image == "other:2"
    with pytest.raises(HttpResponseError) as caught:
        make(version="1", image="third:3")
    assert caught.value.status_code == 409 and "image" in caught.value.message

    def versions(view: Any = ListViewType.ACTIVE_ONLY) -> list[str]:
        return [e.version for e in ml_client.environments.list("versioned", list_view_type=view)]

    def names(view: Any = ListViewType.ACTIVE_ONLY) -> list[str]:
        return [e.name for e in ml_client.environments.list(list_view_type=view)]

    ml_client.environments.archive("versioned", version="2")
    assert (versions(), versions(ListViewType.ARCHIVED_ONLY)) == (["1"], ["2"])
    ml_client.environments.restore("versioned", version="2")
    assert versions() == ["1", "2"]
    ml_client.environments.archive("versioned")
    assert "versioned" not in names() and "versioned" in names(ListViewType.ARCHIVED_ONLY)
    ml_client.environments.restore("versioned")
    assert "versioned" in names() and versions() == ["1", "2"]

    for call in (ml_client.environments.archive, ml_client.environments.restore):
        with pytest.raises(ResourceNotFoundError) as missing:
            call("never-made")
        assert "never-made" in missing.value.message
    with pytest.raises(ResourceNotFoundError) as missing:
        ml_client.environments.get("versioned", version="3")
    assert "versioned:3" in missing.value.message
    assert list(ml_client.environments.list("never-made")) == []
    with pytest.raises(HttpResponseError) as unknown_view:
        list(ml_client.environments.list(list_view_type="Some"))
    assert unknown_view.value.status_code == 400 and "listViewType" in unknown_view.value.message


def test_curated_environments_are_in_every_workspace(ml_client: Any) -> None:
    from azure.ai.ml.entities import Environment
    from azure.core.exceptions import HttpResponseError, ResourceNotFoundError

    listed = {e.name: e.latest_version for e in ml_client.environments.list()}
    assert "AzureML-sklearn-1.5" in listed and "host" in listed
    got = ml_client.environments.get("AzureML-sklearn-1.5", label="latest")
    assert got.version == listed["AzureML-sklearn-1.5"]
    assert got.image.startswith("mcr.microsoft.com/azureml/curated/sklearn-1.5")
    assert got.tags["Scikit-learn"] == "1.5"
    again = ml_client.environments.get("azureml:AzureML-sklearn-1.5", version=got.version)
    assert again.id == got.id
    assert [e.version for e in ml_client.environments.list("AzureML-model-evaluation")] == ["6", "24"]
    with pytest.raises(ResourceNotFoundError):
        ml_client.environments.get("AzureML-never-made", version="1")
    with pytest.raises(HttpResponseError) as builtin:
        ml_client.environments.archive("AzureML-sklearn-1.5")
    assert builtin.value.status_code == 409
    with pytest.raises(HttpResponseError) as reserved:
        ml_client.environments.create_or_update(Environment(name="AzureML-mine", image=IMAGE))
    assert reserved.value.status_code == 400 and "curated" in reserved.value.message


@pytest.mark.parametrize(
    ("properties", "code", "part"),
    [
        ({"image": "i", "condaFile": "dependencies: ["}, "InvalidCondaFile", "line 2"),
        ({"image": "i", "condaFile": "- a"}, "InvalidCondaFile", "mapping"),
        ({"image": "i", "condaFile": "dependencies: 3"}, "InvalidCondaFile", "`dependencies` must be a list"),
        ({"image": "i", "condaFile": "dependencies: [{pip: [7]}]"}, "InvalidCondaFile", ".pip[0]"),
        (
            {"image": "i", "condaFile": "a: &a [x,x]\nb: &b [*a,*a]\nc: &c [*b,*b]"},
            "InvalidCondaFile",
            "line 2 has an alias",
        ),
        ({"image": "i", "condaFile": "- numpy\n" * 130_000}, "InvalidCondaFile", "at most"),
        ({"image": "i", "condaFile": {"dependencies": []}}, "InvalidRequestContent", "condaFile"),
        ({}, "InvalidEnvironment", "image"),
        ({"image": "i", "build": {"contextUri": "u"}}, "InvalidEnvironment", "either"),
        ({"image": "a b"}, "InvalidEnvironment", "no name of an image"),
        ({"build": {"dockerfilePath": "D"}}, "InvalidEnvironment", "contextUri"),
        ({"image": "i", "osType": "BeOS"}, "InvalidEnvironment", "osType"),
        (
            {"image": "i", "inferenceConfig": {"scoringRoute": {"port": "80", "path": "/"}}},
            "InvalidEnvironment",
            "scoringRoute.port",
        ),
    ],
)
def test_malformed_environments_are_refused_whole(
    server: Any, properties: dict[str, Any], code: str, part: str
) -> None:
    status, answer = put(server, "malformed", properties)
    assert (status, answer["error"]["code"]) == (400, code)
    assert part in answer["error"]["message"], answer
    status, _ = server.call("GET", f"{server.workspace_path}/environments/malformed?api-version=2024-04-01")
    assert status == 404


def test_a_job_is_told_how_its_python_differs(server: Any, ml_client: Any, tmp_path: Path) -> None:
    from azure.ai.ml import command
    from azure.ai.ml.entities import Environment

    file = conda(
        tmp_path, "python=3.9", "numpy=1.0", "cudatoolkit=11",
        {"pip": ["no-such-package-here==2", "pyyaml", "-r more.txt"]},
    )  # fmt: skip
    job = command(
        command="which python && python -c 'import sys; print(sys.version)' && env",
        environment=Environment(image=IMAGE, conda_file=str(file)),
        compute="cpu-cluster",
    )
    submitted = ml_client.jobs.create_or_update(job)
    told = ml_client.jobs.get(submitted.name).properties
    import numpy

    version = ".".join(map(str, sys.version_info[:3]))
    assert told["amlocal.environment_differences"] == (
        f"python: wanted =3.9, {version} installed; numpy: wanted =1.0, {numpy.__version__} installed; "
        "no-such-package-here: wanted ==2, not installed"
    )
    assert told["amlocal.python"] == f"{sys.executable} ({version})"
    assert ended(ml_client, submitted.name).status == "Completed"
    log = log_of(server, submitted.name)
    label = told["azureml.runtimeEnvironment"]
    assert label.startswith("CliV2AnonymousEnvironment:")
    assert f"amlocal: environment {label} runs in Python {version} of amlocal: {sys.executable}" in log
    assert f"amlocal: differs from {label}: numpy: wanted =1.0, {numpy.__version__} installed" in log
    assert "amlocal: not compared: cudatoolkit=11" in log and "amlocal: not compared: -r more.txt" in log
    assert f"\n{Path(sys.executable).parent}/python\n" in log
    # The job knows no secret of the server's, and lists do not show an environment without a name.
    secret = server.environment()["IDENTITY_HEADER"]
    assert secret and secret not in log and "IDENTITY_HEADER" not in log
    assert "CliV2AnonymousEnvironment" not in [e.name for e in ml_client.environments.list()]

    # What was true of that job is not said of one that is made from it.
    copy = command(command="true", environment="azureml:host:1", properties=dict(told))
    assert "amlocal.environment_differences" not in ml_client.jobs.create_or_update(copy).properties


def test_curated_names_in_jobs(server: Any, ml_client: Any) -> None:
    from azure.ai.ml import command
    from azure.core.exceptions import HttpResponseError

    def submit(environment: str) -> Any:
        return ml_client.jobs.create_or_update(command(command="true", environment=environment))

    for name, label in (
        ("azureml://registries/azureml/environments/sklearn-1.5/labels/latest", "sklearn-1.5:1"),
        ("azureml://registries/azureml/environments/sklearn-1.5/versions/27", "sklearn-1.5:27"),
        ("azureml:AzureML-sklearn-1.5@latest", "AzureML-sklearn-1.5:1"),
        ("AzureML-sklearn-0.24-ubuntu18.04-py37-cpu@latest", "AzureML-sklearn-0.24-ubuntu18.04-py37-cpu:22"),
    ):
        properties = submit(name).properties
        assert properties["azureml.runtimeEnvironment"] == label
    differences = submit("azureml://registries/azureml/environments/sklearn-1.5/labels/latest").properties
    assert "python: wanted =3.10" in differences["amlocal.environment_differences"]
    with pytest.raises(HttpResponseError) as caught:
        submit("azureml:never-made:1")
    assert caught.value.status_code == 400 and "never-made:1" in caught.value.message
    with pytest.raises(HttpResponseError) as caught:
        submit("azureml://registries/other/environments/x/versions/1")
    assert "registry" in caught.value.message
