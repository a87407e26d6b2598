"""Components through the unmodified SDK: versions, checks, references, archive, download; and in jobs."""

from __future__ import annotations

import copy
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from conftest import wait_for

YAML = """
$schema: https://azuremlschemas.azureedge.net/latest/commandComponent.schema.json
type: command
name: {name}
display_name: Fit
description: fits a line
inputs:
  table: {{type: uri_folder}}
  rounds: {{type: integer, min: 1, max: 100, default: 5}}
  rate: {{type: number, default: 0.5}}
  kind: {{type: string, enum: [linear, cubic], default: linear}}
  shuffle: {{type: boolean, optional: true}}
outputs:
  model: {{type: uri_folder}}
code: ./src
environment: {environment}
command: >-
  python fit.py --table ${{{{inputs.table}}}} --rounds ${{{{inputs.rounds}}}} --rate ${{{{inputs.rate}}}}
  --kind ${{{{inputs.kind}}}} $[[--shuffle ${{{{inputs.shuffle}}}}]] --model ${{{{outputs.model}}}}
"""
CURATED = "azureml://registries/azureml/environments/sklearn-1.5/labels/latest"


@pytest.fixture
def write(tmp_path: Path) -> Any:
    """Writes a component's YAML beside its code and loads it."""
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "fit.py").write_text("import sys\nprint('given', sys.argv[1:])\n")

    def load(name: str, environment: str = CURATED, **changes: str) -> Any:
        from azure.ai.ml import load_component

        text = YAML.format(name=name, environment=environment)
        for old, new in changes.items():
            text = text.replace(old, new)
        (tmp_path / f"{name}.yml").write_text(text)
        return load_component(tmp_path / f"{name}.yml")

    return load


@pytest.fixture
def put(server: Any) -> Any:
    """PUT of a raw componentSpec: status and body."""

    def send(name: str, spec: Any, version: str = "1", **properties: Any) -> tuple[int, Any]:
        body = {"properties": {"componentSpec": spec, **properties}}
        return server.call("PUT", f"{server.workspace_path}/components/{name}/versions/{version}", body=body)

    return send


def spec(**changes: Any) -> dict[str, Any]:
    made = {
        "type": "command",
        "name": "raw",
        "command": "echo ${{inputs.a}} ${{outputs.o}}",
        "environment": CURATED,
        "inputs": {"a": {"type": "integer", "default": "3"}},
        "outputs": {"o": {"type": "uri_folder"}},
    }
    made.update(changes)
    return {key: value for key, value in made.items() if value is not None}


def test_a_yaml_component_is_registered_whole(ml_client: Any, server: Any, write: Any) -> None:
    made = ml_client.components.create_or_update(write("whole"))
    assert (made.name, made.version) == ("whole", "1")
    code, body = server.call("GET", f"{server.workspace_path}/components/whole/versions/1")
    assert code == 200
    stored = body["properties"]["componentSpec"]
    assert stored["version"] == "1" and stored["environment"] == CURATED
    assert stored["inputs"]["rounds"] == {"type": "integer", "min": "1", "max": "100", "default": "5"}
    assert "definition" not in body["properties"]
    code_id = stored["code"].removeprefix("azureml:")
    code, asset = server.call("GET", code_id)
    assert code == 200
    container = asset["properties"]["codeUri"].partition("azureml-code-")[2]
    lying = next(server.root.glob(f"**/azureml-code-{container}/fit.py"))
    assert "given" in lying.read_text()
    got = ml_client.components.get("whole")
    assert got.inputs["kind"]["enum"] == ["linear", "cubic"] and got.outputs["model"]["type"] == "uri_folder"


def test_versions_labels_and_the_default(ml_client: Any, write: Any) -> None:
    from azure.core.exceptions import ResourceNotFoundError

    def make(version: str | None = None) -> str:
        component = write("counted")
        component.version = version
        return str(ml_client.components.create_or_update(component).version)

    assert [make(), make(), make("9"), make(), make("named")] == ["1", "2", "9", "10", "named"]
    assert ml_client.components.get("counted").version == "named"
    assert ml_client.components.get("counted", label="latest").version == "named"
    assert ml_client.components.get("counted", version="9").version == "9"
    assert sorted(c.version for c in ml_client.components.list("counted")) == ["1", "10", "2", "9", "named"]
    assert [c.latest_version for c in ml_client.components.list() if c.name == "counted"] == ["named"]
    for arguments in ({}, {"version": "1"}):
        with pytest.raises(ResourceNotFoundError, match="never-made"):
            ml_client.components.get("never-made", **arguments)
    with pytest.raises(ResourceNotFoundError, match="counted:77"):
        ml_client.components.get("counted", version="77")


def test_the_same_again_and_a_changed_definition(ml_client: Any, write: Any) -> None:
    from azure.core.exceptions import HttpResponseError

    first = ml_client.components.create_or_update(write("kept"), version="1")
    again = ml_client.components.create_or_update(write("kept"), version="1")
    assert again.creation_context.created_at == first.creation_context.created_at
    assert again.creation_context.last_modified_at == first.creation_context.last_modified_at
    texts = ml_client.components.get("kept", version="1")
    texts.description, texts.tags, texts.display_name = "better", {"stage": "dev"}, "Fit it"
    ml_client.components.create_or_update(texts)
    found = ml_client.components.get("kept", version="1")
    assert (found.description, found.tags, found.display_name) == ("better", {"stage": "dev"}, "Fit it")
    with pytest.raises(HttpResponseError) as caught:
        ml_client.components.create_or_update(
            write("kept", **{"python fit.py": "python -u fit.py"}), version="1"
        )
    assert caught.value.status_code == 409
    assert "kept:1" in caught.value.message and "command would be another" in caught.value.message
    assert ml_client.components.get("kept", version="1").command == found.command


def test_two_at_once_make_one(put: Any) -> None:
    made = [spec(command=f"echo {number} ${{{{inputs.a}}}}", outputs=None) for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        codes = [
            answer[0] for answer in pool.map(lambda one: put("raw-race", {**one, "name": "raw-race"}), made)
        ]
    assert sorted(codes) == [201, *[409] * 7]


def test_skip_if_nothing_changed(ml_client: Any, write: Any) -> None:
    first = ml_client.components.create_or_update(write("lazy"))
    assert first.version == "1"
    ml_client.components.create_or_update(write("lazy"), skip_if_no_change=True)
    assert [c.version for c in ml_client.components.list("lazy")] == ["1"]
    ml_client.components.create_or_update(
        write("lazy", **{"default: 0.5": "default: 0.25"}), version="2", skip_if_no_change=True
    )
    assert sorted(c.version for c in ml_client.components.list("lazy")) == ["1", "2"]


def test_archive_and_restore(ml_client: Any, write: Any) -> None:
    from azure.ai.ml.constants import ListViewType
    from azure.core.exceptions import ResourceNotFoundError

    for _ in range(2):
        ml_client.components.create_or_update(write("old"))

    def versions(view: Any) -> list[str]:
        return sorted(c.version for c in ml_client.components.list("old", list_view_type=view))

    def names(view: Any) -> list[str]:
        return [c.name for c in ml_client.components.list(list_view_type=view) if c.name == "old"]

    ml_client.components.archive("old", version="2")
    assert versions(ListViewType.ACTIVE_ONLY) == ["1"] and versions(ListViewType.ARCHIVED_ONLY) == ["2"]
    assert ml_client.components.get("old").version == "1"
    ml_client.components.archive("old")
    assert (names(ListViewType.ACTIVE_ONLY), names(ListViewType.ARCHIVED_ONLY)) == ([], ["old"])
    ml_client.components.restore("old")
    assert versions(ListViewType.ACTIVE_ONLY) == ["1", "2"]
    for change in (ml_client.components.archive, ml_client.components.restore):
        with pytest.raises(ResourceNotFoundError):
            change("never-made")


def test_anonymous_components_are_not_listed(ml_client: Any, server: Any, write: Any) -> None:
    made = ml_client.components.create_or_update(write("hidden"), is_anonymous=True)
    assert made.id.rpartition("/components/")[2].startswith("azureml_anonymous/versions/")
    code, body = server.call("GET", made.id.removeprefix("azureml:"))
    assert code == 200 and body["properties"]["isAnonymous"] is True
    from azure.ai.ml.constants import ListViewType

    listed = {c.name for c in ml_client.components.list(list_view_type=ListViewType.ALL)}
    assert not listed & {"hidden", "azureml_anonymous"}


def test_validate(ml_client: Any, write: Any) -> None:
    assert ml_client.components.validate(write("valid")).passed
    names = {c.name for c in ml_client.components.list()}
    assert "valid" not in names
    bad = ml_client.components.validate(write("invalid", **{"inputs.rate": "inputs.speed"}))
    assert not bad.passed and "speed" in json.dumps(bad.error_messages)


def test_download_without_code_and_registered_again(ml_client: Any, write: Any, tmp_path: Path) -> None:
    from azure.ai.ml import load_component
    from azure.core.exceptions import ResourceNotFoundError

    made = write("carried", **{"code: ./src\n": "", "python fit.py": "echo"})
    ml_client.components.create_or_update(made)
    ml_client.components.download("carried", tmp_path / "down", version="1")
    loaded = load_component(tmp_path / "down" / "component_spec.yaml")
    loaded.name = "carried_again"
    again = ml_client.components.create_or_update(loaded)
    assert again.command == ml_client.components.get("carried").command
    with pytest.raises(ResourceNotFoundError):
        ml_client.components.download("never-made", tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_an_inline_environment_is_registered(ml_client: Any, server: Any, write: Any) -> None:
    made = ml_client.components.create_or_update(write("inline", "{image: docker.io/python}"))
    identity = made.environment.removeprefix("azureml:")
    code, body = server.call("GET", identity)
    assert code == 200 and body["properties"]["image"] == "docker.io/python"


def test_a_job_of_a_registered_components_parts(ml_client: Any, tmp_path: Path) -> None:
    from azure.ai.ml import command

    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "say.py").write_text(
        "import pathlib, sys\npathlib.Path('outputs/said.txt').write_text(' '.join(sys.argv[1:]))\n"
    )
    built = command(
        name="say",
        code=str(tmp_path / "code"),
        command="python say.py ${{inputs.word}}",
        environment="AzureML-sklearn-1.5@latest",
        inputs={"word": "first"},
    )
    ml_client.components.create_or_update(built.component)
    found = ml_client.components.get("say")
    assert found.inputs["word"]["default"] == "first"
    job = ml_client.jobs.create_or_update(
        command(
            code=found.code,
            command=found.command,
            environment=found.environment,
            inputs={"word": "second"},
            compute="cpu-cluster",
        )
    )
    wait_for(
        lambda: ml_client.jobs.get(job.name).status in ("Completed", "Failed", "Canceled"),
        60,
        "the job's end",
    )
    assert ml_client.jobs.get(job.name).status == "Completed"
    ml_client.jobs.download(job.name, download_path=tmp_path / "got")
    assert next((tmp_path / "got").glob("**/said.txt")).read_text() == "second"


def test_a_pipeline_component_keeps_its_steps(ml_client: Any, server: Any, write: Any) -> None:
    from azure.ai.ml import Input
    from azure.ai.ml.dsl import pipeline

    ml_client.components.create_or_update(write("step"))
    step = ml_client.components.get("step")

    def build(rounds):  # type: ignore[no-untyped-def]
        step(table=Input(type="uri_folder", path="azureml:any:1"), rounds=rounds)

    build.__annotations__ = {"rounds": int}  # the SDK reads types there, not their names
    stepped = pipeline(name="stepped")(build)
    ml_client.components.create_or_update(stepped._pipeline_builder.build(user_provided_kwargs={}))
    code, body = server.call("GET", f"{server.workspace_path}/components/stepped/versions/1")
    assert code == 200
    jobs = body["properties"]["componentSpec"]["jobs"]
    assert [job["componentId"].rpartition("/components/")[2] for job in jobs.values()] == ["step/versions/1"]
    broken = copy.deepcopy(body["properties"]["componentSpec"])
    broken["name"] = "broken"
    next(iter(broken["jobs"].values()))["componentId"] = "azureml:gone:3"
    code, answer = server.call(
        "PUT",
        f"{server.workspace_path}/components/broken/versions/1",
        body={"properties": {"componentSpec": broken}},
    )
    assert code == 400 and "'gone:3' does not exist" in answer["error"]["message"]


REFUSED = {
    "no-spec": (None, "componentSpec"),
    "a-list": ([], "componentSpec"),
    "no-type": (spec(type=None), "componentSpec.type is None"),
    "unknown-type": (spec(type="comand"), "use command, parallel, pipeline"),
    "type-number": (spec(type=7), "componentSpec.type is 7"),
    "no-command": (spec(command=None), "componentSpec.command is missing"),
    "command-list": (spec(command=["echo"]), "componentSpec.command is missing"),
    "unknown-input": (spec(command="echo ${{inputs.b}}"), "names no input"),
    "unknown-optional": (spec(command="echo $[[${{inputs.b}}]]"), "names no input"),
    "unknown-output": (spec(command="echo ${{outputs.x}}"), "names no output"),
    "odd-placeholder": (spec(command="echo ${{parent.x}}"), "not understood"),
    "optional-outside": (spec(inputs={"a": {"type": "string", "optional": True}}), "$[["),
    "input-type": (spec(inputs={"a": {"type": "flaot"}}), "inputs.a.type is 'flaot'"),
    "input-text": (spec(inputs={"a": "integer"}), "inputs.a must be an object"),
    "input-name": (spec(inputs={"a b": {"type": "string"}}), "'a b'"),
    "inputs-list": (spec(inputs=["a"]), "componentSpec.inputs must be an object"),
    "bad-default": (spec(inputs={"a": {"type": "integer", "default": "3.5"}}), "a whole number"),
    "default-outside": (spec(inputs={"a": {"type": "integer", "default": "3", "max": "2"}}), "outside"),
    "default-no-choice": (spec(inputs={"a": {"type": "string", "default": "c", "enum": ["d"]}}), "in enum"),
    "nan": (spec(inputs={"a": {"type": "number", "default": "nan"}}), "a number"),
    "asset-default": (spec(inputs={"a": {"type": "uri_file", "default": "x"}}), "can have none"),
    "output-type": (spec(outputs={"o": {"type": "file"}}), "outputs.o.type is 'file'"),
    "no-environment": (spec(environment=None), "componentSpec.environment is None"),
    "environment-inline": (spec(environment={"image": "python"}), "id of a registered environment"),
    "environment-unknown": (spec(environment="azureml:nowhere:4"), "nowhere:4"),
    "environment-registry": (spec(environment="azureml://registries/r/environments/x/versions/1"), "azureml"),
    "code-unknown": (spec(code="azureml:gone:1"), "'gone:1' does not exist"),
    "code-label": (spec(code="azureml:gone@best"), "the only label is latest"),
    "code-path": (spec(code="../../etc"), "componentSpec.code"),
    "code-number": (spec(code=3), "componentSpec.code is 3"),
    "code-model": (
        spec(code="azureml://registries/azureml/models/google-vit-base-patch16-224/versions/5"),
        "names nothing among the codes",
    ),
    "code-elsewhere": (
        spec(
            code="/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices"
            "/workspaces/w/codes/c/versions/1"
        ),
        "another workspace",
    ),
    "other-name": (spec(name="else"), "componentSpec.name is 'else'"),
    "no-task": ({"type": "parallel", "name": "raw"}, "componentSpec.task is missing"),
    "no-jobs": ({"type": "pipeline", "name": "raw"}, "componentSpec.jobs is missing"),
    "step-text": ({"type": "pipeline", "name": "raw", "jobs": {"a": "b"}}, "jobs.a must be an object"),
}  # fmt: skip


@pytest.mark.parametrize(("given", "expected"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_a_component_is_refused(server: Any, put: Any, given: Any, expected: str) -> None:
    code, body = put("raw", given)
    assert code == 400, body
    assert expected in body["error"]["message"]
    assert server.call("GET", f"{server.workspace_path}/components/raw")[0] == 404


@pytest.mark.parametrize("kind", ["sweep", "spark", "automl", "flow", "import"])
def test_types_that_are_not_there_are_named(put: Any, kind: str) -> None:
    code, body = put("raw", spec(type=kind))
    assert (code, body["error"]["code"]) == (501, "NotImplemented")
    assert f"type {kind}" in body["error"]["message"]


def test_nesting_has_an_end(server: Any, put: Any) -> None:
    deep: Any = []
    for _ in range(90):
        deep = [deep]
    assert put("deep", spec(name="deep", note=deep))[0] == 201
    for _ in range(20):
        deep = [deep]
    code, body = put("deeper", spec(name="deeper", note=deep))
    assert code == 400 and "more than 100 levels" in body["error"]["message"]
    assert server.call("GET", f"{server.workspace_path}/components")[0] == 200


def test_the_default_versions_name_cannot_be_taken(put: Any) -> None:
    code, body = put("raw", spec(), version="azureml_default")
    assert code == 400 and body["error"]["code"] == "InvalidVersion"


def test_create_or_update_says_what_is_missing(ml_client: Any, write: Any) -> None:
    from azure.core.exceptions import HttpResponseError

    with pytest.raises(HttpResponseError) as caught:
        ml_client.components.create_or_update(write("lost", "azureml:nowhere:4"))
    assert caught.value.status_code == 400 and "nowhere:4" in caught.value.message
    assert "lost" not in [c.name for c in ml_client.components.list()]
