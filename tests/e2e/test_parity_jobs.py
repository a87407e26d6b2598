"""Jobs by the SDK, beyond test_command_jobs: update, archive, validate, and how each operation fails."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import wait_for


def make(**more: Any) -> Any:
    from azure.ai.ml import command

    return command(**{"command": "true", "environment": "azureml:host:1", "compute": "cpu-cluster", **more})


@pytest.fixture(scope="module")
def ended(ml_client: Any) -> Any:
    """A job that has failed, saying why on its way."""
    made = make(command="echo the reason; exit 3", tags={"a": "b", "kept": "yes"}, display_name="before")
    name = ml_client.jobs.create_or_update(made).name
    wait_for(lambda: ml_client.jobs.get(name).status == "Failed", 60, "the end")
    return ml_client.jobs.get(name)


def test_update(ml_client: Any, ended: Any) -> None:
    answer = ml_client.jobs.update(
        ended.name, display_name="after", description="told", tags={"a": "c"}, properties={"p": "q"}
    )
    for job in (answer, ml_client.jobs.get(ended.name)):
        assert (job.display_name, job.description) == ("after", "told")
        assert (job.tags["a"], job.tags["kept"], job.properties["p"]) == ("c", "yes", "q")
    assert [j.tags["a"] for j in ml_client.jobs.list() if j.name == ended.name] == ["c"]


def test_updates_that_are_refused(ml_client: Any, ended: Any) -> None:
    from azure.ai.ml.exceptions import UserErrorException
    from azure.core.exceptions import HttpResponseError, ResourceNotFoundError

    with pytest.raises(HttpResponseError) as caught:
        ml_client.jobs.update(ended.name, display_name="x" * 300)
    assert caught.value.status_code == 400 and "displayName" in caught.value.message
    with pytest.raises(ResourceNotFoundError, match="never-made"):
        ml_client.jobs.update("never-made", display_name="x")
    with pytest.raises(UserErrorException):
        ml_client.jobs.update(ended.name)
    assert ml_client.jobs.get(ended.name).display_name != "x" * 300


def test_archive_and_restore(ml_client: Any, ended: Any) -> None:
    from azure.ai.ml.constants import ListViewType

    def names(view: Any) -> list[str]:
        return [job.name for job in ml_client.jobs.list(list_view_type=view) if job.name == ended.name]

    ml_client.jobs.archive(ended.name)
    assert (names(ListViewType.ACTIVE_ONLY), names(ListViewType.ARCHIVED_ONLY)) == ([], [ended.name])
    ml_client.jobs.restore(ended.name)
    assert (names(ListViewType.ACTIVE_ONLY), names(ListViewType.ARCHIVED_ONLY)) == ([ended.name], [])


CALLS: dict[str, Callable[[Any, Path], Any]] = {
    "archive": lambda c, folder: c.jobs.archive("never-made"),
    "begin_cancel": lambda c, folder: c.jobs.begin_cancel("never-made").result(),
    "begin_delete": lambda c, folder: c.jobs.begin_delete("never-made").result(),
    "download": lambda c, folder: c.jobs.download("never-made", download_path=str(folder)),
    "get": lambda c, folder: c.jobs.get("never-made"),
    "restore": lambda c, folder: c.jobs.restore("never-made"),
    "show_services": lambda c, folder: c.jobs.show_services("never-made"),
    "stream": lambda c, folder: c.jobs.stream("never-made"),
}


@pytest.mark.parametrize("verb", CALLS)
def test_a_job_that_was_never_made(ml_client: Any, tmp_path: Path, verb: str) -> None:
    from azure.core.exceptions import ResourceNotFoundError

    with pytest.raises(ResourceNotFoundError, match="never-made") as caught:
        CALLS[verb](ml_client, tmp_path)
    assert caught.value.error.code == "ResourceNotFound"
    assert list(tmp_path.iterdir()) == []


def test_a_job_is_not_deleted(ml_client: Any, ended: Any) -> None:
    from azure.core.exceptions import HttpResponseError

    with pytest.raises(HttpResponseError, match="cannot be deleted") as caught:
        ml_client.jobs.begin_delete(ended.name).result()
    assert (caught.value.status_code, caught.value.error.code) == (409, "JobDeletionNotSupported")
    assert ml_client.jobs.get(ended.name).status == "Failed"


def test_the_stream_of_a_failed_job_ends_in_its_error(ml_client: Any, ended: Any) -> None:
    from azure.ai.ml.exceptions import JobException

    with pytest.raises(JobException, match="exit code 3"):
        ml_client.jobs.stream(ended.name)


def test_the_logs_of_a_failed_job_are_downloaded(ml_client: Any, ended: Any, tmp_path: Path) -> None:
    ml_client.jobs.download(ended.name, download_path=str(tmp_path))
    assert "the reason" in (tmp_path / "artifacts" / "user_logs" / "std_log.txt").read_text()


def test_validate_asks_for_the_compute(ml_client: Any) -> None:
    from azure.ai.ml import dsl
    from azure.ai.ml.entities import AmlCompute, ValidationResult
    from azure.ai.ml.exceptions import ValidationException

    @dsl.pipeline(compute="soon-made")
    def steps() -> None:
        make(compute=None)()

    def errors() -> list[str]:
        result: ValidationResult = ml_client.jobs.validate(steps())
        return [message for message in result.error_messages.values() if "soon-made" in str(message)]

    assert len(errors()) == 1
    with pytest.raises(ValidationException, match="soon-made"):
        ml_client.jobs.validate(steps(), raise_on_failure=True)
    ml_client.compute.begin_create_or_update(AmlCompute(name="soon-made", size="any")).result()
    assert errors() == []
    assert ml_client.jobs.validate(steps()).passed
