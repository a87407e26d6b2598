from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amlocal.compat.azureml_uri import (
    AssetUri,
    DatastoreUri,
    JobOutputUri,
    UriError,
    WorkspaceName,
    clean_path,
    parse,
    parse_datastore,
)

WORKSPACE = WorkspaceName("my-subscription-id", "my-resource-group", "my-workspace")
LONG = (
    "azureml://subscriptions/my-subscription-id/resourcegroups/my-resource-group/workspaces/my-workspace"
    "/datastores/my-datastore/paths/image_data/Image_01.jpg"
)
IMAGE = DatastoreUri("my-datastore", "image_data/Image_01.jpg", WORKSPACE)
ARM = (
    "/subscriptions/my-subscription-id/resourceGroups/my-resource-group/providers"
    "/Microsoft.MachineLearningServices/workspaces/my-workspace"
)


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        (LONG, IMAGE),
        (LONG.replace("resourcegroups", "resourceGroups").replace("azureml:", "AzureML:"), IMAGE),
        (LONG.replace("/workspaces/", "/providers/Microsoft.MachineLearningServices/workspaces/"), IMAGE),
        (LONG.replace("/workspaces/", "/Providers/microsoft.machinelearningservices/Workspaces/"), IMAGE),
        (LONG.replace("datastores", "dataStores").replace("paths", "Paths"), IMAGE),
        (
            "azureml://datastores/workspaceblobstore/paths/a b/ü%.jpg",
            DatastoreUri("workspaceblobstore", "a b/ü%.jpg"),
        ),
        ("azureml://datastores/d/paths/", DatastoreUri("d", "")),
        ("azureml://datastores/d/paths", DatastoreUri("d", "")),
        ("azureml://datastores/d/paths//a/./b//c/", DatastoreUri("d", "a/b/c")),
        ("azureml://datastores/d/paths/paths/x", DatastoreUri("d", "paths/x")),
        (
            "azureml://jobs/calm_fig_1_HD_0/outputs/artifacts/paths/outputs/mlflow-model/",
            JobOutputUri("calm_fig_1_HD_0", "artifacts", "outputs/mlflow-model"),
        ),
        (
            "azureml://jobs/calm_fig_1_HD_0/outputs/artifacts/outputs/mlflow-model/",
            JobOutputUri("calm_fig_1_HD_0", "artifacts", "outputs/mlflow-model"),
        ),
        ("azureml://jobs/j/outputs/best_model/paths/", JobOutputUri("j", "best_model", "")),
        ("azureml://jobs/j/outputs/best_model", JobOutputUri("j", "best_model", "")),
        (
            LONG[: LONG.index("datastores")] + "jobs/j/outputs/o/paths/p",
            JobOutputUri("j", "o", "p", WORKSPACE),
        ),
        ("azureml:fridge:1", AssetUri("fridge", version="1")),
        ("azureml:fridge@latest", AssetUri("fridge", label="latest")),
        (ARM + "/data/fridge/versions/3", AssetUri("fridge", "3", kind="data", workspace=WORKSPACE)),
        (
            "azureml:" + ARM + "/data/fridge/versions/3",
            AssetUri("fridge", "3", kind="data", workspace=WORKSPACE),
        ),
        ("azureml:/" + ARM + "/Data/f/labels/latest", AssetUri("f", None, "latest", "data", WORKSPACE)),
        (
            LONG[: LONG.index("datastores")] + "models/m/versions/2",
            AssetUri("m", "2", kind="models", workspace=WORKSPACE),
        ),
        (
            "azureml://registries/azureml/models/google-vit/versions/5",
            AssetUri("google-vit", "5", kind="models", registry="azureml"),
        ),
    ],
)
def test_every_form_is_read(uri: str, expected: object) -> None:
    assert parse(uri) == expected


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (IMAGE, LONG),
        (DatastoreUri("d", "a/b.jpg"), "azureml://datastores/d/paths/a/b.jpg"),
        (DatastoreUri("d", "a").within(WORKSPACE), LONG[: LONG.index("my-datastore")] + "d/paths/a"),
        (IMAGE.within(WorkspaceName("x", "y", "z")), LONG),
        (JobOutputUri("j", "artifacts", "outputs/m"), "azureml://jobs/j/outputs/artifacts/paths/outputs/m"),
        (AssetUri("n", "1"), "azureml:n:1"),
        (AssetUri("n", label="latest"), "azureml:n@latest"),
        (AssetUri("n", "1", kind="data", workspace=WORKSPACE), ARM + "/data/n/versions/1"),
        (AssetUri("n", "1", kind="models", registry="r"), "azureml://registries/r/models/n/versions/1"),
    ],
)
def test_formatting_back(value: object, text: str) -> None:
    assert str(value) == text
    assert parse(text) == value


def test_arm_id_of_a_short_reference() -> None:
    assert AssetUri("n", "4").arm_id(WORKSPACE) == ARM + "/data/n/versions/4"


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("../secret", "'..'"),
        ("a/../../secret", "'..'"),
        ("a/..", "'..'"),
        ("%2e%2e/secret", "'..'"),
        ("a/.%2E/secret", "'..'"),
        ("%252e%252e/secret", "'..'"),
        ("..%2fsecret", "encoded slash"),
        ("a%2F..%2Fb", "encoded slash"),
        ("..\\secret", "backslash"),
        ("a\\b", "backslash"),
        ("..%5csecret", "backslash"),
        ("a%255cb", "backslash"),
        ("a\x00b", "control character"),
        ("a%00b", "encoded control character"),
        ("a\nb", "control character"),
        ("a\x7fb", "control character"),
        ("%25252525252e", "more than three times"),
        ("\ud800.jpg", "not valid Unicode"),
    ],
)
def test_hostile_paths_are_refused_everywhere(path: str, reason: str) -> None:
    for refused in (
        lambda: clean_path(path),
        lambda: parse(f"azureml://datastores/d/paths/{path}"),
        lambda: parse(f"azureml://jobs/j/outputs/artifacts/paths/{path}"),
        lambda: parse(f"azureml://jobs/j/outputs/artifacts/{path}"),
    ):
        with pytest.raises(UriError) as caught:
            refused()
        assert reason in str(caught.value)


@pytest.mark.parametrize("path", ["/etc/passwd", "C:/x", "c:x", "//server/x", ""])
def test_absolute_and_empty_paths_are_not_relative(path: str) -> None:
    with pytest.raises(UriError):
        clean_path(path)


@pytest.mark.parametrize(
    "path", ["a.jpg", "a/b..c.jpg", "100%.jpg", "a%20b.jpg", "ä/ö.jpg", "...", "a b/#?.png"]
)
def test_harmless_names_are_kept(path: str) -> None:
    assert clean_path(path) == path


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "azureml:",
        "azureml://",
        "azureml:///",
        "azureml:name",
        "azureml:name:",
        "azureml:name@",
        "azureml:a/b:1",
        "azureml:..:1",
        "azureml://datastores/d",
        "azureml://datastores/d/x",
        "azureml://datastores//paths/x",
        "azureml://datastores/../paths/x",
        "azureml://datastores/a%2fb/paths/x",
        "azureml://jobs/j",
        "azureml://jobs/j/outputs",
        "azureml://jobs/../outputs/artifacts/paths/x",
        "azureml://jobs/j/outputs/../paths/x",
        "azureml://subscriptions/s/resourcegroups/g/datastores/d/paths/x",
        "azureml://subscriptions/s/resourcegroups/g/workspaces/w",
        "azureml://subscriptions/../resourcegroups/g/workspaces/w/datastores/d/paths/x",
        "azureml://elsewhere/x",
        "azureml://registries/r/data/n",
        "azureml://registries/r/secrets/n/versions/1",
        ARM + "/data/n",
        ARM + "/computes/n",
        "https://example.com/a.jpg",
        "file:///etc/passwd",
        "images/a.jpg",
    ],
)
def test_other_texts_are_refused(uri: str) -> None:
    with pytest.raises(UriError):
        parse(uri)


def test_a_wrong_form_shows_the_accepted_ones() -> None:
    with pytest.raises(UriError) as caught:
        parse("azureml://datastore/d/paths/x")
    assert "azureml://datastores/DATASTORE/paths/PATH" in str(caught.value)
    assert "azureml:NAME:VERSION" in str(caught.value)


def test_a_sample_with_its_placeholders_says_so() -> None:
    uri = (
        "azureml://subscriptions/<my-subscription-id>/resourcegroups/<my-resource-group>/workspaces"
        "/<my-workspace>/datastores/<my-datastore>/paths/image_data/Image_01.png"
    )
    with pytest.raises(
        UriError, match="placeholder <my-subscription-id> where the subscription's name belongs"
    ):
        parse(uri)


def test_only_datastore_paths_where_only_they_make_sense() -> None:
    assert parse_datastore(LONG) == IMAGE
    with pytest.raises(UriError, match="not a path in a datastore"):
        parse_datastore("azureml:fridge:1")


def test_very_long_references_are_refused_and_not_echoed_whole() -> None:
    with pytest.raises(UriError) as caught:
        parse("azureml://datastores/d/paths/" + "a" * 100_000)
    assert len(str(caught.value)) < 500


@given(st.text(max_size=60))
def test_any_text_is_a_clean_path_or_a_uri_error(text: str) -> None:
    try:
        path = clean_path(text)
    except UriError:
        return
    assert not path.startswith("/")
    assert ".." not in path.split("/")
    assert "\x00" not in path
    assert clean_path(path) == path if path else True


@given(
    st.lists(
        st.sampled_from(["azureml:", "//", "datastores", "/", "paths", "..", "%2e", "d", "jobs", "@", ":"])
    )
)
def test_any_mixture_is_read_or_a_uri_error(parts: list[str]) -> None:
    try:
        parsed = parse("".join(parts))
    except UriError:
        return
    assert parse(str(parsed)) == parsed
