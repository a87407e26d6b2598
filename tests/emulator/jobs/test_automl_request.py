"""What an AutoML job asks for, and how it reaches the trainer: tasks, unknown keys, nodes, settings."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from amlocal.emulator.arm import documents
from amlocal.emulator.http.errors import AzureError
from amlocal.emulator.jobs.computes import Limits
from amlocal.emulator.jobs.runners import automl_request
from amlocal.emulator.jobs.slots import Slots
from amlocal.emulator.jobs.states import JobState

D = "taskDetails"
S = f"{D}.modelSettings"


def run(desk: Any, helpers: Any, **changes: Any) -> dict[str, Any]:
    """The spec of a job that ran to its end."""
    desk.engine.on_submit = helpers.train
    service = desk.service()
    service.submit(desk.workspace, "job1", desk.body(**changes))
    service.wait_idle()
    assert desk.record("job1").state == "Completed", desk.record("job1").error
    spec: dict[str, Any] = json.loads((desk.job_dir("job1_HD_0") / "spec.json").read_text())
    return spec


def log(desk: Any) -> str:
    text: str = (desk.artifacts("job1_HD_0") / "user_logs/std_log.txt").read_text()
    return text


def test_a_multilabel_job(desk: Any, helpers: Any) -> None:
    desk.data(labels=(["can"], ["can", "milk"], []), column="what is in it")
    changes = {f"{D}.taskType": "ImageClassificationMultilabel", f"{D}.primaryMetric": None}
    spec = run(desk, helpers, **changes, **{f"{D}.targetColumnName": "what is in it", f"{S}.modelName": None})
    assert (spec["task"], spec["primary_metric"]) == ("image-classification-multilabel", "iou")
    assert spec["parameters"] == {"model_name": "vitb16r224", "number_of_epochs": 2}
    rows = [json.loads(line) for line in (desk.job_dir("job1") / "train_manifest.jsonl").open()]
    assert [row["label"] for row in rows[:4]] == [["can"], ["can", "milk"], [], ["can"]]
    settings = json.loads(desk.record("job1").properties["AMLSettingsJsonString"])
    assert settings["task_type"] == "image-classification-multilabel" and settings["primary_metric"] == "iou"
    assert settings["label_column_name"] == "what is in it"
    metric = json.loads(desk.record("job1_HD").properties["primary_metric_config"])
    assert metric == {"name": "iou", "goal": "maximize"}


def test_lists_of_labels_need_the_multilabel_task(desk: Any) -> None:
    desk.data(labels=(["can"], ["can", "milk"]))
    service = desk.service(start=False)
    with pytest.raises(AzureError, match="multi-label"):
        service.submit(desk.workspace, "job1", desk.body())
    service.submit(desk.workspace, "job1", desk.body(**{f"{D}.taskType": "imageclassificationMULTILABEL"}))


def test_a_share_for_validation_is_handed_on(desk: Any, helpers: Any) -> None:
    spec = run(desk, helpers, **{f"{D}.validationDataSize": 0.25})
    assert spec["validation_data_size"] == 0.25 and spec["validation_manifest"] is None
    assert not (desk.job_dir("job1") / "validation_manifest.jsonl").exists()


def test_unknown_keys_are_kept_and_told_and_change_nothing(desk: Any, helpers: Any) -> None:
    settings = '{"pretrained": false, "stream_image_file": true, "apply_mosaic_for_yolo": false}'
    changes = {
        f"{S}.learningrate": 0.1,
        f"{S}.nothing": None,
        f"{S}.advancedSettings": settings,
        f"{D}.limitSettings.trialTimeout": "PT1H",
        f"{D}.enableModelExplainability": True,
        f"{S}.a\nb": 1,
    }
    spec = run(desk, helpers, **changes)
    assert spec["ignored"] == [
        "'modelSettings.learningrate' (did you mean learningRate?)",
        "'modelSettings.a\\nb'",
        "'modelSettings.advancedSettings.stream_image_file' (did you mean stream_image_files?)",
        "'modelSettings.advancedSettings.apply_mosaic_for_yolo'",
        "'limitSettings.trialTimeout'",
        "'enableModelExplainability'",
    ]
    assert spec["parameters"] == {"model_name": "resnet18", "number_of_epochs": 2}
    assert desk.record("job1").body == desk.body(**changes)
    assert desk.record("job1").tags["amlocal.ignored"].startswith("modelSettings.learningrate, ")


def test_very_many_unknown_keys_are_counted(desk: Any, helpers: Any) -> None:
    keys = {f"{S}.{'k' * 300}{number}": number for number in range(2000)}
    spec = run(desk, helpers, **keys)
    assert len(spec["ignored"]) == 21 and spec["ignored"][-1] == "each of 1980 more keys"
    assert sum(map(len, spec["ignored"])) < 3000
    tag = desk.record("job1").tags["amlocal.ignored"]
    assert len(tag) < 3000 and tag.endswith(" and 1980 more")


def test_a_job_without_unknown_keys_has_no_such_tag(desk: Any, helpers: Any) -> None:
    assert run(desk, helpers)["ignored"] == []
    assert "amlocal.ignored" not in desk.record("job1").tags


def test_advanced_settings_that_are_no_json_are_ignored_and_told(desk: Any, helpers: Any) -> None:
    (desk.root / "weights").mkdir(mode=0o700)
    (desk.root / "weights/resnet18.safetensors").write_bytes(b"weights")
    spec = run(desk, helpers, **{f"{S}.advancedSettings": "{'pretrained': False}"})
    assert spec["advanced_settings"] == {}
    assert "advanced_settings is ignored: it is not JSON" in log(desk)


def test_the_settings_reach_the_trainer(desk: Any, helpers: Any) -> None:
    desk.settings = dataclasses.replace(desk.settings, cache_max_gb=0.5, missing_weights="random")
    given = {"stream_image_files": True, "apply_automl_train_augmentations": False, "precision": "fp32"}
    settings = json.dumps({"pretrained": False, **given})
    spec = run(desk, helpers, **{f"{S}.advancedSettings": settings})
    assert spec["cache_max_gb"] == 0.5 and spec["missing_weights"] == "random"
    assert spec["advanced_settings"] == json.loads(settings) and spec["ignored"] == []


@pytest.mark.parametrize(
    ("given", "expected"),
    [("Info", "Info"), ("NotSet", "NotSet"), ("not_set", "NotSet"), ("CRITICAL", "Critical"), (None, "Info")],
)
def test_the_level_of_the_log(desk: Any, given: str | None, expected: str) -> None:
    assert automl_request.read(desk.body(**{f"{D}.logVerbosity": given})).log_verbosity == expected


@pytest.mark.parametrize(
    ("changes", "nodes"),
    [
        ({}, 1),
        ({"properties": {"node_count_per_trial": 2}}, 2),
        ({"properties": {"node_count_per_trial": "2"}}, 2),
        ({"properties": {"node_count_per_trial": " 1000 "}}, 1000),
        ({"properties": {"node_count_per_trial": None}}, 1),
        ({"resources": {"instanceCount": 3}}, 3),
        ({"resources": {"instance_count": 3}}, 3),
        ({"resources": {"instanceCount": 3}, "properties": {"node_count_per_trial": "2"}}, 2),
        ({"resources": None}, 1),
    ],
)
def test_nodes(desk: Any, changes: dict[str, Any], nodes: int) -> None:
    assert automl_request.read(desk.body(**changes)).nodes == nodes


def test_nodes_reach_the_trainer_and_the_queue(desk: Any, helpers: Any) -> None:
    spec = run(desk, helpers, properties={"node_count_per_trial": 2})
    assert spec["node_count"] == 2
    assert desk.record("job1").properties["node_count_per_trial"] == "2"
    trial = desk.record("job1_HD_0")
    assert trial.body["resources"] == {"instanceCount": 2}
    waiting = dataclasses.replace(trial, state=JobState.QUEUED)
    key, place = (trial.workspace_id, trial.name), (trial.workspace_id, trial.compute)
    for most, started in ((2, True), (1, False)):
        turns = Slots().turns([waiting], {key: 2}, {key: 1}, {place: Limits(nodes=most, most=most)})
        assert bool(turns.next) is started


@pytest.mark.parametrize(
    ("distributed", "slots", "expected"),
    [(None, 1, "01"), (True, 1, "01"), (True, 2, "0"), (False, 1, "0")],
)
def test_a_distributed_trial_gets_its_share_of_the_gpus(
    desk: Any, helpers: Any, distributed: bool | None, slots: int, expected: str
) -> None:
    run(desk, helpers, **{f"{S}.distributed": distributed})
    trial = dataclasses.replace(desk.record("job1_HD_0"), state=JobState.QUEUED)
    key, place = (trial.workspace_id, trial.name), (trial.workspace_id, trial.compute)
    host = Slots(training=slots, devices=("0", "1"))
    found = host.turns([trial], {key: 2}, {key: 1}, {place: Limits(gpu=True)})
    assert found.devices == {key: tuple(expected)}


def test_more_nodes_than_the_cluster_has_are_refused(desk: Any) -> None:
    scale = {"scaleSettings": {"maxNodeCount": 2}}
    stored = {"properties": {"computeType": "AmlCompute", "properties": scale}}
    desk.store.write(lambda c: documents.put(c, desk.workspace.id, "computes", "small", "", stored))
    service = desk.service(start=False)
    for changes, field in (
        ({"properties": {"node_count_per_trial": "3"}}, "properties.node_count_per_trial"),
        ({"resources": {"instanceCount": 3}}, "resources.instance_count"),
    ):
        with pytest.raises(AzureError) as caught:
            service.submit(desk.workspace, "job1", desk.body(computeId="small", **changes))
        assert caught.value.status == 400
        assert f"{field} is 3 and compute small has at most 2 nodes" in caught.value.message
    assert service.submit(
        desk.workspace, "job1", desk.body(computeId="small", properties={"node_count_per_trial": "2"})
    )[1]
