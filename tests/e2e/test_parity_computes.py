"""Computes by the SDK, beyond test_resources: attach, single sign-on, and how each operation fails."""

from __future__ import annotations

from typing import Any

import pytest


def test_a_kubernetes_cluster_is_attached_as_a_record(ml_client: Any) -> None:
    from azure.ai.ml.entities import KubernetesCompute

    cluster = "/subscriptions/s/resourceGroups/g/providers/Microsoft.ContainerService/managedClusters/k"
    ml_client.compute.begin_attach(
        KubernetesCompute(name="team-k8s", resource_id=cluster, namespace="training")
    ).result()
    found = ml_client.compute.get("team-k8s")
    assert (found.type, found.namespace, found.resource_id) == ("kubernetes", "training", cluster)
    assert "team-k8s" in [c.name for c in ml_client.compute.list(compute_type="kubernetes")]


def test_a_compute_of_another_type_is_not_attached(ml_client: Any) -> None:
    from azure.ai.ml.entities import VirtualMachineCompute, VirtualMachineSshSettings
    from azure.core.exceptions import HttpResponseError, ResourceNotFoundError

    machine = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/virtualMachines/v"
    with pytest.raises(
        HttpResponseError, match="A compute of type VirtualMachine is not there yet"
    ) as caught:
        ml_client.compute.begin_attach(
            VirtualMachineCompute(
                name="team-vm",
                resource_id=machine,
                ssh_settings=VirtualMachineSshSettings(admin_username="me"),
            )
        ).result()
    assert (caught.value.status_code, caught.value.error.code) == (501, "NotImplemented")
    with pytest.raises(ResourceNotFoundError):
        ml_client.compute.get("team-vm")


def test_a_cluster_with_a_wrong_scale_is_not_made(ml_client: Any) -> None:
    from azure.ai.ml.entities import AmlCompute
    from azure.core.exceptions import HttpResponseError, ResourceNotFoundError

    with pytest.raises(HttpResponseError, match="minNodeCount 3 is larger than maxNodeCount 2") as caught:
        ml_client.compute.begin_create_or_update(
            AmlCompute(name="backwards", min_instances=3, max_instances=2)
        ).result()
    assert (caught.value.status_code, caught.value.error.code) == (400, "InvalidScaleSettings")
    with pytest.raises(ResourceNotFoundError):
        ml_client.compute.get("backwards")


def test_single_sign_on_of_an_instance(ml_client: Any) -> None:
    from azure.ai.ml.entities import ComputeInstance
    from azure.core.exceptions import HttpResponseError

    ml_client.compute.begin_create_or_update(
        ComputeInstance(name="sso-notebook", size="STANDARD_DS3_V2", enable_sso=True)
    ).result()
    for wanted in (False, True):
        ml_client.compute.enable_sso(name="sso-notebook", enable_sso=wanted)
        assert ml_client.compute.get("sso-notebook").enable_sso is wanted
    with pytest.raises(HttpResponseError) as caught:
        ml_client.compute.enable_sso(name="cpu-cluster")
    assert caught.value.status_code == 409


@pytest.mark.parametrize("verb", ["begin_start", "begin_stop", "begin_restart"])
def test_only_instances_start_and_stop(ml_client: Any, verb: str) -> None:
    from azure.core.exceptions import HttpResponseError, ResourceNotFoundError

    calls = {
        "begin_start": lambda name: ml_client.compute.begin_start(name).result(),
        "begin_stop": lambda name: ml_client.compute.begin_stop(name).result(),
        "begin_restart": lambda name: ml_client.compute.begin_restart(name).result(),
    }
    with pytest.raises(HttpResponseError, match="only compute instances start and stop") as caught:
        calls[verb]("gpu-cluster")
    assert caught.value.status_code == 409
    with pytest.raises(ResourceNotFoundError, match="never-made"):
        calls[verb]("never-made")


def test_only_clusters_have_nodes(ml_client: Any) -> None:
    from azure.ai.ml.entities import ComputeInstance
    from azure.core.exceptions import HttpResponseError

    ml_client.compute.begin_create_or_update(ComputeInstance(name="no-nodes", size="any")).result()
    with pytest.raises(HttpResponseError, match="only those have nodes") as caught:
        list(ml_client.compute.list_nodes("no-nodes"))
    assert caught.value.status_code == 409


def test_sizes_and_usage_of_another_location(ml_client: Any) -> None:
    from azure.core.exceptions import ResourceNotFoundError

    with pytest.raises(ResourceNotFoundError, match="mars") as sizes:
        ml_client.compute.list_sizes(location="mars")
    with pytest.raises(ResourceNotFoundError, match="mars") as usage:
        list(ml_client.compute.list_usage(location="mars"))
    assert sizes.value.error.code == usage.value.error.code == "LocationNotFound"
